//! The page in a real browser: that it shows what the agent says and follows it, on a small screen, in the dark, and with a keyboard; and
//! that whatever servers and clients are called stays text.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mvp::admin::{
    Admin, ClassProofView, ConnectionView, Door, ExplainView, Hosts, ProofView, ServerView,
    SkewCell, SkewRow, SkewServer, SkewState, SkewView, StanceView, StatusView, Views, serve,
};
use mvp::drain::Drain;
use mvp::history::{Event, HistoryView, Kind, Minute, Prevented, Report, TrafficView, unix_millis};
use mvp::readiness::PassingReasons;
use mvp::readiness::Readiness;
use mvp::steering::GuardView;
use mvp_tests::agent::TestAgent;
use mvp_tests::browser::Browser;
use mvp_tests::fixtures::{ONLY_36, SOON, client, patient, plane};
use serde_json::Value;
use tokio::net::TcpListener;

const READY: &str = "document.documentElement.dataset.ready === 'yes'";
const MINUTE: u64 = 60_000;

/// What an agent says that is on the way from the one version to the other. `named`: what everybody is called.
#[derive(Clone)]
struct Told {
    status: StatusView,
    skew: SkewView,
    history: HistoryView,
}

fn server(name: &str, version: &str, local: bool, available: bool) -> ServerView {
    let proved = ClassProofView {
        proved: true,
        ..ClassProofView::default()
    };
    ServerView {
        name: name.into(),
        version: Some(version.into()),
        local,
        available,
        ready: available,
        knowledge: "fresh".into(),
        age_ms: Some(600),
        keys: 900,
        proof: ProofView {
            asserted_users: proved.clone(),
            tokens: proved,
            ..ProofView::default()
        },
        ..ServerView::default()
    }
}

fn told(servers: [&str; 3], resources: &[&str], client: &str) -> Told {
    let now = unix_millis();
    let [a, b, c] = servers;
    let (old, new) = ("v1.35.6", "v1.36.3");
    let event = |minutes: u64, kind, subject: &str, detail: &str, value: &str| {
        Event::new(now - minutes * MINUTE, kind, subject, detail, value)
    };
    let cell = |state, missing: &[&str]| SkewCell {
        state,
        missing: missing.iter().map(|verb| (*verb).to_owned()).collect(),
    };
    let rows = resources.iter().enumerate().map(|(n, resource)| SkewRow {
        group: "resource.k8s.io".into(),
        version: "v1".into(),
        resource: (*resource).into(),
        subresource: String::new(),
        servers: BTreeMap::from([
            (a.into(), cell(SkewState::Lacks, &[])),
            (b.into(), cell(SkewState::Serves, &[])),
            (
                c.into(),
                match n % 2 {
                    0 => cell(SkewState::Partial, &["patch", "deletecollection"]),
                    _ => cell(SkewState::Serves, &[]),
                },
            ),
        ]),
    });
    let minutes = (2..40u64).map(|ago| Minute {
        minute: now / MINUTE - ago,
        requests: BTreeMap::from([
            ("local_serves".into(), 900),
            ("peer_serves".into(), 40 - ago),
        ]),
        forwarded: 2 * (40 - ago),
        prevented: vec![Prevented {
            reason: "peer_serves".into(),
            resource: "resource.k8s.io/v1/resourceclaims".into(),
            client: client.into(),
            count: 40 - ago,
        }],
        ..Minute::default()
    });
    let mut events = vec![
        event(58, Kind::AgentStarted, "", "version 0.1.0", "0.1.0"),
        event(58, Kind::ServerSeen, a, old, old),
        event(58, Kind::ServerSeen, b, old, old),
        event(58, Kind::ServerSeen, c, old, old),
        event(
            41,
            Kind::GuardArmed,
            "",
            "armed: manifest_changed",
            "manifest_changed",
        ),
        event(41, Kind::RetirementBegan, "", "12 of before are open", ""),
        event(40, Kind::ServerUnavailable, b, "connection refused", ""),
        event(40, Kind::RetirementEnded, "", "12 ended", ""),
        event(38, Kind::ServerVersion, b, "v1.35.6 -> v1.36.3", new),
        event(38, Kind::ServerAvailable, b, "", ""),
        event(22, Kind::ServerUnavailable, c, "connection refused", ""),
        event(19, Kind::ServerVersion, c, "v1.35.6 -> v1.36.3", new),
        event(19, Kind::ServerAvailable, c, "", ""),
        event(12, Kind::PassingBy, "", "passing by: full", "full"),
        event(
            11,
            Kind::TakesConnections,
            "",
            "inspecting (versions_differ)",
            "",
        ),
    ];
    events.sort_by_key(|event| event.at_ms);
    Told {
        status: StatusView {
            node: a.into(),
            version: "0.1.0".into(),
            ready: true,
            stance: StanceView {
                word: "inspecting".into(),
                line: "inspecting (sets_differ, versions_differ)".into(),
                ..StanceView::default()
            },
            guard: GuardView {
                state: "armed".into(),
                steers: true,
                reasons: vec!["sets_differ".into(), "versions_differ".into()],
                ..GuardView::default()
            },
            servers: vec![
                server(a, old, true, true),
                server(b, new, false, true),
                server(c, new, false, true),
            ],
            traffic: TrafficView {
                seconds: 10,
                per_second: BTreeMap::from([
                    ("local_serves".into(), 212.0),
                    ("peer_serves".into(), 3.4),
                ]),
                forwarded_per_second: 3.4,
                prevented_per_second: 1.7,
                noted: 15,
                ..TrafficView::default()
            },
            ..StatusView::default()
        },
        skew: SkewView {
            servers: [(a, old), (b, new), (c, new)]
                .map(|(name, version)| SkewServer {
                    name: name.into(),
                    version: Some(version.into()),
                    local: name == a,
                    newest: version == new,
                    knowledge: "fresh".into(),
                    ..SkewServer::default()
                })
                .to_vec(),
            rows: rows.collect(),
        },
        history: HistoryView {
            now_ms: now,
            since_ms: now - 24 * 60 * MINUTE,
            begins_ms: now - 58 * MINUTE,
            events,
            minutes: minutes.rev().collect(),
        },
    }
}

/// An admin port that says this.
async fn port(told: Told) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let Told {
        status,
        skew,
        history,
    } = told;
    let report = Report::of(&history, &history.events, &status.node);
    let servers = status.servers.clone();
    let views = Views {
        status: Box::new(move || status.clone()),
        servers: Box::new(move || servers.clone()),
        routes: Box::new(Vec::new),
        skew: Box::new(move || skew.clone()),
        history: Box::new(move |_| history.clone()),
        report: Box::new(move |_| report.clone()),
        explain: Box::new(|_, _| Ok(ExplainView::default())),
        explain_connection: Box::new(|_, _| ConnectionView::default()),
        metrics: Box::new(|| ("text/plain", String::new())),
        stalled: Box::new(Vec::new),
        probe: Box::new(|_, _| Box::pin(std::future::pending())),
        canary: Box::new(|| Box::pin(std::future::pending())),
        set_log_level: Box::new(|_| Ok(())),
        guard: Box::new(|_| GuardView::default()),
        cluster: Box::new(|_| Box::pin(std::future::pending())),
        retire: Box::new(|| None),
    };
    let (drain, _signal) = Drain::new();
    let admin = Admin {
        views,
        readiness: Readiness::new(),
        standing: PassingReasons::new(),
        drain,
        drain_deadline: Duration::from_secs(1),
        answer_timeout: Duration::from_secs(1),
    };
    tokio::spawn(serve(
        Door::Reader(listener, Hosts::default()),
        Arc::new(admin),
    ));
    address
}

/// Drives a browser on a thread of its own, since the runtime has the servers to run.
async fn browse<T: Send + 'static>(
    address: SocketAddr,
    path: &str,
    visit: impl FnOnce(&mut Browser) -> anyhow::Result<T> + Send + 'static,
) -> Option<T> {
    let program: PathBuf = Browser::find()?;
    let url = format!("http://{address}{path}");
    let visited = tokio::task::spawn_blocking(move || {
        let mut browser = Browser::open(&program, &url)?;
        let found = visit(&mut browser)?;
        anyhow::ensure!(browser.complaints.is_empty(), "{:?}", browser.complaints);
        Ok::<_, anyhow::Error>(found)
    });
    Some(visited.await.unwrap().unwrap())
}

/// The texts of all nodes that a selector finds.
fn texts(browser: &mut Browser, selector: &str) -> anyhow::Result<Vec<String>> {
    let script =
        format!("[...document.querySelectorAll('{selector}')].map((node) => node.textContent)");
    let texts = browser.value(&script)?;
    Ok(serde_json::from_value(texts)?)
}

#[tokio::test]
async fn it_shows_versions_differences_and_what_happened_in_light_and_dark() {
    let resources = [
        "deviceclasses",
        "resourceclaims",
        "resourceclaimtemplates",
        "resourceslices",
    ];
    let told = told(
        ["cp-a", "cp-b", "cp-c"],
        &resources,
        "kube-controller-manager/v1.35.6",
    );
    browse(port(told).await, "/", |browser| {
        browser.look(1100, 1250, "light")?;
        browser.until(READY, SOON)?;
        let cells = texts(browser, "#servers td")?;
        for cell in ["cp-a (this node)", "v1.35.6", "v1.36.3", "fresh, 600ms old"] {
            assert!(cells.iter().any(|text| text == cell), "{cell} is not in {cells:?}");
        }
        assert_eq!(texts(browser, "#skew tbody tr")?.len(), 4);
        let cells = texts(browser, "#skew td")?;
        for cell in ["lacks", "serves", "without patch, deletecollection"] {
            assert!(cells.iter().any(|text| text == cell), "{cell} is not in {cells:?}");
        }
        let blocks = texts(browser, "#timeline rect title")?;
        for block in ["cp-b v1.35.6", "cp-b v1.36.3", "cp-c is not available", "armed: manifest_changed", "passing by: full"] {
            assert!(blocks.iter().any(|text| text == block), "{block} is not in {blocks:?}");
        }
        let prevented = blocks.iter().filter(|text| text.ends_with(" prevented"));
        assert_eq!(prevented.count(), 38);
        assert_eq!(texts(browser, "#events tbody tr")?.len(), 15);
        let background = "getComputedStyle(document.body).backgroundColor";
        let light = browser.value(background)?;
        keep("light", browser)?;
        browser.look(1100, 1250, "dark")?;
        assert_ne!(browser.value(background)?, light);
        keep("dark", browser)?;
        // Filtering shows the rows that fit, and says how many there are.
        browser.value("document.getElementById('filter').value = 'CLAIM'; document.getElementById('filter').dispatchEvent(new Event('input'))")?;
        assert_eq!(texts(browser, "#skew tbody tr")?.len(), 2);
        assert_eq!(texts(browser, "#skew-line")?, ["2 of 4 differences"]);
        Ok(())
    })
    .await;
}

/// For the documentation: `MVP_SCREENSHOTS` names a folder.
fn keep(name: &str, browser: &mut Browser) -> anyhow::Result<()> {
    let picture = browser.screenshot()?;
    assert!(picture.starts_with(b"\x89PNG"));
    if let Some(folder) = std::env::var_os("MVP_SCREENSHOTS") {
        std::fs::write(
            PathBuf::from(folder).join(format!("page-{name}.png")),
            picture,
        )?;
    }
    Ok(())
}

#[tokio::test]
async fn it_fits_a_small_screen_and_needs_no_mouse() {
    let resources = [
        "a-resource-whose-name-is-very-long-indeed-as-some-are".to_owned(),
        "claims".to_owned(),
    ];
    let resources: Vec<_> = resources.iter().map(String::as_str).collect();
    let long = "control-plane-node-with-a-long-name.in.a.long.domain.example.com";
    let told = told([long, "cp-b", "cp-c"], &resources, "kubectl/v1.36.3");
    browse(port(told).await, "/", |browser| {
        for width in [320, 1100] {
            browser.look(width, 700, "light")?;
            browser.until(READY, SOON)?;
            let wider = browser.value("document.documentElement.scrollWidth - window.innerWidth")?;
            assert!(wider.as_i64().unwrap() <= 0, "{wider} pixels wider than {width}");
        }
        browser.look(320, 700, "light")?;
        // Everything that can be used is reached by the Tab key, and shows that it is.
        let mut reached = BTreeSet::new();
        for _ in 0..20 {
            browser.press("Tab", 9)?;
            let focused = browser.value(
                "(() => { const node = document.activeElement; const style = getComputedStyle(node); \
                 return [node.tagName, node.getAttribute('aria-labelledby') || node.id || node.textContent, style.outlineStyle]; })()",
            )?;
            if focused[0] == "BODY" {
                continue;
            }
            assert_eq!(focused[2], "solid", "{focused}");
            reached.insert(focused[1].as_str().unwrap().to_owned());
            if focused[1] == "24 h" {
                browser.press("Enter", 13)?;
                let pressed = browser.value("document.activeElement.getAttribute('aria-pressed')")?;
                assert_eq!(pressed, "true");
            }
        }
        for name in ["To the servers", "Report of the last two hours", "24 h", "filter", "servers-title", "skew-title", "events-title"] {
            assert!(reached.contains(name), "{name} is not among {reached:?}");
        }
        // What has no words for itself is named.
        let unnamed = browser.value("document.querySelectorAll('svg:not([aria-label]), input:not([id])').length")?;
        assert_eq!(unnamed, 0);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn hostile_names_are_text() {
    let evil = "<img src=x onerror=\"document.documentElement.dataset.owned='yes'\"><script>document.documentElement.dataset.owned='yes'</script>";
    let other =
        "</script></td><svg onload=\"document.documentElement.dataset.owned='yes'\">\u{202e}";
    let mut told = told([evil, other, "__proto__"], &[evil, other], evil);
    told.status.stance.line = evil.into();
    told.status.servers[1].version = Some(evil.into());
    told.status.servers[1].last_error = Some(other.into());
    told.history.events.push(Event::new(
        unix_millis(),
        Kind::ServerVersion,
        other,
        evil,
        evil,
    ));
    let address = port(told).await;
    browse(address, "/", move |browser| {
        browser.until(READY, SOON)?;
        assert_eq!(browser.value("document.documentElement.dataset.owned === undefined")?, true);
        assert_eq!(browser.value("document.querySelectorAll('main img, main script, main svg svg, main [onload]').length")?, 0);
        assert!(texts(browser, "#title")?[0].contains(evil));
        assert!(texts(browser, "#skew td")?.iter().any(|text| text == evil));
        // An address that names a script is no script either.
        assert_eq!(browser.value("[...document.querySelectorAll('a')].every((a) => /^[\\/#]/.test(a.getAttribute('href')))")?, true);
        Ok(())
    })
    .await;
    // The report, which a browser gets as a page of its own.
    browse(address, "/report?since=2h", move |browser| {
        browser.until("document.querySelectorAll('table').length > 2", SOON)?;
        assert_eq!(
            browser.value("document.documentElement.dataset.owned === undefined")?,
            true
        );
        assert_eq!(
            browser.value("document.querySelectorAll('img, script, svg').length")?,
            0
        );
        assert!(
            texts(browser, "td")?
                .iter()
                .any(|text| text.contains("<img src=x"))
        );
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn it_follows_an_agent_while_that_works() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", patient)
        .await
        .unwrap();
    let asks = client(&plane, &agent).await;
    assert_eq!(
        asks.get(ONLY_36, &[("user-agent", "kubectl/v1.36.3")])
            .await
            .unwrap()
            .status,
        200
    );
    let (told, when) = tokio::sync::oneshot::channel::<()>();
    let (disarmed, tell) = std::sync::mpsc::channel::<()>();
    let visit = browse(agent.admin, "/", move |browser| {
        browser.until(READY, SOON)?;
        browser.until(
            "document.querySelectorAll('#skew tbody tr').length > 0",
            SOON,
        )?;
        let prevented = "[...document.querySelectorAll('#tiles li')].some((tile) => tile.textContent === '1False 404s prevented, 24 h')";
        browser.until(prevented, SOON)?;
        let idle = "[...document.querySelectorAll('#tiles li')].some((tile) => tile.textContent.startsWith('idle'))";
        assert_eq!(browser.value(idle)?, Value::Bool(false));
        // The same document goes on: what comes now came by the stream.
        browser.value("window.same = true")?;
        let _ = told.send(());
        tell.recv()?;
        browser.until(idle, SOON)?;
        browser.until("[...document.querySelectorAll('#events td')].some((cell) => cell.textContent === 'guard_idle')", SOON)?;
        assert_eq!(browser.value("window.same")?, true);
        Ok(())
    });
    let disarm = async {
        // An error: there is no browser here.
        if when.await.is_ok() {
            let (status, line) = agent.operate("POST", "/disarm").await.unwrap();
            assert_eq!(status, 200, "{line}");
            disarmed.send(()).unwrap();
        }
    };
    tokio::join!(visit, disarm);
}
