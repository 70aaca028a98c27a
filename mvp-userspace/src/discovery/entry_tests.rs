use super::*;

/// Whether what a server serves is listed as current, whose last confirmation is so long ago.
fn current(last: Last, ago: Duration) -> Option<bool> {
    let endpoint = Endpoint {
        name: "cp-b".to_owned(),
        host: "127.0.0.3".to_owned(),
        port: 6443,
    };
    let server = Arc::new(Server::new(endpoint.clone(), false));
    let entry = ServerEntry::new(server, endpoint);
    let confirmed = Instant::now();
    {
        let mut state = entry.state();
        state.confirmed = Some(confirmed);
        state.last = last;
    }
    let told = entry.report(confirmed + ago, Duration::from_secs(10));
    told.map(|told| told.current)
}

#[test]
fn a_restart_makes_nothing_stale() {
    let (restart, gone) = (OUTAGE - Duration::from_secs(1), OUTAGE);
    for last in [Last::Refused, Last::Silent, Last::Failed] {
        assert_eq!(current(last, restart), Some(true));
        assert_eq!(current(last, gone), Some(false));
    }
}
