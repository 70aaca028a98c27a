//! One order for the items of several lists.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::Hash;

/// Every item of `lists` once, in an order that does not depend on the order of the lists.
///
/// - Lists that are all the same keep their order, whatever it is.
/// - Else items of a lower class come before those of a higher one.
/// - Within a class an item that some list has before another stays before it, unless the lists disagree: then all items of the
///   circle that the disagreement makes stand together, by `key`. What no list orders comes by `key`.
///
/// `key` must be different for all items. A list names an item once.
pub(super) fn combine<T, K>(
    lists: &[Vec<T>],
    class: impl Fn(T) -> u8,
    key: impl Fn(T) -> K,
) -> Vec<T>
where
    T: Copy + Eq + Hash,
    K: Ord,
{
    let mut lists = lists.iter().filter(|list| !list.is_empty());
    let Some(first) = lists.next() else {
        return Vec::new();
    };
    let rest: Vec<&Vec<T>> = lists.collect();
    if rest.iter().all(|list| *list == first) {
        return first.clone();
    }

    let mut items: Vec<T> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for list in std::iter::once(first).chain(rest.iter().copied()) {
        items.extend(list.iter().copied().filter(|item| seen.insert(*item)));
    }
    // From here on an item is its place in the order of class and key.
    items.sort_by_cached_key(|item| (class(*item), key(*item)));
    let places: HashMap<T, usize> = items
        .iter()
        .enumerate()
        .map(|(n, item)| (*item, n))
        .collect();
    let classes: Vec<u8> = items.iter().map(|item| class(*item)).collect();

    let mut after: Vec<Vec<usize>> = vec![Vec::new(); items.len()];
    for list in std::iter::once(first).chain(rest.iter().copied()) {
        let mut last: HashMap<u8, usize> = HashMap::new();
        for place in list.iter().filter_map(|item| places.get(item).copied()) {
            let Some(class) = classes.get(place) else {
                continue;
            };
            if let Some(before) = last.insert(*class, place)
                && let Some(edges) = after.get_mut(before)
            {
                edges.push(place);
            }
        }
    }
    topological(&after)
        .into_iter()
        .filter_map(|place| items.get(place).copied())
        .collect()
}

/// The nodes of a graph in topological order, the smallest first where there is a choice. The nodes of a circle count as one,
/// as small as their smallest, and stand together in ascending order.
fn topological(after: &[Vec<usize>]) -> Vec<usize> {
    let component = components(after);
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); after.len()];
    let mut waits_for: Vec<usize> = vec![0; after.len()];
    for (node, of) in component.iter().enumerate() {
        if let Some(members) = members.get_mut(*of) {
            members.push(node);
        }
    }
    let leaving = |of: usize| {
        let nodes = members.get(of).map_or(&[][..], Vec::as_slice);
        nodes
            .iter()
            .filter_map(|node| after.get(*node))
            .flatten()
            .filter_map(|next| component.get(*next).copied())
            .filter(move |next| *next != of)
    };
    for of in 0..members.len() {
        for next in leaving(of) {
            if let Some(count) = waits_for.get_mut(next) {
                *count += 1;
            }
        }
    }

    let mut ready: BinaryHeap<Reverse<usize>> = members
        .iter()
        .enumerate()
        .filter(|(of, members)| !members.is_empty() && waits_for.get(*of) == Some(&0))
        .map(|(of, _)| Reverse(of))
        .collect();
    let mut order = Vec::with_capacity(after.len());
    while let Some(Reverse(of)) = ready.pop() {
        if let Some(members) = members.get(of) {
            order.extend(members);
        }
        for next in leaving(of) {
            if let Some(count) = waits_for.get_mut(next) {
                *count -= 1;
                if *count == 0 {
                    ready.push(Reverse(next));
                }
            }
        }
    }
    order
}

/// For each node the smallest node of its strongly connected component (Tarjan's algorithm, without recursion: lists may be
/// as long as a document).
fn components(after: &[Vec<usize>]) -> Vec<usize> {
    const UNSEEN: usize = usize::MAX;
    let mut component = vec![UNSEEN; after.len()];
    let mut index = vec![UNSEEN; after.len()];
    let mut low = vec![UNSEEN; after.len()];
    let mut stack: Vec<usize> = Vec::new();
    let mut visited = 0;
    for root in 0..after.len() {
        if index.get(root) != Some(&UNSEEN) {
            continue;
        }
        // A node and how many of its edges are done.
        let mut calls: Vec<(usize, usize)> = vec![(root, 0)];
        while let Some((node, edge)) = calls.pop() {
            if edge == 0 {
                set(&mut index, node, visited);
                set(&mut low, node, visited);
                visited += 1;
                stack.push(node);
            }
            let edges = after.get(node).map_or(&[][..], Vec::as_slice);
            // The edge before this one led into a node that is done by now.
            if let Some(done) = edge.checked_sub(1).and_then(|n| edges.get(n))
                && component.get(*done) == Some(&UNSEEN)
            {
                let reached = get(&low, *done).min(get(&low, node));
                set(&mut low, node, reached);
            }
            if let Some(next) = edges.get(edge) {
                calls.push((node, edge + 1));
                if get(&index, *next) == UNSEEN {
                    calls.push((*next, 0));
                }
                continue;
            }
            if get(&low, node) == get(&index, node) {
                let from = stack.iter().rposition(|n| *n == node).unwrap_or(0);
                let members = stack.split_off(from);
                let smallest = members.iter().min().copied().unwrap_or(node);
                for member in members {
                    set(&mut component, member, smallest);
                }
            }
        }
    }
    component
}

fn get(of: &[usize], node: usize) -> usize {
    of.get(node).copied().unwrap_or(usize::MAX)
}

fn set(of: &mut [usize], node: usize, value: usize) {
    if let Some(place) = of.get_mut(node) {
        *place = value;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn combined(lists: &[&str]) -> String {
        let lists: Vec<Vec<char>> = lists.iter().map(|list| list.chars().collect()).collect();
        combine(&lists, |_| 0, |item| item).into_iter().collect()
    }

    #[test]
    fn orders() {
        for (lists, expected) in [
            (&["cab", "cab"][..], "cab"),
            (&["cab", "", "cab"], "cab"),
            (&["ca", "cb"], "cab"),
            (&["cb", "ab"], "acb"),
            (&["zx", "za", "y"], "yzax"),
            // Transitive: d before b before a.
            (&["db", "ba"], "dba"),
            // A circle of two falls back to the key, what is around it does not.
            (&["zbay", "ab"], "zaby"),
            // A circle that no two lists make alone.
            (&["bc", "ca", "ab", "xb"], "xabc"),
            (&[], ""),
        ] {
            assert_eq!(combined(lists), expected, "{lists:?}");
        }
    }

    #[test]
    fn classes_come_first() {
        let lists = [
            vec!["x2", "a1", "b1"],
            vec!["x2", "c1", "y2"],
            vec!["b1", "y2"],
        ];
        let class = |item: &str| item.as_bytes()[1];
        assert_eq!(
            combine(&lists, class, |item| item),
            ["a1", "b1", "c1", "x2", "y2"]
        );
    }

    #[test]
    fn long_lists() {
        let long: Vec<u32> = (0..100_000).rev().collect();
        let mut longer = long.clone();
        longer.push(100_000);
        assert_eq!(
            combine(&[long.clone(), longer.clone()], |_| 0, |n| n),
            longer
        );
        let forwards: Vec<u32> = (0..100_000).collect();
        assert_eq!(combine(&[long, forwards.clone()], |_| 0, |n| n), forwards);
    }

    fn list() -> impl Strategy<Value = Vec<u8>> {
        Just((0..12u8).collect::<Vec<_>>())
            .prop_shuffle()
            .prop_flat_map(|all| proptest::sample::subsequence(all, 0..8))
    }

    fn is_before(list: &[u8], a: u8, b: u8) -> bool {
        let place = |x| list.iter().position(|item| *item == x);
        matches!((place(a), place(b)), (Some(a), Some(b)) if a < b)
    }

    proptest! {
        #[test]
        fn lists_of_one_order_keep_it(
            all in Just((0..12u8).collect::<Vec<_>>()).prop_shuffle(),
            masks in proptest::collection::vec(any::<u16>(), 1..6),
        ) {
            let lists: Vec<Vec<u8>> = masks
                .iter()
                .map(|mask| all.iter().copied().filter(|n| mask & (1 << n) != 0).collect())
                .collect();
            let result = combine(&lists, |_| 0, |item| item);
            for list in &lists {
                for pair in list.windows(2) {
                    prop_assert!(is_before(&result, pair[0], pair[1]), "{lists:?} -> {result:?}");
                }
            }
        }

        #[test]
        fn every_item_once_whatever_the_order_of_lists(
            lists in proptest::collection::vec(list(), 0..5),
            turn in 0..5usize,
        ) {
            let class = |item: u8| item % 3;
            let result = combine(&lists, class, |item| item);
            let mut expected: Vec<u8> = lists.concat();
            expected.sort_unstable();
            expected.dedup();
            let mut sorted = result.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, expected);

            let mut turned = lists.clone();
            turned.reverse();
            let turn = turn.min(turned.len());
            turned.rotate_left(turn);
            prop_assert_eq!(&combine(&turned, class, |item| item), &result);

            let alike = lists.iter().filter(|l| !l.is_empty()).all(|l| *l == result);
            prop_assert!(alike || result.is_sorted_by_key(|item| class(*item)));
        }
    }
}
