//! A scrape of `/metrics`, read as strictly as Prometheus reads it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};

/// Samples by name and sorted labels, `mvp_requests_total{code="200",decision="probe",server="cp-a"}`.
#[derive(Debug)]
pub struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    /// # Errors
    /// The text is no OpenMetrics: no end, a sample of no family, a family or a sample twice, a value that is no number.
    pub fn parse(text: &str) -> Result<Self> {
        let body = text.strip_suffix("# EOF\n").context("no # EOF")?;
        let mut families = BTreeSet::new();
        let mut samples = BTreeMap::new();
        let mut family = String::new();
        for line in body.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let (word, rest) = comment.split_once(' ').context("comment")?;
                let name = rest.split(' ').next().unwrap_or_default();
                if name != family {
                    ensure!(families.insert(name.to_owned()), "family {name} twice");
                    family = name.to_owned();
                }
                ensure!(["HELP", "TYPE", "UNIT"].contains(&word), "{line}");
                continue;
            }
            let (series, value) = line
                .rsplit_once(' ')
                .with_context(|| format!("no sample: {line}"))?;
            let name = series.split('{').next().unwrap_or_default();
            let suffix = name.strip_prefix(&family);
            let known = ["", "_total", "_sum", "_count", "_bucket"];
            ensure!(
                suffix.is_some_and(|suffix| known.contains(&suffix)),
                "{name} below family {family}"
            );
            let value = value.parse().with_context(|| line.to_owned())?;
            let series = normal(series)?;
            if samples.insert(series.clone(), value).is_some() {
                bail!("sample {series} twice");
            }
        }
        Ok(Self(samples))
    }

    /// 0 if it is not there. The order of labels does not matter.
    pub fn get(&self, series: &str) -> f64 {
        let series = normal(series).unwrap();
        self.0.get(&series).copied().unwrap_or(0.0)
    }

    /// Whether there is a sample with this name and these labels.
    pub fn has(&self, series: &str) -> bool {
        self.0.contains_key(&normal(series).unwrap())
    }

    /// The sum of all samples of a name, whatever their labels.
    pub fn sum(&self, name: &str) -> f64 {
        self.of(name).map(|(_, value)| value).sum()
    }

    /// All samples of a name.
    pub fn of(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        self.0
            .iter()
            .filter(move |(series, _)| series.split('{').next() == Some(name))
            .map(|(series, value)| (series.as_str(), *value))
    }
}

/// Labels sorted. No label value of ours holds a comma or a brace.
fn normal(series: &str) -> Result<String> {
    let Some((name, labels)) = series.split_once('{') else {
        return Ok(series.to_owned());
    };
    let labels = labels.strip_suffix('}').context("no }")?;
    let mut labels: Vec<_> = labels.split(',').collect();
    labels.sort_unstable();
    Ok(format!("{name}{{{}}}", labels.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_prometheus_would_refuse_is_refused() {
        let good = "# HELP a A.\n# TYPE a counter\na_total{x=\"1\",b=\"2\"} 3\n# EOF\n";
        let scrape = Scrape::parse(good).unwrap();
        assert_eq!(scrape.get("a_total{b=\"2\",x=\"1\"}"), 3.0);
        assert_eq!(scrape.sum("a_total"), 3.0);
        for bad in [
            "# TYPE a counter\na_total 1\n",
            "# TYPE a counter\nb_total 1\n# EOF\n",
            "# TYPE a counter\na_total 1\na_total 2\n# EOF\n",
            "# TYPE a counter\na_total{x=\"1\",y=\"1\"} 1\na_total{y=\"1\",x=\"1\"} 2\n# EOF\n",
            "# TYPE a counter\n# TYPE b gauge\n# TYPE a counter\n# EOF\n",
            "# TYPE a counter\na_total x\n# EOF\n",
        ] {
            assert!(Scrape::parse(bad).is_err(), "{bad}");
        }
    }
}
