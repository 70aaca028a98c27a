//! Sets of servers.

/// A set of members of one [`super::RouteTable`], by their index in `members()`. Means nothing in another table.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ServerSet(u64);

impl ServerSet {
    /// No member.
    pub const EMPTY: ServerSet = ServerSet(0);

    /// The first `count` members; more than 64 count as 64.
    pub fn first(count: usize) -> Self {
        match count {
            64.. => Self(u64::MAX),
            _ => Self((1 << count) - 1),
        }
    }

    /// The set of one member; empty if the index is no member's.
    pub fn one(index: usize) -> Self {
        match index {
            64.. => Self::EMPTY,
            _ => Self(1 << index),
        }
    }

    /// The set as bits, member 0 the lowest: how it is pinned in the kernel.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The set of these bits.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Adds the member with this index; one of 64 and above is not added.
    pub fn insert(&mut self, index: usize) {
        self.0 |= Self::one(index).0;
    }

    /// Whether the member with this index is in it.
    pub fn contains(self, index: usize) -> bool {
        self.0 & Self::one(index).0 != 0
    }

    /// Whether no member is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many members are in it.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// The members that are in either.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The members that are in both.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The members that are in `self` and not in `other`.
    #[must_use]
    pub fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let index = rest.trailing_zeros() as usize;
            rest &= rest.wrapping_sub(1);
            (index < 64).then_some(index)
        })
    }
}

impl FromIterator<usize> for ServerSet {
    fn from_iter<I: IntoIterator<Item = usize>>(indices: I) -> Self {
        let mut set = Self::EMPTY;
        for index in indices {
            set.insert(index);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ends() {
        assert_eq!(ServerSet::first(0), ServerSet::EMPTY);
        assert_eq!(ServerSet::first(64).len(), 64);
        assert_eq!(ServerSet::first(65).len(), 64);
        assert!(ServerSet::one(64).is_empty());
        assert!(ServerSet::one(63).contains(63));
        assert!(!ServerSet::first(64).contains(64));
    }

    proptest! {
        #[test]
        fn is_a_set(a in proptest::collection::btree_set(0usize..64, 0..64), b in proptest::collection::btree_set(0usize..64, 0..64)) {
            let (x, y): (ServerSet, ServerSet) = (a.iter().copied().collect(), b.iter().copied().collect());
            let list = |set: ServerSet| set.iter().collect::<BTreeSet<_>>();
            prop_assert_eq!(&list(x), &a);
            prop_assert_eq!(x.len(), a.len());
            prop_assert_eq!(list(x.union(y)), a.union(&b).copied().collect::<BTreeSet<_>>());
            prop_assert_eq!(list(x.intersection(y)), a.intersection(&b).copied().collect::<BTreeSet<_>>());
            prop_assert_eq!(list(x.difference(y)), a.difference(&b).copied().collect::<BTreeSet<_>>());
        }
    }
}
