//! Readings of the per-CPU counters.

use mvp_common::Counter;

/// One reading of every [`Counter`], summed over the CPUs. Monotonic from one reading to the next of the same maps.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Counters([u64; Counter::COUNT as usize]);

impl Counters {
    /// The value of one counter.
    pub fn get(&self, counter: Counter) -> u64 {
        // Every index is below the length of the array.
        self.0.get(counter.index() as usize).copied().unwrap_or(0)
    }

    /// Every counter with its value, in index order.
    pub fn iter(&self) -> impl Iterator<Item = (Counter, u64)> + '_ {
        Counter::ALL
            .iter()
            .map(|&counter| (counter, self.get(counter)))
    }

    /// Reads each counter by `read`, which gives its value on every CPU.
    pub(super) fn read<I: IntoIterator<Item = u64>, E>(
        mut read: impl FnMut(Counter) -> Result<I, E>,
    ) -> Result<Self, E> {
        let mut values = [0; Counter::COUNT as usize];
        for &counter in Counter::ALL {
            let sum = read(counter)?.into_iter().fold(0, u64::wrapping_add);
            if let Some(value) = values.get_mut(counter.index() as usize) {
                *value = sum;
            }
        }
        Ok(Self(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_sums_over_cpus() {
        let counters = Counters::read(|c| Ok::<_, ()>([u64::from(c.index()), 10, 100])).unwrap();
        for (counter, value) in counters.iter() {
            assert_eq!(
                value,
                u64::from(counter.index()) + 110,
                "{}",
                counter.name()
            );
        }
        assert!(Counters::read(|_| Err::<[u64; 0], _>("no map")).is_err());
    }
}
