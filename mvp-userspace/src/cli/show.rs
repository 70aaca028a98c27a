//! The documents of the admin port as text for people.

use std::fmt::Write;

use crate::admin::{ClassProofView, ProofView, RelayView, ServerView, StatusView};
use crate::text::table::{age, clean, columns, table};

pub(super) fn status(view: &StatusView, wide: bool) -> String {
    let state = match (view.ready, view.awaiting.is_empty(), view.drain.as_str()) {
        (true, ..) => "ready".to_owned(),
        (_, _, drain) if drain != "running" => drain.to_owned(),
        _ => format!("not ready, awaiting {}", view.awaiting.join(", ")),
    };
    let mode = if view.interoperability_proxy {
        "requests go to a server that serves them"
    } else {
        "off by feature gate, everything is answered locally"
    };
    // The first line answers the first question: what happens to new connections.
    let mut out = format!("{}\n", clean(&view.stance.line));
    for (name, value) in [
        ("node", view.node.clone()),
        (
            "agent",
            format!("{}, up {}", view.version, age(view.uptime_ms)),
        ),
        ("state", state),
        ("proxy", mode.to_owned()),
        ("listen", view.listen.clone()),
        ("guard", view.guard.line()),
        ("cluster", view.cluster.clone()),
        ("kernel", view.kernel.clone()),
        ("retire", retire_line(view)),
        ("through", view.pass_through.clone()),
        ("short", view.shortcut.clone()),
        ("events", view.events.clone()),
        ("members", view.membership.clone()),
        ("rights", view.members.clone()),
        ("follows", view.manifest.clone()),
        ("relay", relay(&view.relay)),
        ("config", view.config_digest.clone()),
        (
            "open",
            format!(
                "{} connections, {} requests, {} upgrades",
                view.connections, view.streams, view.upgrades
            ),
        ),
    ] {
        let _ = writeln!(out, "{name:8}{}", clean(&value));
    }
    let threads: Vec<_> = view
        .threads
        .iter()
        .map(|t| [t.name.clone(), t.connections.to_string(), age(t.silent_ms)])
        .collect();
    let certificates: Vec<_> = view
        .certificates
        .iter()
        .map(|c| {
            let error = c.last_error.clone().unwrap_or_default();
            [
                c.file.clone(),
                c.key.clone(),
                c.expires_in_seconds.map_or_else(|| "-".to_owned(), expiry),
                error,
            ]
        })
        .collect();
    if !threads.is_empty() {
        let _ = write!(
            out,
            "\n{}",
            table(["THREAD", "CONNECTIONS", "SILENT"], &threads)
        );
    }
    if !certificates.is_empty() {
        let heading = ["FILE", "KEY", "EXPIRES", "ERROR"];
        let _ = write!(out, "\n{}", table(heading, &certificates));
    }
    if !view.servers.is_empty() {
        let _ = write!(out, "\n{}", servers(&view.servers, wide));
    }
    out
}

/// Whether connections from before the guard armed can be ended, and how far their retirement is.
fn retire_line(view: &StatusView) -> String {
    match view.retirement.retiring {
        true => view.retirement.line(),
        false => view.retiring.clone(),
    }
}

/// `mvp retire`: connections that clients made with kube-apiserver itself before the agent took them.
pub(super) fn retirement(view: &StatusView) -> String {
    let retirement = &view.retirement;
    let mut out = format!("{}\n", clean(&retirement.line()));
    if !retirement.retiring {
        let _ = writeln!(out, "{}", clean(&view.retiring));
    }
    let clients: Vec<_> = retirement
        .clients
        .iter()
        .map(|(client, count)| [client.clone(), count.to_string()])
        .collect();
    if !clients.is_empty() {
        let _ = write!(out, "\n{}", table(["CLIENT", "CONNECTIONS"], &clients));
    }
    out
}

fn relay(view: &RelayView) -> String {
    let open: Vec<_> = view
        .open
        .iter()
        .map(|(name, n)| format!("{n} to {name}"))
        .collect();
    let open = match open.is_empty() {
        true => "none open".to_owned(),
        false => open.join(", "),
    };
    let bulk = match view.bulk == view.mode || view.bulk.is_empty() {
        true => String::new(),
        false => format!(", bulk by {}", view.bulk),
    };
    format!(
        "{open}; {} clients; {}{bulk} ({})",
        view.clients, view.mode, view.why
    )
}

/// `wide`: also what was proved for each identity class, and whether the server's header names are known.
pub(super) fn servers(servers: &[ServerView], wide: bool) -> String {
    let yes = |truth: bool| if truth { "yes" } else { "no" }.to_owned();
    let mut heading = vec![
        "NAME",
        "ROLE",
        "URL",
        "VERSION",
        "READY",
        "AVAILABLE",
        "PROVED",
        "KNOWLEDGE",
        "AGE",
        "SOURCE",
        "KEYS",
        "OUTSTANDING",
    ];
    if wide {
        heading.extend(["USERS", "TOKENS", "HEADER NAMES"]);
    }
    heading.push("LAST ERROR");
    let heading: Vec<String> = heading.into_iter().map(str::to_owned).collect();
    let rows: Vec<_> = servers
        .iter()
        .map(|s| {
            let mut row = vec![
                s.name.clone(),
                if s.local { "local" } else { "peer" }.to_owned(),
                s.url.clone(),
                s.version.clone().unwrap_or_else(|| "-".to_owned()),
                match s.stopping {
                    true => "stopping".to_owned(),
                    false => yes(s.ready),
                },
                yes(s.available),
                proved(&s.proof),
                s.knowledge.clone(),
                s.age_ms.map_or_else(|| "-".to_owned(), age),
                s.source.clone(),
                s.keys.to_string(),
                s.outstanding.to_string(),
            ];
            if wide {
                row.push(class(&s.proof.asserted_users));
                row.push(class(&s.proof.tokens));
                row.push(s.proof.header_names.clone());
            }
            row.push(s.last_error.clone().unwrap_or_default());
            row
        })
        .collect();
    columns(&heading, &rows)
}

/// `yes`, or the reason why not.
fn class(proof: &ClassProofView) -> String {
    match (proof.proved, &proof.why) {
        (true, _) => "yes".to_owned(),
        (false, Some(why)) => format!("no: {why}"),
        (false, None) => "no".to_owned(),
    }
}

/// `yes, 12s ago`: the outcome for asserted users and tokens, and its age.
fn proved(proof: &ProofView) -> String {
    match proof.asserted_users.age_ms.or(proof.tokens.age_ms) {
        Some(ms) => format!("{}, {} ago", proof.word(), age(ms)),
        None => proof.word().to_owned(),
    }
}

fn expiry(seconds: i64) -> String {
    let span = age(seconds.unsigned_abs().saturating_mul(1000));
    if seconds < 0 {
        format!("{span} ago")
    } else {
        format!("in {span}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{CertificateView, ThreadView};

    fn servers_view() -> Vec<ServerView> {
        vec![
            ServerView {
                name: "cp-a".into(),
                url: "https://127.0.0.2:6443".into(),
                local: true,
                version: Some("v1.35.6".into()),
                ready: true,
                stopping: false,
                available: true,
                knowledge: "fresh".into(),
                age_ms: Some(350),
                source: "v2".into(),
                keys: 412,
                outstanding: 7,
                proof: ProofView {
                    asserted_users: ClassProofView {
                        proved: true,
                        age_ms: Some(12_000),
                        why: None,
                    },
                    tokens: ClassProofView {
                        proved: true,
                        ..Default::default()
                    },
                    header_names: "known".into(),
                },
                last_error: None,
            },
            ServerView {
                name: "cp-b".into(),
                url: "https://127.0.0.3:6443".into(),
                stopping: true,
                knowledge: "none".into(),
                last_error: Some("connection refused\u{7}".into()),
                ..ServerView::default()
            },
        ]
    }

    #[test]
    fn servers_as_a_table() {
        assert_eq!(
            servers(&servers_view(), false),
            "\
NAME  ROLE   URL                     VERSION  READY     AVAILABLE  PROVED        KNOWLEDGE  AGE    SOURCE  KEYS  OUTSTANDING  LAST ERROR
cp-a  local  https://127.0.0.2:6443  v1.35.6  yes       yes        yes, 12s ago  fresh      350ms  v2      412   7
cp-b  peer   https://127.0.0.3:6443  -        stopping  no         no            none       -              0     0            connection refused?
"
        );
    }

    #[test]
    fn servers_as_a_wide_table() {
        let mut view = servers_view();
        view[1].proof.asserted_users.why = Some("it answers 401".into());
        view[1].proof.header_names = "unknown".into();
        let wide = servers(&view, true);
        let rows: Vec<Vec<&str>> = wide
            .lines()
            .map(|line| {
                line.split("  ")
                    .filter(|cell| !cell.is_empty())
                    .map(str::trim)
                    .collect()
            })
            .collect();
        assert_eq!(
            rows[0][12..],
            ["USERS", "TOKENS", "HEADER NAMES", "LAST ERROR"]
        );
        assert_eq!(rows[1][12..], ["yes", "yes", "known"]);
        let peer = ["no: it answers 401", "no", "unknown", "connection refused?"];
        assert!(rows[2].ends_with(&peer), "{wide}");
    }

    #[test]
    fn status_as_text() {
        let mut view = StatusView {
            node: "cp-a".into(),
            version: "0.1.0".into(),
            uptime_ms: 200_000,
            ready: true,
            drain: "running".into(),
            stance: crate::admin::StanceView {
                word: "inspecting".into(),
                reasons: Vec::new(),
                line: "inspecting (sets_differ)".into(),
            },
            guard: crate::steering::GuardView {
                state: "armed".into(),
                reasons: vec!["steering_off".into()],
                standing: vec!["steering_off".into()],
                ..Default::default()
            },
            cluster: "signs are not shared".into(),
            kernel: "userspace only".into(),
            retiring: "off: nothing is steered".into(),
            pass_through: "off: the guard is armed".into(),
            shortcut: "off: kernel.shortcut is off".into(),
            events: "watching".into(),
            members: "of the configuration".into(),
            membership: "2 servers (peers.static)".into(),
            manifest: "followed".into(),
            listen: "127.0.0.12:6443".into(),
            interoperability_proxy: true,
            config_digest: "0123456789abcdef".into(),
            connections: 3,
            streams: 12,
            upgrades: 1,
            relay: RelayView {
                open: [("cp-b".to_owned(), 2)].into(),
                clients: 7,
                mode: "sockmap".into(),
                bulk: "copy".into(),
                why: "measured".into(),
            },
            threads: vec![ThreadView {
                name: "data-0".into(),
                connections: 3,
                silent_ms: 4,
            }],
            certificates: vec![CertificateView {
                file: "/pki/apiserver.crt".into(),
                key: "serving.certFile".into(),
                expires_in_seconds: Some(-7200),
                last_error: Some("key does not match".into()),
                reloads: 0,
            }],
            ..StatusView::default()
        };
        assert_eq!(
            status(&view, false),
            "\
inspecting (sets_differ)
node    cp-a
agent   0.1.0, up 3m20s
state   ready
proxy   requests go to a server that serves them
listen  127.0.0.12:6443
guard   nothing is steered; signs: steering_off
cluster signs are not shared
kernel  userspace only
retire  off: nothing is steered
through off: the guard is armed
short   off: kernel.shortcut is off
events  watching
members 2 servers (peers.static)
rights  of the configuration
follows followed
relay   2 to cp-b; 7 clients; sockmap, bulk by copy (measured)
config  0123456789abcdef
open    3 connections, 12 requests, 1 upgrades

THREAD  CONNECTIONS  SILENT
data-0  3            4ms

FILE                KEY               EXPIRES   ERROR
/pki/apiserver.crt  serving.certFile  2h0m ago  key does not match
"
        );
        view.ready = false;
        view.awaiting = vec!["listener".into()];
        assert!(status(&view, false).contains("state   not ready, awaiting listener\n"));
        view.drain = "draining".into();
        assert!(status(&view, false).contains("state   draining\n"));
    }
}
