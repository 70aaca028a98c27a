use serde_json::json;

use super::*;

fn at(name: &str, host: &str, port: u16) -> Endpoint {
    Endpoint {
        name: name.to_owned(),
        host: host.to_owned(),
        port,
    }
}

fn slice(name: &str, addresses: &[&str]) -> EndpointSlice {
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|a| json!({"addresses": [a]}))
        .collect();
    serde_json::from_value(json!({
        "metadata": {"name": name}, "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "metrics", "port": 1}, {"name": "https", "port": 6443, "protocol": "TCP"}],
    }))
    .unwrap()
}

fn lease(name: &str, hostname: &str, address: Option<&str>, holder: &str) -> Lease {
    let annotations = address.map(|a| json!({"kubernetes.io/peer-advertise-address": a}));
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": hostname}, "annotations": annotations},
        "spec": {"holderIdentity": holder},
    }))
    .unwrap()
}

fn roster(fixed: Vec<Endpoint>) -> Roster {
    Roster::new(at("cp-a", "10.0.0.1", 6443), fixed, |_| false)
}

fn names(members: &[Endpoint]) -> Vec<String> {
    let show = |m: &Endpoint| format!("{} {}:{}", m.name, m.host, m.port);
    members.iter().map(show).collect()
}

#[test]
fn names_come_from_leases_and_stay() {
    let mut roster = roster(Vec::new());
    let now = Instant::now();
    roster.slices_listed(&[slice("kubernetes", &["10.0.0.1", "10.0.0.2", "10.0.0.3"])]);
    assert_eq!(
        names(&roster.members(now)),
        ["10.0.0.2 10.0.0.2:6443", "10.0.0.3 10.0.0.3:6443"]
    );
    let b = lease("b", "cp-b", Some("10.0.0.2:6443"), "b_1");
    roster.leases_listed(&[b.clone(), lease("c", "cp-c", None, "c_1")]);
    let named = ["cp-b 10.0.0.2:6443", "10.0.0.3 10.0.0.3:6443"];
    assert_eq!(names(&roster.members(now)), named);
    roster.lease_deleted(&b);
    assert_eq!(names(&roster.members(now)), named);
}

#[test]
fn the_static_list_wins_by_address() {
    let mut roster = roster(vec![
        at("mine", "10.0.0.2", 6443),
        at("other", "b.example", 443),
    ]);
    roster.slices_listed(&[slice("kubernetes", &["10.0.0.2", "10.0.0.3"])]);
    roster.leases_listed(&[lease("b", "cp-b", Some("10.0.0.2:6443"), "b_1")]);
    let expected = [
        "mine 10.0.0.2:6443",
        "other b.example:443",
        "10.0.0.3 10.0.0.3:6443",
    ];
    assert_eq!(names(&roster.members(Instant::now())), expected);
}

#[test]
fn who_is_no_longer_listed_lingers() {
    let mut roster = roster(Vec::new());
    let start = Instant::now();
    roster.slices_listed(&[slice("kubernetes", &["10.0.0.2", "10.0.0.3"])]);
    assert_eq!(roster.members(start).len(), 2);
    assert_eq!(roster.next_expiry(), Some(start + LINGER));
    roster.slice_applied(&slice("kubernetes", &["10.0.0.3"]));
    assert_eq!(roster.members(start + LINGER / 2).len(), 2);
    assert_eq!(
        names(&roster.members(start + LINGER)),
        ["10.0.0.3 10.0.0.3:6443"]
    );
    // Nor does an empty list remove everybody.
    roster.slices_listed(&[]);
    assert_eq!(roster.members(start + LINGER).len(), 1);
    roster.slice_applied(&slice("kubernetes", &["10.0.0.3"]));
    roster.slice_deleted(&slice("kubernetes", &[]));
    assert_eq!(roster.members(start + LINGER + LINGER / 2).len(), 1);
    assert_eq!(roster.members(start + LINGER * 3).len(), 0);
}

#[test]
fn the_local_server_is_recognised() {
    let now = Instant::now();
    let local = at("cp-a", "127.0.0.1", 6443);
    let listed = [slice(
        "kubernetes",
        &["127.0.0.1", "127.0.0.2", "10.0.0.1", "10.0.0.2"],
    )];
    let mut by_lease = Roster::new(local.clone(), Vec::new(), |_| false);
    by_lease.slices_listed(&listed);
    by_lease.leases_listed(&[lease("a", "cp-a", Some("10.0.0.1:6443"), "a_1")]);
    assert_eq!(
        names(&by_lease.members(now)),
        ["10.0.0.2 10.0.0.2:6443", "127.0.0.2 127.0.0.2:6443"]
    );
    let mut by_address = Roster::new(local.clone(), Vec::new(), |ip| ip.to_string() != "10.0.0.2");
    by_address.slices_listed(&listed);
    assert_eq!(
        names(&by_address.members(now)),
        ["10.0.0.2 10.0.0.2:6443", "127.0.0.2 127.0.0.2:6443"]
    );
    // Another port of this machine is another server.
    let mut other_port = Roster::new(at("cp-a", "127.0.0.1", 1234), Vec::new(), |_| true);
    other_port.slices_listed(&[slice("kubernetes", &["10.0.0.1"])]);
    assert_eq!(other_port.members(now).len(), 1);
}

#[test]
fn families_ports_and_nonsense() {
    let mut roster = roster(Vec::new());
    let odd: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": "odd"}, "addressType": "IPv6",
        "endpoints": [{"addresses": ["fd00::2"]}, {"addresses": ["not-an-address", ""]}],
        "ports": [{"port": 6443}, {"port": 7443}, {"port": 0}, {"port": 70000}, {}],
    }))
    .unwrap();
    roster.slices_listed(&[slice("kubernetes", &["10.0.0.2"]), odd]);
    let members = roster.members(Instant::now());
    assert_eq!(
        names(&members),
        [
            "10.0.0.2 10.0.0.2:6443",
            "fd00::2 fd00::2:6443",
            "[fd00::2]:7443 fd00::2:7443"
        ]
    );
    let many: Vec<String> = (0..200).map(|i| format!("10.1.0.{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    roster.slice_applied(&slice("many", &many));
    assert_eq!(roster.members(Instant::now()).len(), MAX_MEMBERS);
}

#[test]
fn two_servers_never_share_a_name() {
    let mut roster = roster(Vec::new());
    roster.slices_listed(&[slice("kubernetes", &["10.0.0.2", "10.0.0.3"])]);
    roster.leases_listed(&[
        lease("b", "cp-b", Some("10.0.0.2:6443"), "b_1"),
        lease("c", "cp-b", Some("10.0.0.3:6443"), "c_1"),
    ]);
    let members = names(&roster.members(Instant::now()));
    assert_eq!(
        members,
        ["cp-b 10.0.0.2:6443", "cp-b (10.0.0.3:6443) 10.0.0.3:6443"]
    );
}

#[test]
fn a_new_process_is_noticed_and_a_renewal_is_not() {
    let mut roster = roster(Vec::new());
    let b = |holder| lease("b", "cp-b", Some("10.0.0.2:6443"), holder);
    let endpoint = Some(at("cp-b", "10.0.0.2", 6443));
    assert_eq!(roster.leases_listed(&[b("b_1")]), vec![endpoint.clone()]);
    assert_eq!(roster.leases_listed(&[b("b_1")]), []);
    assert_eq!(roster.lease_applied(&b("b_1")), None);
    assert_eq!(roster.lease_applied(&b("b_2")), Some(endpoint.clone()));
    assert_eq!(
        roster.leases_listed(&[b("b_3"), lease("c", "cp-c", None, "c_1")]),
        [endpoint.clone(), None]
    );
    assert_eq!(roster.lease_deleted(&b("b_3")), Some(endpoint));
    assert_eq!(roster.lease_deleted(&b("b_3")), None);
    assert_eq!(roster.leases_listed(&[]), [None]);
    let local = lease("a", "cp-a", Some("10.0.0.1:6443"), "a_1");
    assert_eq!(
        roster.lease_applied(&local),
        Some(Some(at("cp-a", "10.0.0.1", 6443)))
    );
}
