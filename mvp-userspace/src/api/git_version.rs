//! `gitVersion` of a kube-apiserver as a value that can be compared: which server is the newest.

use std::cmp::Ordering;

/// `v1.36.3`, `v1.36.0-alpha.1+k3s1`, `v1.31.4-eks-2d5f260`.
///
/// Ordered as semantic versions are (semver.org, 11) with one exception: a suffix that does not begin with `alpha`, `beta` or
/// `rc` is a vendor's name and no pre-release (`-eks-…`, `-gke.…`), and comes after the plain version. Build metadata (`+…`)
/// decides last, so that the order is total and equal means the same text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GitVersion {
    /// The first number of `vMAJOR.MINOR.PATCH`; kube-apiserver's has been 1 since 2015.
    pub major: u32,
    /// The second number: servers of one control plane may differ by one in it (Kubernetes' version skew policy).
    pub minor: u32,
    /// The third number. Servers that differ only here can still serve different types, since vendors backport.
    pub patch: u32,
    /// What follows `-`, by dots.
    suffix: Vec<Part>,
    /// What follows `+`.
    build: String,
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Part {
    /// Numbers come before words.
    Number(u64),
    Word(String),
}

/// Longest text read; no release comes near.
const MAX: usize = 128;
const PRE_RELEASES: [&str; 3] = ["alpha", "beta", "rc"];

impl GitVersion {
    /// `None` for what is no version: kube-apiserver built without its version says `v0.0.0-master+$Format:%H$`, which is one.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        let text = text.strip_prefix('v').unwrap_or(text);
        let (text, build) = text.split_once('+').unwrap_or((text, ""));
        let (core, suffix) = text.split_once('-').unwrap_or((text, ""));
        let mut numbers = core.split('.').map(number);
        let version = Self {
            major: u32::try_from(numbers.next()??).ok()?,
            minor: u32::try_from(numbers.next()??).ok()?,
            patch: u32::try_from(numbers.next()??).ok()?,
            suffix: match suffix {
                "" => Vec::new(),
                suffix => suffix.split('.').map(part).collect(),
            },
            build: build.to_owned(),
        };
        numbers.next().is_none().then_some(version)
    }

    /// Whether the suffix begins with `alpha`, `beta` or `rc`. A vendor's suffix (`-eks-…`) is not a pre-release.
    pub fn is_pre_release(&self) -> bool {
        matches!(self.suffix.first(), Some(Part::Word(word)) if PRE_RELEASES.iter().any(|p| word.starts_with(p)))
    }
}

impl Ord for GitVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        let numbers = |v: &Self| (v.major, v.minor, v.patch);
        // A pre-release, the version itself, a vendor's.
        let stage = |v: &Self| match (v.is_pre_release(), v.suffix.is_empty()) {
            (true, _) => 0,
            (_, true) => 1,
            _ => 2,
        };
        numbers(self)
            .cmp(&numbers(other))
            .then_with(|| stage(self).cmp(&stage(other)))
            .then_with(|| self.suffix.cmp(&other.suffix))
            .then_with(|| self.build.cmp(&other.build))
    }
}

impl PartialOrd for GitVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn part(text: &str) -> Part {
    number(text).map_or_else(|| Part::Word(text.to_owned()), Part::Number)
}

/// Digits only, without leading zeros: with them it would be another text of the same value.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let plain = digits && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version(text: &str) -> GitVersion {
        GitVersion::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn in_order() {
        let ascending = [
            "v0.0.0-master+$Format:%H$",
            "v1.9.11",
            "v1.10.0",
            "v1.35.6",
            "v1.36.0-alpha.0",
            "v1.36.0-alpha.0+k3s1",
            "v1.36.0-alpha.1",
            "v1.36.0-alpha.2.33+abc",
            "v1.36.0-alpha.10",
            "v1.36.0-beta.0",
            "v1.36.0-rc.1",
            "v1.36.0",
            "v1.36.0+k3s1",
            "v1.36.0-eks-2d5f260",
            "v1.36.0-gke.1503000",
            "v1.36.1-alpha.0",
            "v1.36.1",
            "v2.0.0",
        ];
        for pair in ascending.windows(2) {
            assert!(version(pair[0]) < version(pair[1]), "{pair:?}");
        }
        assert!(version("v1.36.0-rc.1").is_pre_release());
        assert!(!version("v1.36.0-eks-2d5f260").is_pre_release());
        assert_eq!(version("1.36.3"), version("v1.36.3"));
    }

    #[test]
    fn what_is_no_version() {
        let long = format!("v1.2.3-{}", "x".repeat(MAX));
        for bad in [
            "",
            "v",
            "v1",
            "v1.36",
            "v1.36.x",
            "v1.36.0.1",
            "v1.036.0",
            "vv1.2.3",
            "v1.2.99999999999",
            "v1.2. 3",
            &long,
        ] {
            assert_eq!(GitVersion::parse(bad), None, "{bad}");
        }
    }

    fn any_version() -> impl Strategy<Value = String> {
        (
            0u32..3,
            0u32..40,
            0u32..3,
            "(-(alpha|beta|rc|eks|gke)([.-][a-z0-9]{1,3}){0,2})?(\\+[a-z0-9]{0,4})?",
        )
            .prop_map(|(major, minor, patch, rest)| format!("v{major}.{minor}.{patch}{rest}"))
    }

    proptest! {
        #[test]
        fn the_order_is_total(a in any_version(), b in any_version(), c in any_version()) {
            let [x, y, z] = [&a, &b, &c].map(|t| version(t));
            prop_assert_eq!(x.cmp(&y), y.cmp(&x).reverse());
            prop_assert_eq!(x.cmp(&y) == Ordering::Equal, x == y);
            if x <= y && y <= z {
                prop_assert!(x <= z);
            }
            let numbers = |v: &GitVersion| (v.major, v.minor, v.patch);
            if numbers(&x) < numbers(&y) {
                prop_assert!(x < y);
            }
        }

        #[test]
        fn any_text_does_no_harm(text in "\\PC{0,140}") {
            let _ = GitVersion::parse(&text);
        }
    }
}
