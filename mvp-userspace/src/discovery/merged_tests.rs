use super::*;
use crate::discovery::roots::RootDocument;
use crate::route::testing::server;

fn document(groups: serde_json::Value) -> Arc<Document> {
    let items: Vec<_> = groups
        .as_object()
        .unwrap()
        .iter()
        .map(|(group, versions)| {
            let versions: Vec<_> = versions
                .as_object()
                .unwrap()
                .iter()
                .map(|(version, resources)| {
                    let resource = |name: &serde_json::Value| {
                        serde_json::json!({
                            "resource": name, "scope": "Cluster", "singularResource": "", "verbs": ["get"],
                            "responseKind": {"group": "", "version": "", "kind": "K"},
                        })
                    };
                    let resources: Vec<_> = resources.as_array().unwrap().iter().map(resource).collect();
                    serde_json::json!({"version": version, "freshness": "Current", "resources": resources})
                })
                .collect();
            serde_json::json!({"metadata": {"name": group}, "versions": versions})
        })
        .collect();
    let list = serde_json::json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    });
    Arc::new(Document::aggregated(list.to_string().as_bytes(), Root::Groups).unwrap())
}

fn told(name: &str, document: &Arc<Document>, version: &str) -> ServerReport {
    ServerReport {
        server: server(name, false),
        documents: Documents {
            groups: RootDocument {
                document: Arc::clone(document),
                source: Some(DiscoveryForm::V2),
                etag: Some(HeaderValue::try_from(format!("\"{name}\"")).unwrap()),
                body: None,
            },
            ..Documents::default()
        },
        alive: true,
        current: true,
        confirmed: Instant::now(),
        version: Some(version.to_owned()),
    }
}

fn build(told: &[ServerReport]) -> View {
    View::build(told, &Dropped::default(), &Priorities::default())
}

#[test]
fn servers_that_agree_answer_for_themselves() {
    let a = document(serde_json::json!({"a.example": {"v1": ["x"]}}));
    let same = document(serde_json::json!({"a.example": {"v1": ["x"]}}));
    assert!(!build(&[]).differs());
    assert!(!build(&[told("cp-a", &a, "v1.35.0")]).differs());
    let view = build(&[told("cp-a", &a, "v1.35.0"), told("cp-b", &same, "v1.36.0")]);
    assert!(!view.differs() && view.root(Root::Groups).merged.is_none());
}

#[test]
fn what_differs_is_said_by_group_and_version() {
    let a = document(serde_json::json!({"a.example": {"v1": ["x"]}, "b.example": {"v1": ["y"]}}));
    let b = document(serde_json::json!({
        "a.example": {"v1": ["x", "z"], "v2": ["x"]}, "b.example": {"v1": ["y"]}, "c.example": {"v1": ["w"]},
    }));
    let (a, b) = (told("cp-a", &a, "v1.35.2"), told("cp-b", &b, "v1.36.0"));
    let view = build(&[a.clone(), b.clone()]);
    let merged = view.root_of("a.example").merged.as_ref().unwrap();
    assert!(merged.differs_in_group("a.example"));
    assert!(!merged.differs_in_group("b.example") && !merged.differs_in_group("c.example"));
    assert!(merged.differs_in("a.example", "v1"));
    for (group, version) in [
        ("a.example", "v2"),
        ("b.example", "v1"),
        ("c.example", "v1"),
    ] {
        assert!(
            !merged.differs_in(group, version),
            "{group}/{version}: who has it has all of it"
        );
    }
    assert!(
        view.root_of("").merged.is_none(),
        "the core group is another root's"
    );
    // The same on every agent, whatever it calls the servers and in whichever order it knows them.
    let other = build(&[b.clone(), a.clone()]);
    assert_eq!(
        other.root(Root::Groups).merged.as_ref().unwrap().etag,
        merged.etag
    );
    let names: Vec<_> = view.newest().iter().map(|s| s.name.to_string()).collect();
    assert_eq!(names, ["cp-b"]);
    let root = view.root(Root::Groups);
    assert_eq!(
        root.etag_of(&a.server, DiscoveryForm::V2).unwrap(),
        "\"cp-a\""
    );
    assert_eq!(root.etag_of(&a.server, DiscoveryForm::V2beta1), None);
}

#[test]
fn the_local_server_s_own_document_is_there_while_all_agree() {
    let report = |name: &str, local: bool, document: &Arc<Document>, body: &[u8]| {
        let mut report = told(name, document, "v1.36.0");
        report.server = server(name, local);
        report.documents.groups.body = Some(Bytes::copy_from_slice(body));
        report
    };
    let a = document(serde_json::json!({"a.example": {"v1": ["x"]}}));
    let b = document(serde_json::json!({"a.example": {"v1": ["z"]}}));
    let own = |reports: &[ServerReport]| build(reports).root(Root::Groups).own.clone();
    let (local, peer) = (
        report("cp-a", true, &a, b"local"),
        report("cp-b", false, &a, b"peer"),
    );
    let kept = own(&[peer.clone(), local.clone()]).unwrap();
    assert_eq!(kept.etag, "\"cp-a\"");
    assert_eq!(kept.encoded(true), (Bytes::from_static(b"local"), false));
    let other = report("cp-b", false, &b, b"other");
    assert!(own(&[other, local.clone()]).is_none(), "they differ");
    assert!(
        own(std::slice::from_ref(&peer)).is_none(),
        "no local server"
    );
    let gone = ServerReport {
        alive: false,
        ..local
    };
    assert!(own(&[peer, gone]).is_none(), "it cannot confirm anything");
    let large = report("cp-a", true, &a, &vec![b'x'; GZIP_ABOVE + 1]);
    let kept = own(&[large]).unwrap();
    let (plain, compressed) = (kept.encoded(false), kept.encoded(true));
    assert_eq!((plain.0.len(), plain.1), (GZIP_ABOVE + 1, false));
    assert!(compressed.1 && compressed.0.len() < GZIP_ABOVE / 10);
}

#[test]
fn encodings_are_made_once() {
    let a = document(serde_json::json!({"a.example": {"v1": ["x"]}}));
    let b = document(serde_json::json!({"a.example": {"v1": ["z"]}}));
    let view = build(&[told("cp-a", &a, ""), told("cp-b", &b, "")]);
    let merged = view.root(Root::Groups).merged.as_ref().unwrap();
    let encoding = Encoding {
        form: Form::V2,
        media: Media::Json,
        gzip: false,
    };
    let first = merged.encoded(encoding);
    assert_eq!(first.as_ptr(), merged.encoded(encoding).as_ptr());
    let gzipped = merged.encoded(Encoding {
        gzip: true,
        ..encoding
    });
    assert!(gzipped.starts_with(&[0x1f, 0x8b]) && gzipped.len() < first.len());
    assert!(view.newest().is_empty());
}

#[tokio::test]
async fn the_dead_are_shown_as_stale_for_a_while_and_bring_nothing_back() {
    let views = Arc::new(Views::new(Duration::from_secs(600)));
    let running = tokio::spawn(Arc::clone(&views).run());
    let all = document(serde_json::json!({"a.example": {"v1": ["x"]}, "b.example": {"v1": ["y"]}}));
    let less = document(serde_json::json!({"b.example": {"v1": ["y"]}}));
    let (a, b) = (told("cp-a", &all, "v1.36.0"), told("cp-b", &all, "v1.36.0"));
    let start = Instant::now();
    let dead = ServerReport {
        alive: false,
        current: false,
        confirmed: start - Duration::from_secs(1),
        ..a.clone()
    };
    let left = ServerReport {
        documents: told("cp-b", &less, "").documents,
        ..b.clone()
    };
    views.want([dead.clone(), left.clone()].into_iter(), start);
    views.settled().await;
    let view = views.cell.load_full();
    let document = &view.root(Root::Groups).merged.as_ref().unwrap().document;
    assert_eq!(
        document.version("a.example", "v1").unwrap().freshness,
        Freshness::Stale
    );
    assert_eq!(
        document.version("b.example", "v1").unwrap().freshness,
        Freshness::Current
    );
    assert_eq!(views.merges(), 1);

    // The same once more: nothing is built.
    views.want([dead.clone(), left.clone()].into_iter(), start);
    views.settled().await;
    assert!(Arc::ptr_eq(&views.cell.load_full(), &view));

    // Another server that had it says, as the same process, that it is gone.
    views.dropped(&b.documents, &left.documents);
    let b = ServerReport {
        confirmed: Instant::now(),
        ..left.clone()
    };
    let c = told("cp-c", &less, "v1.36.0");
    views.want([dead.clone(), b.clone(), c].into_iter(), Instant::now());
    views.settled().await;
    assert!(!views.cell.load().differs());

    // And knowledge of a server that is dead for long goes by itself.
    let other = document_of_one();
    let dead = ServerReport {
        documents: told("cp-a", &other, "").documents,
        ..dead
    };
    views.want(
        [dead.clone(), b.clone()].into_iter(),
        start + Duration::from_secs(598),
    );
    views.settled().await;
    assert!(views.cell.load().differs());
    views.want([dead, b].into_iter(), start + Duration::from_secs(600));
    views.settled().await;
    assert!(!views.cell.load().differs());
    running.abort();
}

fn document_of_one() -> Arc<Document> {
    document(serde_json::json!({"d.example": {"v1": ["q"]}}))
}

#[test]
fn what_a_restarting_server_alone_serves_stays_current() {
    let alone = document(serde_json::json!({"a.example": {"v1": ["things"]}}));
    let other = document(serde_json::json!({"b.example": {"v1": ["others"]}}));
    let view = |current| {
        let restarting = ServerReport {
            alive: false,
            current,
            ..told("a", &alone, "v1.36.3")
        };
        let told = [restarting, told("b", &other, "v1.35.6")];
        let view = View::build(&told, &Dropped::default(), &Priorities::default());
        let merged = view.groups.merged.unwrap();
        merged
            .document
            .version("a.example", "v1")
            .unwrap()
            .freshness
    };
    assert_eq!(view(true), Freshness::Current);
    assert_eq!(view(false), Freshness::Stale);
}
