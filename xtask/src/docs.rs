//! The documentation: every link leads somewhere, and every function that `docs/architecture.md` names is there, once in each walk.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::run::root;

/// The page whose steps name functions and the files that have them.
const WALK: &str = "docs/architecture.md";

/// # Errors
/// If a page cannot be read, a link leads nowhere, or a function is not where the walk says; all of them are named.
pub(crate) fn check() -> Result<()> {
    let mut faults = Vec::new();
    for page in pages()? {
        let text = read(&page)?;
        for (line, target) in links(&text) {
            if let Some(fault) = fault_of_link(&page, target)? {
                faults.push(format!("{}:{line}: {fault}", page.display()));
            }
        }
    }
    let walk = read(Path::new(WALK))?;
    for step in steps(&walk) {
        if let Some(fault) = fault_of_step(&step) {
            faults.push(format!("{WALK}:{}: {fault}", step.line));
        }
    }
    for step in visited_again(&walk) {
        let (line, function) = (step.line, step.function);
        faults.push(format!(
            "{WALK}:{line}: {function} is visited twice in one walk"
        ));
    }
    if !faults.is_empty() {
        bail!("the documentation is not true:\n{}", faults.join("\n"));
    }
    Ok(())
}

/// A step of the walk: a list item that begins with `` `function` (`file`) ``.
#[derive(Debug, Eq, PartialEq)]
struct Step<'a> {
    line: usize,
    function: &'a str,
    file: &'a str,
}

/// The Markdown files of the repository's root and of `docs`, by their paths from the root.
fn pages() -> Result<Vec<PathBuf>> {
    let mut pages = Vec::new();
    for folder in ["", "docs"] {
        let entries = fs::read_dir(root().join(folder)).with_context(|| format!("./{folder}"))?;
        for entry in entries {
            let name = entry?.file_name();
            let path = Path::new(folder).join(name);
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    Ok(pages)
}

fn read(page: &Path) -> Result<String> {
    fs::read_to_string(root().join(page)).with_context(|| page.display().to_string())
}

/// The lines outside of code blocks, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        (!code && !fence).then_some((index + 1, line))
    })
}

/// The targets of a page's links that stay within the repository, with their lines.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut links = Vec::new();
    for (number, line) in prose(text) {
        // What stands between backticks is no link: every second piece.
        for piece in line.split('`').step_by(2) {
            for rest in piece.split("](").skip(1) {
                let target = rest.split(')').next().unwrap_or_default();
                if !target.contains("://") {
                    links.push((number, target));
                }
            }
        }
        // A link's text may be code: its "](" stands in the piece after it, which `step_by` has seen.
    }
    links
}

fn fault_of_link(page: &Path, target: &str) -> Result<Option<String>> {
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let to = match path {
        "" => page.to_owned(),
        path => page.parent().unwrap_or(Path::new("")).join(path),
    };
    if !root().join(&to).exists() {
        return Ok(Some(format!("the link {target} leads to no file")));
    }
    if !anchor.is_empty() && !anchors(&read(&to)?).contains(anchor) {
        return Ok(Some(format!("the link {target} leads to no heading")));
    }
    Ok(None)
}

/// The anchors that GitHub gives to a page's headings.
fn anchors(text: &str) -> HashSet<String> {
    let mut anchors = HashSet::new();
    for (_, line) in prose(text) {
        let heading = line.trim_start_matches('#');
        if heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let anchor: String = heading
            .trim()
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let mut unique = anchor.clone();
        let mut more = 1;
        while !anchors.insert(unique.clone()) {
            unique = format!("{anchor}-{more}");
            more += 1;
        }
    }
    anchors
}

/// The steps of the walk.
fn steps(text: &str) -> Vec<Step<'_>> {
    prose(text)
        .filter_map(|(line, words)| {
            let (number, item) = words.trim_start().split_once(". `")?;
            number.parse::<u32>().ok()?;
            let (function, rest) = item.split_once("` (`")?;
            let (file, _) = rest.split_once("`)")?;
            Some(Step {
                line,
                function,
                file,
            })
        })
        .collect()
}

/// Steps whose function came before in the same walk: from one heading to the next.
fn visited_again(text: &str) -> Vec<Step<'_>> {
    let headings: Vec<_> = prose(text)
        .filter(|(_, words)| words.starts_with("## "))
        .map(|(line, _)| line)
        .collect();
    let walk = |step: &Step<'_>| headings.partition_point(|heading| *heading < step.line);
    let mut visited = HashSet::new();
    let mut steps = steps(text);
    steps.retain(|step| !visited.insert((walk(step), step.function, step.file)));
    steps
}

/// A function is named by its last words: `function`, or `Type::function`. Its file must have both.
fn fault_of_step(step: &Step<'_>) -> Option<String> {
    let Ok(text) = fs::read_to_string(root().join(step.file)) else {
        return Some(format!("there is no file {}", step.file));
    };
    let (kind, name) = step
        .function
        .rsplit_once("::")
        .unwrap_or(("", step.function));
    let declared = ["(", "<"]
        .iter()
        .any(|after| text.contains(&format!("fn {name}{after}")));
    if !declared {
        return Some(format!("{} has no function {name}", step.file));
    }
    let kind = kind.rsplit("::").next().unwrap_or_default();
    let is_type = kind.chars().next().is_some_and(char::is_uppercase);
    let has_type = || {
        text.lines()
            .any(|line| line.starts_with("impl") && words(line).any(|word| word == kind))
    };
    if is_type && !has_type() {
        return Some(format!("{} implements nothing for {kind}", step.file));
    }
    None
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_and_every_step_of_the_walk_is_true() {
        check().unwrap();
        let walk = read(Path::new(WALK)).unwrap();
        assert!(steps(&walk).len() > 40, "the walk's steps are not found");
    }

    #[test]
    fn links_are_found_outside_of_code() {
        let text = "see [a](b.md#c), [`code`](d.md) and `[no](link)`\n```\n[no](e.md)\n```\n[web](https://x.y/z)\n[here](#f)";
        assert_eq!(links(text), [(1, "b.md#c"), (1, "d.md"), (6, "#f")]);
    }

    #[test]
    fn anchors_are_those_that_github_makes() {
        let text = "# The `mvp` part\n## What it does: all, or nothing\n## Again\n### Again\n```\n# no\n```\n#no\n";
        let expected = [
            "the-mvp-part",
            "what-it-does-all-or-nothing",
            "again",
            "again-1",
        ];
        assert_eq!(anchors(text), expected.map(str::to_owned).into());
    }

    #[test]
    fn what_is_not_there_is_said() {
        let page = Path::new("docs/README.md");
        assert!(fault_of_link(page, "nowhere.md").unwrap().is_some());
        assert!(
            fault_of_link(page, "../README.md#no-such-heading")
                .unwrap()
                .is_some()
        );
        assert!(
            fault_of_link(page, "../README.md#try-it")
                .unwrap()
                .is_none()
        );
        let step = |function, file| Step {
            line: 1,
            function,
            file,
        };
        let this = "xtask/src/docs.rs";
        assert_eq!(fault_of_step(&step("steps", this)), None);
        assert!(fault_of_step(&step("no_such_function", this)).is_some());
        assert!(fault_of_step(&step("NoSuchType::steps", this)).is_some());
        assert!(fault_of_step(&step("steps", "xtask/src/nowhere.rs")).is_some());
    }

    #[test]
    fn a_function_is_visited_once_in_each_walk() {
        let text =
            "## A\n1. `f` (`a.rs`)\n2. `f` (`b.rs`)\n3. `f` (`a.rs`)\n## B\n1. `f` (`a.rs`)\n";
        let again = visited_again(text);
        assert_eq!(again.iter().map(|step| step.line).collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn steps_are_list_items_that_begin_with_a_function_and_its_file() {
        let text = "1. `Type::f` (`a/b.rs`): does\n   `g` (`c.rs`)\n2. `h` (`d.rs`)\n";
        let step = |line, function, file| Step {
            line,
            function,
            file,
        };
        assert_eq!(
            steps(text),
            [step(1, "Type::f", "a/b.rs"), step(3, "h", "d.rs")]
        );
    }
}
