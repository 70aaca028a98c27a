//! Tables of stable codes with their meaning, for metrics, logs, `explain` and the documentation.

/// An enum whose variants have a code (snake case, stable: dashboards depend on it) and one line for people. Variants are
/// ordered as they are written.
macro_rules! codes {
    ($(#[$attribute:meta])* $name:ident { $($variant:ident $code:literal $meaning:literal,)+ }) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum $name {
            $(#[doc = $meaning] $variant,)+
        }

        impl $name {
            /// Every reason, in the order of the declaration.
            pub const ALL: &[$name] = &[$($name::$variant),+];

            /// The code, in snake case.
            pub fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $code,)+
                }
            }

            /// One line for people.
            pub fn meaning(self) -> &'static str {
                match self {
                    $($name::$variant => $meaning,)+
                }
            }
        }
    };
}

pub(super) use codes;

/// Fails unless the section `heading` of this page below `docs` has a table of exactly these codes and meanings, in this order.
#[cfg(test)]
pub(super) fn assert_documented<'a>(
    page: &str,
    heading: &str,
    codes: impl Iterator<Item = (&'a str, &'a str)>,
) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let docs = std::fs::read_to_string(folder.join(page)).unwrap();
    let section = docs
        .split(&format!("\n## {heading}\n"))
        .nth(1)
        .unwrap_or_else(|| panic!("docs/{page} has no section {heading:?}"));
    let section = section.split("\n## ").next().unwrap();
    let listed: Vec<_> = section
        .lines()
        .filter_map(|line| {
            line.strip_prefix("| `")?
                .strip_suffix(" |")?
                .split_once("` | ")
        })
        .collect();
    let ours: Vec<_> = codes.collect();
    assert_eq!(listed, ours, "docs/{page}, {heading}");
    let distinct: std::collections::BTreeSet<_> = ours.iter().map(|(code, _)| code).collect();
    assert_eq!(distinct.len(), ours.len(), "a code occurs twice");
}
