//! Label sets whose names come from the table of metrics.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::{Spec, zeros};

/// Name and value of each label.
pub(super) type Labels<const N: usize> = [(&'static str, Arc<str>); N];

/// A metric with `N` labels.
pub(super) struct Labelled<const N: usize, M, C = fn() -> M> {
    spec: &'static Spec,
    pub family: Family<Labels<N>, M, C>,
}

pub(super) type Counters<const N: usize> = Labelled<N, Counter, fn() -> Counter>;

impl<const N: usize> Counters<N> {
    pub(super) fn register(registry: &mut Registry, spec: &'static Spec) -> Self {
        let family = Family::new_with_constructor(Counter::default as fn() -> Counter);
        registry.register(spec.base(), spec.help, family.clone());
        Self { spec, family }
    }

    /// One of a counter whose label values are known before. In tests another value is an error of the list.
    pub(super) fn known(&self, values: [&str; N]) -> Counter {
        debug_assert!(
            values
                .iter()
                .all(|value| zeros::words(self.spec).contains(value)),
            "metrics/zeros.rs does not know {values:?} of {}",
            self.spec.name
        );
        self.get(values)
    }

    /// Takes a lock and allocates: not for every request.
    pub(super) fn get(&self, values: [&str; N]) -> Counter {
        self.family.get_or_create_owned(&self.labels(values))
    }
}

impl Counters<1> {
    /// With a zero for every value that is known.
    pub(super) fn start(&self) {
        for word in zeros::words(self.spec) {
            self.get([word]);
        }
    }
}

impl<const N: usize, M, C> Labelled<N, M, C> {
    pub(super) fn new(spec: &'static Spec, family: Family<Labels<N>, M, C>) -> Self {
        Self { spec, family }
    }

    pub(super) fn labels(&self, values: [&str; N]) -> Labels<N> {
        let mut names = self.spec.labels.iter();
        values.map(|value| (names.next().copied().unwrap_or_default(), Arc::from(value)))
    }
}
