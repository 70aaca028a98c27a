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
        "metadata": {"name": name, "namespace": "default"}, "addressType": "IPv4", "endpoints": endpoints,
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

/// A Node with an address, as the kubelet of `name` writes it.
fn node(name: &str, address: &str) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "status": {"addresses": [
            {"type": "ExternalIP", "address": "203.0.113.1"},
            {"type": "InternalIP", "address": address},
            {"type": "Hostname", "address": name},
        ]},
    }))
    .unwrap()
}

/// These addresses have answered, port 6443.
fn reached(addresses: &[&str]) -> Reached {
    let reached = Reached::default();
    for address in addresses {
        reached.mark(&at("", address, 6443));
    }
    reached
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
fn a_server_has_one_name_before_during_and_after_an_upgrade() {
    let mut roster = roster(Vec::new());
    let start = Instant::now();
    let nodes = [
        node("cp-a", "10.0.0.1"),
        node("cp-b", "10.0.0.2"),
        node("cp-c", "10.0.0.3"),
    ];
    let expected = ["cp-b 10.0.0.2:6443", "cp-c 10.0.0.3:6443"];
    let all = slice("kubernetes", &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    roster.nodes_listed(&nodes);
    roster.slices_listed(std::slice::from_ref(&all));
    // 1.33 to 1.35: Leases without an address.
    let old = |name: &str| lease(name, &format!("cp-{name}"), None, "old");
    roster.leases_listed(&[old("a"), old("b"), old("c")]);
    assert_eq!(names(&roster.members(start)), expected);
    // cp-b stops: off the list, its Lease is gone; even its Node may be written anew.
    roster = roster.reached(reached(&["10.0.0.2", "10.0.0.3"]));
    roster.slice_applied(&slice("kubernetes", &["10.0.0.1", "10.0.0.3"]));
    roster.lease_deleted(&old("b"));
    roster.node_deleted(&nodes[1]);
    let mut sorted = names(&roster.members(start));
    sorted.sort();
    assert_eq!(sorted, expected);
    // 1.36: with an address, and a host name that is not the Node's.
    roster.slice_applied(&all);
    roster.lease_applied(&lease("b", "cp-b.example", Some("10.0.0.2:6443"), "new"));
    assert_eq!(names(&roster.members(start)), expected);
}

#[test]
fn a_lease_or_a_node_takes_no_address_away() {
    let listed = [slice("kubernetes", &["10.0.0.1", "10.0.0.2"])];
    // This node's host name and a peer's address: the peer was taken for the local server.
    let lying = lease("x", "cp-a", Some("10.0.0.2:6443"), "x_1");
    let mut by_lease = roster(Vec::new());
    by_lease.slices_listed(&listed);
    by_lease.leases_listed(std::slice::from_ref(&lying));
    assert_eq!(
        names(&by_lease.members(Instant::now())),
        ["10.0.0.2 10.0.0.2:6443"]
    );
    let mut by_node = roster(Vec::new());
    by_node.slices_listed(&listed);
    by_node.nodes_listed(&[node("cp-a", "10.0.0.2")]);
    assert_eq!(
        names(&by_node.members(Instant::now())),
        ["10.0.0.2 10.0.0.2:6443"]
    );
    // Nor do they add one.
    let mut added = roster(Vec::new());
    added.slices_listed(&listed);
    added.leases_listed(&[lease("y", "cp-y", Some("10.6.6.6:6443"), "y_1")]);
    added.nodes_listed(&[node("cp-z", "10.6.6.7")]);
    assert_eq!(
        names(&added.members(Instant::now())),
        ["10.0.0.2 10.0.0.2:6443"]
    );
}

#[test]
fn only_the_slice_of_the_control_plane_counts() {
    let mut roster = roster(Vec::new());
    let mut elsewhere = slice("kubernetes", &["10.6.6.6"]);
    elsewhere.metadata.namespace = Some("kube-system".into());
    let real = slice("kubernetes", &["10.0.0.2"]);
    let mut other = slice("kubernetes-x7k2p", &["10.6.6.7"]);
    other.metadata.labels = Some(
        [(
            "kubernetes.io/service-name".to_owned(),
            "kubernetes".to_owned(),
        )]
        .into(),
    );
    roster.slices_listed(&[elsewhere.clone(), real, other.clone()]);
    let expected = ["10.0.0.2 10.0.0.2:6443"];
    assert_eq!(names(&roster.members(Instant::now())), expected);
    roster.slice_applied(&other);
    roster.slice_deleted(&elsewhere);
    assert_eq!(names(&roster.members(Instant::now())), expected);
}

#[test]
fn two_that_claim_one_address_name_nobody() {
    let mut roster = roster(Vec::new());
    roster.slices_listed(&[slice("kubernetes", &["10.0.0.2", "10.0.0.3"])]);
    roster.nodes_listed(&[
        node("cp-b", "10.0.0.2"),
        node("worker", "10.0.0.2"),
        node("cp-c", "10.0.0.3"),
    ]);
    roster.leases_listed(&[
        lease("b", "cp-b", Some("10.0.0.2:6443"), "b_1"),
        lease("x", "worker", Some("10.0.0.2:6443"), "x_1"),
    ]);
    let expected = ["10.0.0.2 10.0.0.2:6443", "cp-c 10.0.0.3:6443"];
    assert_eq!(names(&roster.members(Instant::now())), expected);
}

#[test]
fn the_local_servers_other_name_is_told() {
    let mut roster = Roster::new(at("host-a", "127.0.0.1", 6443), Vec::new(), |ip| {
        ip.to_string() == "10.0.0.1"
    });
    roster.slices_listed(&[slice("kubernetes", &["10.0.0.1", "10.0.0.2"])]);
    roster.nodes_listed(&[node("cp-a", "10.0.0.1"), node("cp-b", "10.0.0.2")]);
    roster.members(Instant::now());
    assert_eq!(roster.misnamed(), Some("cp-a"));
    roster.nodes_listed(&[node("host-a", "10.0.0.1")]);
    roster.members(Instant::now());
    assert_eq!(roster.misnamed(), None);
}

#[test]
fn more_servers_than_can_be_routed_to_are_counted() {
    let many: Vec<String> = (1..=200).map(|i| format!("10.1.0.{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut roster = roster(vec![at("fixed", "10.2.0.1", 6443)]);
    roster.slice_applied(&slice("kubernetes", &many));
    assert_eq!(roster.members(Instant::now()).len(), MAX_MEMBERS);
    assert_eq!(roster.ignored(), 201 - MAX_MEMBERS);
    // Who is listed goes before who only was.
    let mut roster = roster.reached(reached(&many));
    roster.slice_applied(&slice("kubernetes", &["10.9.0.1"]));
    let members = names(&roster.members(Instant::now()));
    assert_eq!(members[1], "10.9.0.1 10.9.0.1:6443");
    assert_eq!(members.len(), MAX_MEMBERS);
}

#[test]
fn an_old_lease_without_an_address_tells_whose_process_is_new() {
    let mut roster = roster(Vec::new());
    roster.slices_listed(&[slice("kubernetes", &["10.0.0.1", "10.0.0.2"])]);
    roster.nodes_listed(&[node("cp-a", "10.0.0.1"), node("cp-b", "10.0.0.2")]);
    roster.members(Instant::now());
    assert_eq!(
        roster.leases_listed(&[
            lease("b", "cp-b", None, "b_1"),
            lease("c", "cp-c", None, "c_1")
        ]),
        [Some(at("cp-b", "10.0.0.2", 6443)), None]
    );
    assert_eq!(
        roster.lease_applied(&lease("a", "cp-a", None, "a_1")),
        Some(Some(at("cp-a", "10.0.0.1", 6443)))
    );
}

#[test]
fn who_never_answered_does_not_linger() {
    let start = Instant::now();
    let mut roster = roster(Vec::new()).reached(reached(&["10.0.0.2"]));
    roster.slices_listed(&[slice("kubernetes", &["10.0.0.2", "10.0.0.3"])]);
    assert_eq!(roster.members(start).len(), 2);
    roster.slices_listed(&[]);
    assert_eq!(names(&roster.members(start)), ["10.0.0.2 10.0.0.2:6443"]);
    roster.slices_listed(&[slice("kubernetes", &["10.0.0.3"])]);
    assert_eq!(roster.members(start).len(), 2);
}

#[test]
fn who_is_no_longer_listed_lingers() {
    let mut roster = roster(Vec::new()).reached(reached(&["10.0.0.2", "10.0.0.3"]));
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
    let mut configured = Roster::new(local.clone(), Vec::new(), |_| false)
        .advertised(Some("10.0.0.1:6443".parse().unwrap()));
    configured.slices_listed(&listed);
    assert_eq!(
        names(&configured.members(now)),
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
        "metadata": {"name": "kubernetes", "namespace": "default"}, "addressType": "IPv6",
        "endpoints": [{"addresses": ["fd00::2"]}, {"addresses": ["not-an-address", "", "::", "ff02::1"]}],
        "ports": [{"port": 6443}, {"port": 7443}, {"port": 0}, {"port": 70000}, {}],
    }))
    .unwrap();
    roster.slices_listed(&[odd]);
    let members = roster.members(Instant::now());
    assert_eq!(
        names(&members),
        ["fd00::2 fd00::2:6443", "[fd00::2]:7443 fd00::2:7443"]
    );
    let many: Vec<String> = (0..200).map(|i| format!("10.1.0.{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    roster.slice_applied(&slice("kubernetes", &many));
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

proptest::proptest! {
    #[test]
    fn whatever_is_written_the_list_itself_decides(data in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        crate::membership::fuzz_roster(&data);
    }
}
