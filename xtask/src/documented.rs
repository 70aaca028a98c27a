//! Comments on what rooms share with each other. rustc's `missing_docs` sees what other crates can use; what only this crate can use,
//! and every room of it, is looked at here.

use std::{fs, path::Path};

use anyhow::{Result, bail};

use crate::{
    rooms::{SOURCE, is_of_tests, rust_files},
    run::root,
};

/// The words that may stand between `pub(crate)` and the word for the kind of item.
const QUALIFIERS: [&str; 4] = ["async", "const", "unsafe", "extern"];
/// What must have a comment.
const ITEMS: [&str; 8] = [
    "fn", "struct", "enum", "union", "trait", "type", "const", "static",
];

/// # Errors
/// If an item that is `pub(crate)` has no documentation comment; all such items are named.
pub(crate) fn check() -> Result<()> {
    let mut faults = Vec::new();
    let source = root().join(SOURCE);
    for file in rust_files(&source)? {
        let inside = file.strip_prefix(&source)?;
        if is_of_tests(inside) {
            continue;
        }
        faults.extend(undocumented(inside, &fs::read_to_string(&file)?));
    }
    if !faults.is_empty() {
        bail!(
            "these are used between rooms and have no comment that says what they are for:\n{}",
            faults.join("\n")
        );
    }
    Ok(())
}

/// The items of a file that have no comment, as `FILE:LINE: ITEM`. The tests at the file's end do not count.
fn undocumented(file: &Path, text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next();
    let lines: Vec<&str> = code.unwrap_or_default().lines().map(str::trim).collect();
    let mut faults = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if is_item(line) && !is_documented(lines.get(..at).unwrap_or_default()) {
            faults.push(format!("{}:{}: {line}", file.display(), at + 1));
        }
    }
    faults
}

fn is_item(line: &str) -> bool {
    let Some(rest) = line.strip_prefix("pub(crate) ") else {
        return false;
    };
    let mut words = rest.split_whitespace();
    // `const fn` has a qualifier that is also the word for an item; either way it is one.
    words
        .find(|word| ITEMS.contains(word) || !(QUALIFIERS.contains(word) || word.starts_with('"')))
        .is_some_and(|word| ITEMS.contains(&word))
}

/// Whether the lines above an item end with a comment, or with one and attributes behind it.
fn is_documented(above: &[&str]) -> bool {
    let mut inside_attribute = false;
    for line in above.iter().rev() {
        match line {
            line if inside_attribute => inside_attribute = !line.starts_with("#["),
            line if line.starts_with("///") || line.starts_with("#[doc") => return true,
            line if line.starts_with("#[") => {}
            line if line.ends_with(")]") || *line == "]" => inside_attribute = true,
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        undocumented(Path::new("some.rs"), text)
    }

    #[test]
    fn an_item_without_a_comment_is_a_fault() {
        for item in [
            "pub(crate) fn f() {}",
            "pub(crate) async fn f() {}",
            "pub(crate) const fn f() {}",
            "pub(crate) unsafe extern \"C\" fn f() {}",
            "pub(crate) struct S;",
            "pub(crate) enum E {}",
            "pub(crate) trait T {}",
            "pub(crate) type A = u8;",
            "pub(crate) const C: u8 = 0;",
            "pub(crate) static C: u8 = 0;",
        ] {
            assert_eq!(found(item), [format!("some.rs:1: {item}")]);
            assert_eq!(found(&format!("/// What it is for.\n{item}\n")), [""; 0]);
            // A comment on what stands above it is not its own.
            let other = format!("/// What it is for.\nfn g() {{}}\n{item}\n");
            assert_eq!(found(&other), [format!("some.rs:3: {item}")]);
        }
    }

    #[test]
    fn attributes_may_stand_between() {
        let long = "#[expect(\n    unsafe_code,\n    reason = \"it is needed\"\n)]";
        let documented = format!("/// Some.\n#[must_use]\n{long}\npub(crate) fn f() {{}}\n");
        assert_eq!(found(&documented), [""; 0]);
        let bare = format!("fn g() {{}}\n{long}\n#[must_use]\n    pub(crate) fn f() {{}}\n");
        assert_eq!(found(&bare), ["some.rs:7: pub(crate) fn f() {}"]);
    }

    #[test]
    fn uses_fields_modules_and_tests_need_none() {
        let text = "pub(crate) use a::B;\npub(crate) mod c;\npub(crate) d: u8,\npub fn e() {}\n#[cfg(test)]\nmod tests {\n\
            pub(crate) fn f() {}\n}\n";
        assert_eq!(found(text), [""; 0]);
    }
}
