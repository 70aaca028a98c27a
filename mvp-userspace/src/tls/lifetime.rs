//! How much of a certificate's life is left.

/// Validity in Unix seconds, both ends included.
pub type Validity = (i64, i64);

/// The part of its life that a certificate is in, in order.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Lifetime {
    /// More than 20 % of the lifetime are left.
    Fresh,
    /// At most 20 % of the lifetime are left.
    Aging,
    /// At most 5 % of the lifetime are left.
    Ending,
    /// It verifies nowhere any more.
    Expired,
}

impl Lifetime {
    /// The part of `validity` that `now` (Unix seconds) falls into.
    pub fn at((not_before, not_after): Validity, now: i64) -> Self {
        let whole = i128::from(not_after) - i128::from(not_before);
        let left = i128::from(not_after) - i128::from(now);
        if left < 0 {
            Self::Expired
        } else if left * 20 <= whole {
            Self::Ending
        } else if left * 5 <= whole {
            Self::Aging
        } else {
            Self::Fresh
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Lifetime;

    #[test]
    fn thresholds() {
        let at = |now| Lifetime::at((1000, 2000), now);
        assert_eq!(at(0), Lifetime::Fresh, "not yet valid is not old");
        assert_eq!(at(1799), Lifetime::Fresh);
        assert_eq!(at(1800), Lifetime::Aging);
        assert_eq!(at(1949), Lifetime::Aging);
        assert_eq!(at(1950), Lifetime::Ending);
        assert_eq!(at(2000), Lifetime::Ending, "notAfter itself is still valid");
        assert_eq!(at(2001), Lifetime::Expired);
        assert_eq!(
            Lifetime::at((i64::MIN, i64::MAX), 0),
            Lifetime::Fresh,
            "no overflow"
        );
    }
}
