//! Client certificates as operators make them: whoever a kube-apiserver takes them for, it takes them for through an agent.

use mvp_tests::agent::TestAgent;
use mvp_tests::fixtures::{CONFIG_MAPS, ONLY_36, admin, patient, plane, spec};
use mvp_tests::openssl;
use mvp_tests::pair::{Case, Pairs, Protocol};
use mvp_tests::sim::ControlPlane;
use mvp_tests::sim::api::authn::{HeaderNames, User};
use mvp_tests::sim::pki::{ClientAuth, Request};

/// Extensions of a client certificate, and whether it names a user.
const SHAPES: [(&str, Option<&str>, bool); 6] = [
    ("version 1", None, true),
    (
        "critical policies",
        Some("extendedKeyUsage=clientAuth\ncertificatePolicies=critical,1.3.6.1.4.1.57683.5\n"),
        true,
    ),
    (
        "a CA",
        Some("basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign,digitalSignature\n"),
        true,
    ),
    (
        "unknown and critical",
        Some("extendedKeyUsage=clientAuth\n1.2.3.4=critical,DER:0500\n"),
        false,
    ),
    ("for servers", Some("extendedKeyUsage=serverAuth\n"), false),
    (
        "usual",
        Some("extendedKeyUsage=clientAuth\nkeyUsage=digitalSignature\n"),
        true,
    ),
];

#[tokio::test]
async fn identity_decides_and_the_handshake_completes() {
    let plane = plane(&[36, 36]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", patient)
        .await
        .unwrap();
    let pairs = Pairs {
        plane: &plane,
        server: plane.server(0),
        agent: &agent,
    };
    let groups = vec!["system:masters".to_owned()];
    plane.add_token(
        "of-bob",
        User {
            name: "bob".into(),
            groups,
            ..User::default()
        },
    );
    for (shape, extensions, is_user) in SHAPES {
        let identity = openssl::issue(plane.pki(), "alice", "system:masters", extensions).unwrap();
        let auth = ClientAuth::Certificate(identity);
        for target in [CONFIG_MAPS, ONLY_36] {
            println!("{shape} {target}");
            let plain = Case::get(&auth, target);
            match is_user {
                true => pairs.same(&plain, 200, 1).await,
                false => pairs.refused(&plain, 401).await,
            }
            let token = Case::get(&auth, target).header("authorization", "Bearer of-bob");
            let name = if is_user { "alice" } else { "bob" };
            for protocol in Protocol::BOTH {
                let both = pairs.run(&token, protocol).await.unwrap();
                for outcome in [both.0, both.1] {
                    assert_eq!(outcome.status, 200, "{shape} over {protocol:?}");
                    let user = outcome.received[0].user.as_ref().unwrap();
                    assert_eq!(user.name, name, "{shape} over {protocol:?}");
                }
            }
        }
    }
}

/// A server takes a group with an empty name; no header can say it.
#[tokio::test]
async fn a_group_without_a_name_is_never_silently_lost() {
    let plane = plane(&[36]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", patient)
        .await
        .unwrap();
    let pairs = Pairs {
        plane: &plane,
        server: plane.server(0),
        agent: &agent,
    };
    let request = Request::new("alice", &["system:masters", ""]);
    let identity = plane.pki().issue(&request).unwrap();
    let case = Case::get(&ClientAuth::Certificate(identity), CONFIG_MAPS);
    for protocol in Protocol::BOTH {
        let (straight, through) = pairs.run(&case, protocol).await.unwrap();
        assert_eq!((straight.status, through.status), (200, 401));
        assert!(through.received.is_empty(), "whole or not at all");
    }
}

/// A uid of a certificate arrives, or its user is refused and the log says why. A release that does not read it has lost nothing.
#[tokio::test]
async fn a_uid_is_never_silently_lost() {
    let without = HeaderNames {
        uids: Vec::new(),
        ..HeaderNames::default()
    };
    for (minor, names, arrives) in [
        (36, HeaderNames::default(), Some("u-1")),
        (36, without.clone(), None),
        (33, without, Some("")),
    ] {
        let servers = [b'a', b'b'].map(|letter| spec(letter, minor).header_names(names.clone()));
        let plane = ControlPlane::builder()
            .servers(servers)
            .start()
            .await
            .unwrap();
        let agent = TestAgent::start_with(&plane, "cp-a", patient)
            .await
            .unwrap();
        let pairs = Pairs {
            plane: &plane,
            server: plane.server(0),
            agent: &agent,
        };
        let request = Request {
            uid: Some("u-1".into()),
            ..Request::new("alice", &["system:masters"])
        };
        let identity = plane.pki().issue(&request).unwrap();
        let case = Case::get(&ClientAuth::Certificate(identity), CONFIG_MAPS);
        match arrives {
            Some(uid) => {
                pairs.same(&case, 200, 1).await;
                let seen = pairs.run(&case, Protocol::Http2).await.unwrap().1;
                assert_eq!(
                    seen.received[0].user.as_ref().unwrap().uid,
                    uid,
                    "1.{minor}"
                );
            }
            None => {
                for protocol in Protocol::BOTH {
                    let (straight, through) = pairs.run(&case, protocol).await.unwrap();
                    assert_eq!((straight.status, through.status), (200, 401));
                    assert!(through.received.is_empty());
                }
                // Nobody else is refused.
                pairs
                    .same(&Case::get(&admin(&plane), CONFIG_MAPS), 200, 1)
                    .await;
            }
        }
    }
}
