//! Who is hot, for how long, and that the table stays small whatever clients do.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::super::testing::SETTINGS;
use super::*;
use crate::route::testing::server;

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9));

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[test]
fn a_client_is_an_address_and_a_name() {
    let now = Instant::now();
    let table = HotTable::new(SETTINGS, now);
    assert!(table.is_empty());
    assert!(table.find(ADDRESS, Some("kubernetes")).is_none());
    let client = table.client(ADDRESS, Some("kubernetes"), now);
    let same = |address: IpAddr, name| {
        table
            .find(address, name)
            .is_some_and(|found| Arc::ptr_eq(&found, &client))
    };
    assert!(same(ADDRESS, Some("kubernetes")));
    assert!(same(ADDRESS, Some("Kubernetes")));
    assert!(same("::ffff:10.0.0.9".parse().unwrap(), Some("kubernetes")));
    assert!(!same(ADDRESS, None));
    assert!(!same(ADDRESS, Some("kubernetes.default")));
    assert!(!same([10, 0, 0, 8].into(), Some("kubernetes")));
    assert!(Arc::ptr_eq(
        &table.client(ADDRESS, Some("KUBERNETES"), now),
        &client
    ));
    table.client(ADDRESS, None, now);
    assert_eq!(table.len(), 2);
}

#[test]
fn hot_after_so_many_within_the_window_and_for_a_while_after() {
    let start = Instant::now();
    let client = HotTable::new(SETTINGS, start).client(ADDRESS, None, start);
    let server = server("cp-b", false);
    for request in 0..19 {
        assert!(
            !client.forwarded(&server, start + millis(request)),
            "{request}"
        );
        assert!(!client.is_hot(start + millis(request)), "{request}");
    }
    assert!(!client.take_ask(start + millis(19)));
    let hot = start + millis(20);
    assert!(client.forwarded(&server, hot));
    assert!(client.is_hot(hot));
    assert_eq!(client.heat(hot), 20);
    assert!(client.prefers(&server));
    assert!(!client.prefers(&crate::route::testing::server("cp-b", false)));
    // Asked once per minute at most.
    assert!(client.take_ask(hot));
    assert!(!client.take_ask(hot));
    assert!(!client.take_ask(hot + millis(59_999)));
    // It stays hot for a while, though nothing of it is seen any more; a relayed connection prolongs that.
    let last = hot + HOLD - millis(1);
    assert!(client.is_hot(last));
    assert!(!client.is_hot(hot + HOLD));
    assert_eq!(client.heat(last), 0);
    client.relayed(last);
    assert!(client.is_hot(hot + HOLD));
    assert!(client.take_ask(hot + HOLD));
    assert!(!client.is_hot(last + HOLD));
}

#[test]
fn slow_clients_never_become_hot() {
    let start = Instant::now();
    let client = HotTable::new(SETTINGS, start).client(ADDRESS, None, start);
    let server = server("cp-b", false);
    // 19 in every ten seconds, for an hour.
    for request in 0..6840 {
        let now = start + millis(request * 10_000 / 19);
        client.forwarded(&server, now);
        assert!(!client.is_hot(now), "{request}");
    }
}

#[test]
fn many_threads_lose_no_request() {
    let start = Instant::now();
    let settings = HotSettings {
        after: 1_000_000,
        window: Duration::from_secs(3600),
    };
    let client = HotTable::new(settings, start).client(ADDRESS, None, start);
    let server = server("cp-b", false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    client.forwarded(&server, start);
                }
            });
        }
    });
    assert_eq!(client.heat(start), 40_000);
}

#[test]
fn a_flood_of_names_forgets_the_coldest_and_never_the_hot() {
    let start = Instant::now();
    let table = HotTable::new(SETTINGS, start);
    let server = server("cp-b", false);
    let hot = table.client(ADDRESS, Some("kubernetes"), start);
    for _ in 0..20 {
        hot.forwarded(&server, start);
    }
    for name in 0..3 * MAX_CLIENTS as u64 {
        let now = start + millis(name / 10);
        table.client([10, 0, 0, 8].into(), Some(&format!("n{name}")), now);
        assert!(table.len() <= MAX_CLIENTS);
    }
    assert!(table.len() > MAX_CLIENTS / 2);
    assert!(table.find(ADDRESS, Some("kubernetes")).is_some());
    let last = 3 * MAX_CLIENTS - 1;
    let found = |name: usize| {
        table
            .find([10, 0, 0, 8].into(), Some(&format!("n{name}")))
            .is_some()
    };
    assert!(found(last) && !found(0));
}

#[test]
fn even_the_hot_are_bounded() {
    let start = Instant::now();
    let table = HotTable::new(SETTINGS, start);
    for name in 0..MAX_CLIENTS + 2 {
        table
            .client(ADDRESS, Some(&format!("n{name}")), start)
            .relayed(start);
        assert!(table.len() <= MAX_CLIENTS);
    }
}

proptest! {
    /// Against a list of every request: the sliding estimate lies between the requests of the present fixed window and those of
    /// both.
    #[test]
    fn the_estimate_is_near_the_truth(pauses in prop::collection::vec((0u64..4000, 1u64..8), 1..100)) {
        let start = Instant::now();
        let client = HotTable::new(SETTINGS, start).client(ADDRESS, None, start);
        let server = server("cp-b", false);
        let window = SETTINGS.window.as_millis() as u64;
        let mut all = VecDeque::new();
        // As the clock counts: from 1.
        let mut now = 1;
        for (pause, count) in pauses {
            now += pause;
            for _ in 0..count {
                all.push_back(now);
                client.forwarded(&server, start + millis(now - 1));
            }
            let here = now / window * window;
            let in_window = all.iter().filter(|at| **at >= here).count() as u64;
            let in_both = all.iter().filter(|at| **at + window >= here).count() as u64;
            let heat = client.heat(start + millis(now - 1));
            prop_assert!((in_window..=in_both).contains(&heat), "{in_window} <= {heat} <= {in_both}");
            if heat >= u64::from(SETTINGS.after) {
                prop_assert!(client.is_hot(start + millis(now - 1)));
            }
        }
    }

    #[test]
    fn counts_pack(epoch in 0..=EPOCH_MASK, before in 0..=COUNT_MAX, here in 0..=COUNT_MAX) {
        let counts = pack(epoch, before, here);
        prop_assert_eq!(current(counts, epoch), (before, here));
        prop_assert_eq!(current(counts, (epoch + 1) & EPOCH_MASK), (here, 0));
        prop_assert_eq!(current(counts, (epoch + 2) & EPOCH_MASK), (0, 0));
    }
}
