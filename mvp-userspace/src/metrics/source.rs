//! Values that live elsewhere and are read when somebody scrapes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::{MetricKind, Spec};

/// Collects the samples of one scrape.
#[derive(Default)]
pub struct Sink {
    /// By name, since all samples of a family stand together in the output.
    families: BTreeMap<&'static str, (&'static Spec, Vec<Sample>)>,
}

type Sample = (Vec<(&'static str, String)>, f64);

impl Sink {
    /// One value; `labels` in the order of the table. Counters must never fall. Histograms cannot be given here.
    pub fn set(&mut self, spec: &'static Spec, labels: &[&str], value: f64) {
        debug_assert_eq!(labels.len(), spec.labels.len(), "{}", spec.name);
        debug_assert_ne!(spec.kind, MetricKind::Histogram, "{}", spec.name);
        let names = spec.labels.iter().copied();
        let labels = names.zip(labels.iter().map(|l| (*l).to_owned())).collect();
        let (_, samples) = self
            .families
            .entry(spec.name)
            .or_insert_with(|| (spec, Vec::new()));
        samples.push((labels, value));
    }
}

pub(super) type Source = Box<dyn Fn(&mut Sink) + Send + Sync>;

/// Every registered source, as the one collector the registry knows.
#[derive(Clone, Default)]
pub(super) struct Sources(Arc<RwLock<Vec<Source>>>);

impl Sources {
    pub(super) fn add(&self, source: Source) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.push(source);
    }
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut sink = Sink::default();
        for source in &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            source(&mut sink);
        }
        for (spec, samples) in sink.families.values() {
            let kind = match spec.kind {
                MetricKind::Counter => MetricType::Counter,
                MetricKind::Gauge | MetricKind::Histogram => MetricType::Gauge,
            };
            // The registry adds this full stop to every other help text.
            let help = format!("{}.", spec.help);
            let mut family = encoder.encode_descriptor(spec.base(), &help, None, kind)?;
            for (labels, value) in samples {
                if labels.is_empty() {
                    // An empty label set would be written as `{}`.
                    encode(&mut family, spec.kind, value)?;
                } else {
                    encode(&mut family.encode_family(labels)?, spec.kind, value)?;
                }
            }
        }
        Ok(())
    }
}

fn encode(metric: &mut MetricEncoder<'_>, kind: MetricKind, value: &f64) -> Result<(), fmt::Error> {
    match kind {
        MetricKind::Counter => metric.encode_counter::<NoLabelSet, f64, f64>(value, None),
        MetricKind::Gauge | MetricKind::Histogram => metric.encode_gauge(value),
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sources")
    }
}
