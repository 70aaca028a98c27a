//! State that the kernel keeps: route tables for whoever comes next, and what the program cost.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::common::{tables::*, *};
use mvp::kernel::{Error, Reason, RouteWriter, Steering, enable_run_time, read_pinned};

const SERVER: &str = "127.0.0.1:6443";

#[test]
fn readers_see_whole_tables_only() {
    pinned("readers_see_whole_tables_only", |path| {
        let mut steering = Steering::install(path).unwrap();
        let mut routes: RouteWriter = steering.take_routes().unwrap();
        assert!(read_pinned(path).unwrap().table.is_none());
        // Table n has n routes, so that a mixture is neither.
        let tables: Vec<_> = (0..60).map(|n| table(n as u64, n)).collect();
        let forms: Vec<_> = tables.iter().map(pinned_form).collect();
        let written = routes.write(&tables[50]).unwrap();
        assert_eq!(
            (written.routes, written.servers, written.omitted),
            (50, 2, 0)
        );
        let stop = Arc::new(AtomicBool::new(false));
        thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let mut read = 0;
                while !stop.load(Ordering::SeqCst) {
                    match read_pinned(path) {
                        Ok(view) => {
                            let table = view.table.unwrap();
                            assert_eq!(table, forms[table.generation as usize]);
                            read += 1;
                        }
                        // Replaced each time it was read: it says so, and never gives a half.
                        Err(Error::Torn) => {}
                        Err(e) => panic!("{e}"),
                    }
                }
                read
            });
            for _ in 0..20 {
                for table in &tables {
                    routes.write(table).unwrap();
                }
            }
            eventually("a quiet reading", || {
                read_pinned(path).unwrap().table.as_ref() == forms.last()
            });
            stop.store(true, Ordering::SeqCst);
            assert!(reading.join().unwrap() > 0);
        });
        // What it says of a server is what was known of it.
        let table = read_pinned(path).unwrap().table.unwrap();
        let apis = |server: usize| tables[59].member(server).unwrap().apis.clone().unwrap();
        for server in 0..2 {
            assert_eq!(table.apis(server), *apis(server));
        }
        assert!(
            table.servers[0].local && table.servers[0].confirmed && !table.servers[1].confirmed
        );
        assert_eq!(table.servers[0].address, Some("127.0.0.2".parse().unwrap()));
        assert_eq!(
            (table.servers[1].host.as_str(), table.servers[1].address),
            ("cp-b.example.com", None)
        );

        // More than the map holds: said, not hidden.
        let written = routes
            .write(&crate::common::tables::table(60, 9000))
            .unwrap();
        assert_eq!((written.routes, written.omitted), (8192, 808));
        let table = read_pinned(path).unwrap().table.unwrap();
        assert_eq!((table.routes.len(), table.omitted), (8192, 808));
    });
}

#[test]
fn the_programs_cost_is_measured() {
    pinned("the_programs_cost_is_measured", |path| {
        let _server = Greeter::everywhere(b'S', PORT);
        let agent = Greeter::everywhere(b'A', 0);
        let mut steering = Steering::install(path).unwrap();
        steer_port(&mut steering);
        steering.set_listeners(&[agent.fd()]).unwrap();
        let _beating = Beating::start(&mut steering);
        assert_eq!(steering.run_time().unwrap().runs, 0);
        assert_eq!(ask(SERVER), 'S');
        assert_eq!(steering.run_time().unwrap().runs, 0, "measured unasked");
        let _statistics = enable_run_time().unwrap();
        let mut before = steering.run_time().unwrap();
        for (state, who) in [("idle", 'S'), ("armed", 'A')] {
            for _ in 0..200 {
                assert_eq!(ask(SERVER), who);
            }
            let now = steering.run_time().unwrap();
            let (runs, time) = (now.runs - before.runs, now.time - before.time);
            assert!(
                runs >= 200 && time > Duration::ZERO,
                "{state}: {before:?} {now:?}"
            );
            println!("{state}: {:?} a run", time / u32::try_from(runs).unwrap());
            steering.arm(Reason::Operator).unwrap();
            before = steering.run_time().unwrap();
        }
    });
}
