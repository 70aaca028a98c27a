//! The rooms of the agent's code: which folder of `mvp-userspace/src` may use which other one, and how long a file may be.
//!
//! The table stands in `docs/architecture.md`, where people read it. A room may only use rooms above it in the table, so that there is
//! no circle; it must name them, and name no other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::run::root;

/// The page with the table, and the heading under which it stands.
const PAGE: &str = "docs/architecture.md";
const HEADING: &str = "## The rooms";
/// The code that the table is about.
pub(crate) const SOURCE: &str = "mvp-userspace/src";
/// Folders whose files have a bound on their lines.
const BOUNDED: [&str; 6] = [
    "mvp-common/src",
    "mvp-ebpf/src",
    "mvp-userspace",
    "tests/src",
    "tests/tests",
    "xtask/src",
];
/// The most lines of a file of Rust.
const LINES: usize = 500;

/// # Errors
/// If the code uses what the table does not allow, if the table names what the code does not use, if a room is missing in either, or if
/// a file is too long; all of them are named.
pub(crate) fn check() -> Result<()> {
    let page = fs::read_to_string(root().join(PAGE)).context(PAGE)?;
    let table = table(&page);
    let mut faults = faults(&table, &uses()?);
    for folder in BOUNDED {
        for file in rust_files(&root().join(folder))? {
            let lines = fs::read_to_string(&file)?.lines().count();
            if lines > LINES {
                let file = file.strip_prefix(root()).unwrap_or(&file);
                faults.push(format!(
                    "{}: {lines} lines; {LINES} at most",
                    file.display()
                ));
            }
        }
    }
    if !faults.is_empty() {
        bail!(
            "the rooms are not as the table in {PAGE} says:\n{}",
            faults.join("\n")
        );
    }
    Ok(())
}

/// A row of the table: a room, and those that it uses.
type Row = (String, BTreeSet<String>);
/// What uses what, with one file that does.
type Uses = BTreeMap<String, BTreeMap<String, PathBuf>>;

/// The rows below the heading: the first cell names the room, the last one the rooms that it uses, each in backticks.
fn table(page: &str) -> Vec<Row> {
    let section = page.split(HEADING).nth(1).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.filter_map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split('|').collect();
        let room = names(cells.first()?).into_iter().next()?;
        Some((room, names(cells.last()?).into_iter().collect()))
    })
    .collect()
}

/// What stands in backticks.
fn names(cell: &str) -> Vec<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn faults(table: &[Row], uses: &Uses) -> Vec<String> {
    let mut faults = Vec::new();
    let mut above = BTreeSet::new();
    for (room, allowed) in table {
        let Some(used) = uses.get(room) else {
            faults.push(format!("{room} is in the table and not in {SOURCE}"));
            above.insert(room);
            continue;
        };
        for (other, file) in used {
            if !allowed.contains(other) {
                let file = file.display();
                faults.push(format!(
                    "{room} uses {other}, which its row does not allow: {file}"
                ));
            }
        }
        for other in allowed {
            if !above.contains(other) {
                faults.push(format!("{room} may use {other}, which is not above it"));
            }
            if !used.contains_key(other) {
                faults.push(format!("{room} does not use {other}, which its row allows"));
            }
        }
        above.insert(room);
    }
    let missing = uses.keys().filter(|room| !above.contains(room));
    faults.extend(missing.map(|room| format!("{room} has no row")));
    faults
}

/// What each room's files use. Tests may use everything: a test's file, or the module of tests at a file's end, does not count.
fn uses() -> Result<Uses> {
    let source = root().join(SOURCE);
    let mut files = BTreeMap::<String, Vec<PathBuf>>::new();
    for file in rust_files(&source)? {
        let inside = file.strip_prefix(&source)?;
        let first = inside
            .components()
            .next()
            .context("a file without a name")?;
        let room = first.as_os_str().to_string_lossy().replace(".rs", "");
        if room != "lib" && room != "main" {
            files.entry(room).or_default().push(inside.to_owned());
        }
    }
    let mut uses = Uses::new();
    for (room, inside) in &files {
        let used = uses.entry(room.clone()).or_default();
        for file in inside.iter().filter(|file| !is_of_tests(file)) {
            let text = fs::read_to_string(source.join(file))?;
            for other in used_by(&text) {
                if other != *room && files.contains_key(&other) {
                    used.entry(other).or_insert_with(|| file.clone());
                }
            }
        }
    }
    Ok(uses)
}

/// By the names that files of tests have here.
pub(crate) fn is_of_tests(file: &Path) -> bool {
    file.components().any(|part| {
        let name = part.as_os_str().to_string_lossy();
        let name = name.trim_end_matches(".rs");
        matches!(name, "tests" | "testing") || name.ends_with("_tests")
    })
}

/// The first names behind `crate::`, in paths and in lists, without comments and without the tests at the end.
fn used_by(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next();
    let lines = code.unwrap_or_default().lines();
    let code: String = lines
        .map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n")
        .collect();
    let mut used = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            None => used.extend(first_name(rest)),
            Some(list) => used.extend(first_names(list)),
        }
    }
    used
}

/// `a::{b, c}, d}` has `a` and `d`.
fn first_names(list: &str) -> Vec<String> {
    let (mut depth, mut begins, mut found) = (0, true, Vec::new());
    for (at, letter) in list.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            _ if letter.is_whitespace() => {}
            _ if begins => {
                found.extend(first_name(&list[at..]));
                begins = false;
            }
            _ => {}
        }
    }
    found
}

fn first_name(text: &str) -> Option<String> {
    let name: String = text
        .chars()
        .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
        .collect();
    (!name.is_empty()).then_some(name)
}

/// Every file of Rust in a folder and below, sorted by path.
pub(crate) fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut left = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "# Page\n\n## The rooms\n\n| room | has | uses |\n|---|---|---|\n| `api` | names | |\n\
        | `net` | sockets, of `api` nothing | |\n| `route` | decisions | `api`, `net` |\n\n## Other\n\n| `x` | no room | |\n";

    fn uses(all: &[(&str, &[&str])]) -> Uses {
        let file = |other: &&str| ((*other).to_owned(), PathBuf::from("some.rs"));
        all.iter()
            .map(|(room, others)| ((*room).to_owned(), others.iter().map(file).collect()))
            .collect()
    }

    #[test]
    fn the_table_is_read() {
        let expected: [(&str, &[&str]); 3] =
            [("api", &[]), ("net", &[]), ("route", &["api", "net"])];
        let expected = expected.map(|(room, used)| {
            let used = used.iter().map(|name| (*name).to_owned()).collect();
            (room.to_owned(), used)
        });
        assert_eq!(table(TABLE), expected);
    }

    #[test]
    fn what_the_table_says_is_what_the_code_may_do() {
        let table = table(TABLE);
        let as_it_says: &[(&str, &[&str])] =
            &[("api", &[]), ("net", &[]), ("route", &["api", "net"])];
        assert_eq!(faults(&table, &uses(as_it_says)), [""; 0]);
        for (code, fault) in [
            (
                vec![
                    ("api", &["net"][..]),
                    ("net", &[]),
                    ("route", &["api", "net"]),
                ],
                "api uses net, which its row does not allow: some.rs",
            ),
            (
                vec![("api", &[]), ("net", &[]), ("route", &["api"])],
                "route does not use net, which its row allows",
            ),
            (
                vec![
                    ("api", &[]),
                    ("net", &[]),
                    ("route", &["api", "net"]),
                    ("new", &[]),
                ],
                "new has no row",
            ),
            (
                vec![("api", &[]), ("route", &["api", "net"])],
                "net is in the table and not in mvp-userspace/src",
            ),
        ] {
            assert_eq!(faults(&table, &uses(&code)), [fault]);
        }
    }

    #[test]
    fn an_arrow_back_up_is_a_fault() {
        let page = TABLE.replace("| names | |", "| names | `route` |");
        let code: &[(&str, &[&str])] = &[
            ("api", &["route"]),
            ("net", &[]),
            ("route", &["api", "net"]),
        ];
        assert_eq!(
            faults(&table(&page), &uses(code)),
            ["api may use route, which is not above it"]
        );
    }

    #[test]
    fn paths_and_lists_are_seen_and_comments_and_tests_are_not() {
        let text = "//! [`crate::no::X`]\nuse crate::a::B;\nuse crate::{\n    b::{self, c::D}, e, // crate::no\n};\n\
            fn f() { crate::g::h() }\npub(crate) fn g() {}\n#[cfg(test)]\nmod tests {\n    use crate::no;\n}\n";
        let used: Vec<_> = used_by(text).into_iter().collect();
        assert_eq!(used, ["a", "b", "e", "g"]);
        assert!(is_of_tests(Path::new("route/decide/tests.rs")));
        assert!(is_of_tests(Path::new("route/guard_tests.rs")));
        assert!(is_of_tests(Path::new("identity/tests/shapes.rs")));
        assert!(!is_of_tests(Path::new("splice/selftest.rs")));
    }
}
