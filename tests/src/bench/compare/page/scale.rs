//! From values to places in a chart.

/// From 0 to the largest value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Linear {
    most: f64,
    length: f64,
}

impl Linear {
    /// `length` is the place of `most`.
    pub(super) fn new(most: f64, length: f64) -> Self {
        Self { most, length }
    }

    /// Never outside of the chart.
    pub(super) fn at(self, value: f64) -> f64 {
        if self.most <= 0.0 || !value.is_finite() {
            return 0.0;
        }
        (value / self.most).clamp(0.0, 1.0) * self.length
    }
}

/// Decades, from the bottom of a chart to its top.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Decades {
    /// Powers of ten.
    from: i32,
    to: i32,
    height: f64,
}

impl Decades {
    /// The fewest whole decades with all of these values in them; at least one. What is not above 0 has no place and is left out.
    pub(super) fn of(values: impl Iterator<Item = f64>, height: f64) -> Self {
        let (mut from, mut to) = (i32::MAX, i32::MIN);
        for value in values.filter(|value| *value > 0.0 && value.is_finite()) {
            let power = value.log10();
            from = from.min(power.floor() as i32);
            to = to.max(power.ceil() as i32);
        }
        if from > to {
            (from, to) = (0, 1);
        }
        Self {
            from,
            to: to.max(from + 1),
            height,
        }
    }

    /// From the top; never outside of the chart.
    pub(super) fn at(self, value: f64) -> f64 {
        let power = value.max(f64::MIN_POSITIVE).log10();
        let share = (power - f64::from(self.from)) / f64::from(self.to - self.from);
        self.height * (1.0 - share.clamp(0.0, 1.0))
    }

    /// The powers of ten from the top to the bottom.
    pub(super) fn ticks(self) -> impl Iterator<Item = f64> {
        (self.from..=self.to).rev().map(|power| 10f64.powi(power))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_share() {
        let scale = Linear::new(200.0, 100.0);
        assert_eq!(
            [0.0, 50.0, 200.0, 900.0, -1.0].map(|value| scale.at(value)),
            [0.0, 25.0, 100.0, 100.0, 0.0]
        );
        assert_eq!(Linear::new(0.0, 100.0).at(0.0), 0.0);
        assert_eq!(Linear::new(1.0, 100.0).at(f64::NAN), 0.0);
    }

    #[test]
    fn decades_hold_all_values() {
        let scale = Decades::of([0.0, 0.4, 3.0, 40.0].into_iter(), 300.0);
        assert_eq!(scale.ticks().collect::<Vec<_>>(), [100.0, 10.0, 1.0, 0.1]);
        let near =
            |value: f64, place: f64| assert!((scale.at(value) - place).abs() < 1e-9, "{value}");
        near(100.0, 0.0);
        near(10.0, 100.0);
        near(0.1, 300.0);
        near(0.0, 300.0);
        near(1e9, 0.0);
    }

    #[test]
    fn one_value_and_none_have_a_decade_as_well() {
        assert_eq!(
            Decades::of([10.0].into_iter(), 1.0)
                .ticks()
                .collect::<Vec<_>>(),
            [100.0, 10.0]
        );
        assert_eq!(
            Decades::of([0.0].into_iter(), 1.0)
                .ticks()
                .collect::<Vec<_>>(),
            [10.0, 1.0]
        );
    }
}
