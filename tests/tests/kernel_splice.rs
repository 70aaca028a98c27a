//! Pairs of sockets joined in a real kernel.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use mvp::kernel::Splice;
use mvp::splice::selftest;
use mvp_tests::netns::{Namespace, privileged};

#[test]
fn the_self_test_passes() {
    if !privileged("the_self_test_passes", true) {
        return;
    }
    Namespace::new()
        .unwrap()
        .run(|| {
            let splice = Splice::load().unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let report = runtime.block_on(selftest::run(&splice));
            println!("{report} in {:?}: {:?}", report.took, report.cases);
            assert_eq!(report.failure(), None);
        })
        .unwrap();
}
