//! Every refusal is one line that names the key; every key of the table changes the configuration.

use std::path::Path;
use std::time::Duration;

use super::*;

const MINIMAL: &str = "
apiVersion: mvp/v1
node: cp-a
listen: 127.0.0.12:6443
serving: {certFile: a.crt, keyFile: a.key}
upstream: {caFile: ca.crt}
local: {url: 'https://127.0.0.2:6443'}
";

/// The file DESIGN and the documentation show.
const FULL: &str = "
apiVersion: mvp/v1
node: cp-a
listen: 127.0.0.12:6443
serving: {certFile: apiserver.crt, keyFile: apiserver.key}
clientCAFile: ca.crt
requestHeader:
  clientCAFile: front-proxy-ca.crt
  allowedNames: [front-proxy-client]
  usernameHeaders: [X-Remote-User]
  uidHeaders: [X-Remote-Uid]
  groupHeaders: [X-Remote-Group]
  extraHeaderPrefixes: [X-Remote-Extra-]
upstream:
  caFile: ca.crt
  serverName: kubernetes.default.svc
  clientCertFile: front-proxy-client.crt
  clientKeyFile: front-proxy-client.key
local: {url: https://127.0.0.2:6443}
peers:
  static: [{name: cp-b, url: https://127.0.0.3:6443}]
  kubernetes: {enabled: false, kubeconfig: \"\"}
admin: {listen: 127.0.0.1:9440}
kernel:
  steering: off
  splice: auto
  shortcut: auto
  pinPath: /sys/fs/bpf/mvp
inspect: auto
relay: {mode: auto, after: 20, window: 10s, maxShare: 0.5, withoutServerName: false}
threads: auto
";

fn base() -> &'static Path {
    Path::new("/etc/mvp")
}

fn refusal(text: &str) -> String {
    let line = parse(text, base()).expect_err(text).to_string();
    assert!(!line.contains('\n'), "{line:?}");
    line
}

#[test]
fn the_documented_file() {
    let config = parse(FULL, base()).unwrap();
    assert_eq!(config.node, "cp-a");
    assert_eq!(config.local.name, "cp-a");
    assert_eq!(config.serving.key_file, Path::new("/etc/mvp/apiserver.key"));
    assert_eq!(config.kernel.steering, Mode::Off);
    assert_eq!(config.peers.fixed[0].host, "127.0.0.3");
    assert_eq!(config.peers.kubernetes, KubernetesPeers::default());
    assert_eq!(config.relay.window, Duration::from_secs(10));
    assert!((1..=4).contains(&config.threads));
    assert!(config.interoperability_proxy);
    let headers = config.request_header.unwrap();
    assert_eq!(headers.allowed_names, ["front-proxy-client"]);
}

#[test]
fn defaults() {
    let config = parse(MINIMAL, base()).unwrap();
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:9440");
    assert_eq!(config.client_ca_file, None);
    assert_eq!(config.request_header, None);
    assert_eq!(config.upstream.client, None);
    assert_eq!(config.upstream.server_name, "kubernetes.default.svc");
    assert_eq!(config.discovery.refresh, Duration::from_millis(250));
    let with_ca = format!("{MINIMAL}requestHeader: {{clientCAFile: fp.crt}}\n");
    let headers = parse(&with_ca, base()).unwrap().request_header.unwrap();
    assert_eq!(headers.username_headers, ["X-Remote-User"]);
    assert_eq!(headers.uid_headers, ["X-Remote-Uid"]);
    assert_eq!(headers.extra_header_prefixes, ["X-Remote-Extra-"]);
    assert!(headers.allowed_names.is_empty());
}

#[test]
fn an_empty_section_is_no_section() {
    let config = parse(&format!("{MINIMAL}requestHeader:\nlimits:\n"), base()).unwrap();
    assert_eq!(config, parse(MINIMAL, base()).unwrap());
}

#[test]
fn refusals_name_the_key() {
    let with = |more: &str| format!("{MINIMAL}{more}\n");
    let without = |part: &str, new: &str| {
        assert!(MINIMAL.contains(part), "{part}");
        MINIMAL.replace(part, new)
    };
    let peers = |list: &str| with(&format!("peers: {{static: [{list}]}}"));
    let cases: &[(String, &str)] = &[
        (String::new(), "apiVersion: missing"),
        ("[1]".into(), "file: a mapping is needed, not a list"),
        (
            without("mvp/v1", "mvp/v2"),
            "apiVersion: \"mvp/v2\" is none of mvp/v1",
        ),
        (without("listen: 127.0.0.12:6443", ""), "listen: missing"),
        (
            without("127.0.0.12:6443", "localhost"),
            "listen: \"localhost\" is no ip:port",
        ),
        (
            without("127.0.0.12:6443", "127.0.0.12:0"),
            "listen: \"127.0.0.12:0\" has port 0",
        ),
        (without(", keyFile: a.key", ""), "serving.keyFile: missing"),
        (
            without("{certFile: a.crt, keyFile: a.key}", "a.crt"),
            "serving: a mapping is needed, not text",
        ),
        (
            without("cp-a", "cp/a"),
            "node: \"cp/a\" is no name: letters, digits, '-', '.' and '_', at most 253",
        ),
        (
            without("cp-a", "[cp-a]"),
            "node: a value is needed, not a list",
        ),
        (
            without("cp-a", "{name: cp-a}"),
            "node: a value is needed, not a mapping",
        ),
        (
            with("upstrem: {caFile: x}"),
            "upstrem: unknown key (is upstream meant?)",
        ),
        (
            with("limits: {conections: 5}"),
            "limits.conections: unknown key (is limits.connections meant?)",
        ),
        (
            with("clientCaFile: x"),
            "clientCaFile: unknown key (is clientCAFile meant?)",
        ),
        (with("zzz: 1"), "zzz: unknown key"),
        (
            with("requestHeader: {allowedNames: [x]}"),
            "requestHeader.clientCAFile: missing",
        ),
        (
            with("requestHeader: {clientCAFile: x, allowedNames: y}"),
            "requestHeader.allowedNames: a list is needed, not text",
        ),
        (
            with("requestHeader: {clientCAFile: x, allowedNames: [\"\"]}"),
            "requestHeader.allowedNames: an element is empty",
        ),
        (
            with("requestHeader: {clientCAFile: x, usernameHeaders: []}"),
            "requestHeader.usernameHeaders: needs at least one header",
        ),
        (
            with("requestHeader: {clientCAFile: x, groupHeaders: [\"a b\"]}"),
            "requestHeader.groupHeaders: \"a b\" is no header name",
        ),
        (
            without("caFile: ca.crt}", "caFile: ca.crt, clientCertFile: x}"),
            "upstream.clientKeyFile: missing, though upstream.clientCertFile is set",
        ),
        (
            without("caFile: ca.crt}", "caFile: ca.crt, clientKeyFile: x}"),
            "upstream.clientCertFile: missing, though upstream.clientKeyFile is set",
        ),
        (
            without("caFile: ca.crt}", "caFile: ca.crt, serverName: 'a b'}"),
            "upstream.serverName: \"a b\" is no server name",
        ),
        (
            without("https://127", "http://127"),
            "local.url: \"http://127.0.0.2:6443\" must start with https://",
        ),
        (
            without("127.0.0.2:6443", "127.0.0.2:6443/api"),
            "local.url: \"https://127.0.0.2:6443/api\" must end after the port",
        ),
        (
            without("127.0.0.2", "127.0.0.12"),
            "listen: is local.url: the agent would call itself",
        ),
        (
            without("127.0.0.12:6443", "0.0.0.0:6443"),
            "listen: is local.url: the agent would call itself",
        ),
        (peers("{name: b}"), "peers.static[0].url: missing"),
        (peers("{url: 'https://x'}"), "peers.static[0].name: missing"),
        (
            peers("cp-b"),
            "peers.static[0]: a mapping is needed, not text",
        ),
        (
            with("peers: {static: {name: b}}"),
            "peers.static: a list is needed, not a mapping",
        ),
        (
            peers("{name: cp-a, url: 'https://x'}"),
            "peers.static[0].name: \"cp-a\" is already node",
        ),
        (
            peers("{name: b, url: 'https://x'}, {name: b, url: 'https://y'}"),
            "peers.static[1].name: \"b\" is already peers.static[0].name",
        ),
        (
            peers("{name: b, url: 'https://x'}, {name: c, url: 'https://x:443'}"),
            "peers.static[1].url: x:443 is already peers.static[0].url",
        ),
        (
            peers("{name: b, url: 'https://127.0.0.2:6443'}"),
            "peers.static[0].url: 127.0.0.2:6443 is already local.url",
        ),
        (
            peers("{name: b, url: 'https://127.0.0.12:6443'}"),
            "peers.static[0].url: is listen: the agent would call itself",
        ),
        (
            with("peers: {kubernetes: {kubeconfig: x}}"),
            "peers.kubernetes.kubeconfig: set, though peers.kubernetes.enabled is false",
        ),
        (
            with("peers: {kubernetes: {enabled: maybe}}"),
            "peers.kubernetes.enabled: \"maybe\" is neither true nor false",
        ),
        (
            with("admin: {listen: '127.0.0.12:6443'}"),
            "admin.listen: is the same as listen",
        ),
        (
            with("kernel: {steering: maybe}"),
            "kernel.steering: \"maybe\" is none of auto, on, off",
        ),
        (
            with("kernel: {ownSource: 10.0.0.1}"),
            "kernel.ownSource: \"10.0.0.1\" must be in 127.0.0.0/8, and not 127.0.0.1, which everybody uses",
        ),
        (
            with("kernel: {peerPorts: 900-800}"),
            "kernel.peerPorts: \"900-800\" is no range of ports such as 700-999",
        ),
        (
            with("kernel: {peerPorts: 6000-7000}"),
            "kernel.peerPorts: holds 6443, the port of listen",
        ),
        (
            with("kernel: {shortcut: on}"),
            "kernel.shortcut: needs kernel.steering, which gives the agent's connections a source address of their own",
        ),
        (
            with("relay: {mode: on}"),
            "relay.mode: \"on\" is none of auto, off",
        ),
        (
            with("relay: {maxShare: 0}"),
            "relay.maxShare: 0 is no number above 0 and at most 1",
        ),
        (
            with("relay: {maxShare: 1.5}"),
            "relay.maxShare: 1.5 is no number above 0 and at most 1",
        ),
        (
            with("kernel: {settle: 10ms}"),
            "kernel.settle: 10ms is not within 1s to 1h",
        ),
        (
            with("kernel: {steering: auto, settle: 5s}\ndiscovery: {interval: 5s}"),
            "kernel.settle: must be longer than discovery.interval, or a single poll disarms the guard",
        ),
        (
            with("relay: {mode: off, withoutServerName: true}"),
            "relay.withoutServerName: true, though relay.mode is off",
        ),
        (
            with("relay: {after: 1000000, window: 1s}"),
            "relay.after: 1000000 within relay.window is 1000000 requests a second: no client would ever be relayed",
        ),
        (
            with("relay: {after: 0}"),
            "relay.after: 0 is no number within 1 to 1000000",
        ),
        (
            with("relay: {window: 10}"),
            "relay.window: \"10\" is no duration such as 250ms, 10s or 1m",
        ),
        (
            with("threads: 0"),
            "threads: 0 is no number within 1 to 1024",
        ),
        (
            with("threads: many"),
            "threads: many is no number within 1 to 1024",
        ),
        (
            with("limits: {connections: 0}"),
            "limits.connections: 0 is no number within 1 to 10000000",
        ),
        (
            with("limits: {connections: -5}"),
            "limits.connections: -5 is no number within 1 to 10000000",
        ),
        (
            with("limits: {connections: 2.5}"),
            "limits.connections: 2.5 is no number within 1 to 10000000",
        ),
        (
            with("limits: {connections: 10}"),
            "limits.pendingHandshakes: must not be above limits.connections",
        ),
        (
            with("limits: {headerBytesPerConnection: 8192}"),
            "limits.headerBytesPerConnection: must not be below limits.headerBytes",
        ),
        (
            with("limits: {headerBytesTotal: 300000}"),
            "limits.headerBytesTotal: must be a third more than limits.headerBytes at least",
        ),
        (
            with("limits: {handshakeTimeout: 0s}"),
            "limits.handshakeTimeout: 0ns is not within 100ms to 1h",
        ),
        (
            with("discovery: {staleAfter: 1s}"),
            "discovery.staleAfter: must be longer than discovery.interval, or knowledge is always stale",
        ),
        (with("sni: [{certFile: x}]"), "sni[0].keyFile: missing"),
    ];
    for (text, line) in cases {
        assert_eq!(refusal(text), *line, "{text}");
    }
}

#[test]
fn broken_yaml_is_one_line_with_a_place() {
    for text in ["node: [", "node: a\nnode: b", "node: 'a", "node: *x"] {
        let line = refusal(text);
        assert!(line.starts_with("file: is no valid YAML: "), "{line}");
    }
    assert!(refusal("node: a\nnode: b").contains("line 2"));
}

/// A key the loader forgot would change nothing.
#[test]
fn every_key_of_the_table_has_an_effect() {
    let dir = Path::new("/etc/mvp");
    let plain = parse(FULL, dir).unwrap();
    for key in KEYS {
        let value = match (key.name, key.kind) {
            ("apiVersion", _) => continue,
            // Needs its partner; tested by the documented file.
            ("peers.kubernetes.kubeconfig", _) => continue,
            ("kernel.ownSource", _) => "127.66.0.2".to_owned(),
            ("kernel.peerPorts", _) => "20000-20999".into(),
            (_, ValueType::Text) => "other".into(),
            ("inspect.localSources" | "inspect.exceptSources", _) => "10.9.0.0/16".into(),
            (_, ValueType::TextList) => "X-Other".into(),
            (_, ValueType::Path) => "/other".into(),
            (_, ValueType::Address) => "127.0.0.99:7777".into(),
            (_, ValueType::Url) => "https://other:1234".into(),
            (
                "peers.kubernetes.enabled" | "relay.withoutServerName" | "drain.waitWhenReplaced",
                _,
            ) => "true".into(),
            (name, ValueType::Bool) => panic!("{name}: which value differs?"),
            (_, ValueType::Choice(names)) => {
                let same = FULL.contains("steering: off") && key.name == "kernel.steering";
                names[if same { 0 } else { names.len() - 1 }].into()
            }
            ("discovery.interval", _) => "2s".into(),
            (_, ValueType::Duration(..)) => "59s".into(),
            ("limits.connections", _) => "1025".into(),
            ("threads", _) => "7".into(),
            ("limits.headerBytes", _) => "8193".into(),
            ("limits.headerBytesPerConnection" | "limits.headerBytesTotal", _) => "1000000".into(),
            ("discovery.maxBytes", _) => "65537".into(),
            (_, ValueType::Count(..) | ValueType::AutoCount(..)) => "33".into(),
            (_, ValueType::Share) => "0.25".into(),
        };
        let value = match key.kind {
            ValueType::TextList => serde_json::json!([value]),
            _ => value.into(),
        };
        let name = key.name.replace("[]", "[0]");
        let document = serde_saphyr::from_str(FULL).unwrap();
        let mut tree = tree::Tree::from_document(document, dir).unwrap();
        if name.starts_with("sni") {
            for part in ["sni[0].certFile", "sni[0].keyFile"] {
                tree.set(part, "/x".into(), "--set").unwrap();
            }
        }
        tree.set(&name, value.clone(), "--set").unwrap();
        let changed = build::build(&tree).unwrap_or_else(|error| panic!("{}: {error}", key.name));
        assert_ne!(changed, plain, "{} = {value} changes nothing", key.name);
    }
}

#[test]
fn feature_gates() {
    for (text, expected) in [
        ("", Ok(None)),
        ("UnknownVersionInteroperabilityProxy=true", Ok(Some(true))),
        (
            " UnknownVersionInteroperabilityProxy = false ,",
            Ok(Some(false)),
        ),
        (
            "UnknownVersionInteroperabilityProxy",
            Err(
                "--feature-gates: \"UnknownVersionInteroperabilityProxy\" is not GATE=true or GATE=false",
            ),
        ),
        (
            "UnknownVersionInteroperabilityProxy=1",
            Err("--feature-gates: \"1\" is neither true nor false"),
        ),
        (
            "Unknown=true",
            Err(
                "--feature-gates: unknown gate \"Unknown\"; the only one is UnknownVersionInteroperabilityProxy",
            ),
        ),
    ] {
        let found = parse_feature_gates(text).map_err(|error| error.to_string());
        assert_eq!(found, expected.map_err(str::to_owned), "{text}");
    }
}

proptest::proptest! {
    /// Whatever stands in the file: a configuration or one line, and no panic.
    #[test]
    fn any_text_is_a_configuration_or_one_line(
        line in 0..40usize,
        text in "(?s)[ -~\\n]{0,30}|[a-z]{1,12}: (\\PC{0,12}|[0-9.e+-]{1,25}|\\[.{0,5}\\]|\\{.{0,5}\\})",
        indent in 0..3usize,
    ) {
        let mut lines: Vec<&str> = FULL.lines().collect();
        let replaced = format!("{}{text}", "  ".repeat(indent));
        let at = line % lines.len();
        lines[at] = &replaced;
        if let Err(error) = parse(&lines.join("\n"), base()) {
            let text = error.to_string();
            proptest::prop_assert!(!text.contains(['\n', '\r']), "{text:?}");
            proptest::prop_assert!(!text.is_empty());
        }
    }
}

#[test]
fn nodes_with_the_same_settings_have_the_same_digest() {
    let here = parse(FULL, base()).unwrap();
    let mut there = here.clone();
    there.node = "another".into();
    there.listen.set_port(1);
    there.local.host = "10.9.9.9".into();
    there.advertise = Some(there.listen);
    there.peers.fixed.clear();
    there.admin.listen.set_port(2);
    assert_eq!(there.digest(), here.digest());
    there.limits.connections += 1;
    assert_ne!(there.digest(), here.digest());
}
