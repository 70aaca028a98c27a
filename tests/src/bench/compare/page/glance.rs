//! Who loses what: a row for each subject, a column for each of the few metrics that matter most, and the same in words.

use std::fmt::Write as _;

use super::text::{escape, with_unit};
use crate::bench::compare::figures::{Document, Measured, number};
use crate::bench::compare::scenarios::{Better, Metric};

/// Within this of the best nobody loses.
const SAME: f64 = 1.05;
/// Beyond this of the best much is lost.
const MUCH: f64 = 1.5;
/// Losses that are described in words.
const TOLD: usize = 3;

/// How a subject compares with the best of those that do the work.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Standing {
    Best,
    /// So many times the best's.
    Worse(f64),
    /// The best has none of it at all.
    BestHasNone,
}

pub(super) fn section(page: &mut String, document: &Document) {
    page.push_str(
        "<section id=\"glance\" aria-labelledby=\"glance-title\">\n<h2 id=\"glance-title\">At a glance: who loses what</h2>\n\
         <p>Below each value is how many times worse it is than the best proxy's. Direct is no proxy: what it takes, everybody pays.</p>\n",
    );
    // The upgrade has subjects of its own.
    let upgrade = |measured: &&Measured| measured.about.name == super::super::timeline::ABOUT.name;
    let all = &document.scenarios;
    matrix(
        page,
        "Load",
        &all.iter().filter(|one| !upgrade(one)).collect::<Vec<_>>(),
    );
    matrix(
        page,
        "Rolling upgrade",
        &all.iter().filter(upgrade).collect::<Vec<_>>(),
    );
    page.push_str("</section>\n");
}

fn matrix(page: &mut String, title: &str, scenarios: &[&Measured]) {
    let columns: Vec<(&Measured, &Metric)> = scenarios
        .iter()
        .flat_map(|measured| {
            let few = measured
                .about
                .metrics
                .iter()
                .filter(|metric| metric.headline);
            few.map(|metric| (*measured, metric))
        })
        .collect();
    let Some((first, _)) = columns.first() else {
        return;
    };
    let title = escape(title);
    let _ = write!(
        page,
        "<h3>{title}</h3>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{title}\"><table class=\"glance\">\n<tr><th>Subject</th>"
    );
    for (measured, metric) in &columns {
        let _ = write!(
            page,
            "<th><span class=\"faint\">{}</span> {}</th>",
            escape(measured.about.title),
            escape(metric.title)
        );
    }
    page.push_str("</tr>\n");
    let mut words = Vec::new();
    for (name, title) in &first.subjects {
        let _ = write!(page, "<tr><th scope=\"row\">{}</th>", escape(title));
        let mut lost = Vec::new();
        for (measured, metric) in &columns {
            let Some(row) = measured.row(name, metric.name) else {
                page.push_str("<td class=\"faint\">-</td>");
                continue;
            };
            let value = with_unit(row.median, metric.unit);
            let standing = standing(measured, metric, name);
            let (class, text) = words_for(standing);
            if is_much(standing) {
                let words = format!("{}: {} ({text})", measured.about.title, metric.title);
                lost.push((weight(standing), words));
            }
            let _ = write!(page, "<td class=\"{class}\"><b>{value}</b><br>{text}</td>");
        }
        page.push_str("</tr>\n");
        if !is_floor(name) {
            words.push((*title, lost));
        }
    }
    page.push_str("</table></div>\n<ul class=\"words\">\n");
    for (title, lost) in words {
        let text = told(lost);
        let _ = writeln!(page, "<li><b>{}</b> {}.</li>", escape(title), escape(&text));
    }
    page.push_str("</ul>\n");
}

/// The worst first, and no more than a person takes in.
fn told(mut lost: Vec<(f64, String)>) -> String {
    lost.sort_by(|a, b| b.0.total_cmp(&a.0));
    let most: Vec<&str> = lost
        .iter()
        .take(TOLD)
        .map(|(_, words)| words.as_str())
        .collect();
    match lost.len() {
        0 => String::from("loses nothing by much"),
        all if all > TOLD => format!(
            "loses most in {}; and in {} more",
            most.join("; "),
            all - TOLD
        ),
        _ => format!("loses most in {}", most.join("; ")),
    }
}

/// Not a proxy: what others are compared with, and no competitor.
fn is_floor(name: &str) -> bool {
    name == "direct"
}

fn standing(measured: &Measured, metric: &Metric, subject: &str) -> Option<Standing> {
    if is_floor(subject) {
        return None;
    }
    let values = measured.subjects.iter().filter(|(name, _)| !is_floor(name));
    let values = values.filter_map(|(name, _)| Some(measured.row(name, metric.name)?.median));
    let own = measured.row(subject, metric.name)?.median;
    match metric.better {
        Better::Neither => None,
        Better::Lower => Some(factor(own, values.fold(f64::INFINITY, f64::min))),
        Better::Higher => Some(factor(values.fold(0.0, f64::max), own)),
    }
}

/// How many times `least` is in `value`.
fn factor(value: f64, least: f64) -> Standing {
    if value <= least * SAME {
        Standing::Best
    } else if least > 0.0 {
        Standing::Worse(value / least)
    } else {
        Standing::BestHasNone
    }
}

fn is_much(standing: Option<Standing>) -> bool {
    match standing {
        Some(Standing::Worse(factor)) => factor > MUCH,
        Some(Standing::BestHasNone) => true,
        Some(Standing::Best) | None => false,
    }
}

/// For an order: what the best has not at all comes first.
fn weight(standing: Option<Standing>) -> f64 {
    match standing {
        Some(Standing::BestHasNone) => f64::INFINITY,
        Some(Standing::Worse(factor)) => factor,
        Some(Standing::Best) | None => 1.0,
    }
}

/// A class, and the text for people who see no colours.
fn words_for(standing: Option<Standing>) -> (&'static str, String) {
    match standing {
        None => ("floor", String::from("for comparison")),
        Some(Standing::Best) => ("best", String::from("best")),
        Some(Standing::Worse(factor)) if factor <= MUCH => {
            ("near", format!("{} x", number(factor)))
        }
        Some(Standing::Worse(factor)) => ("far", format!("{} x", number(factor))),
        Some(Standing::BestHasNone) => ("far", String::from("the best: none")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::document;
    use super::*;

    #[test]
    fn the_best_proxy_is_the_measure() {
        let document = document();
        let get = &document.scenarios[1];
        let of = |subject, metric: &str| {
            let metric = get.about.metrics.iter().find(|one| one.name == metric);
            standing(get, metric.unwrap(), subject)
        };
        // Direct is faster than both, and not one of them.
        assert_eq!(of("direct", "p50_us"), None);
        assert_eq!(of("mvp", "p50_us"), Some(Standing::Best));
        assert_eq!(of("haproxy", "cpu_us"), Some(Standing::Best));
        assert_eq!(of("mvp", "cpu_us"), Some(Standing::Worse(1.2)));
    }

    #[test]
    fn a_loss_against_none_at_all_is_one() {
        assert_eq!(factor(0.0, 0.0), Standing::Best);
        assert_eq!(factor(3.0, 0.0), Standing::BestHasNone);
        assert_eq!(factor(10.0, 10.0), Standing::Best);
        assert!(is_much(Some(Standing::BestHasNone)));
        assert!(!is_much(Some(Standing::Worse(1.2))));
    }

    #[test]
    fn the_worst_come_first_and_the_rest_is_counted() {
        let lost = |factors: &[f64]| {
            factors
                .iter()
                .map(|one| (*one, format!("x{one}")))
                .collect()
        };
        assert_eq!(told(lost(&[])), "loses nothing by much");
        assert_eq!(told(lost(&[2.0, 3.0])), "loses most in x3; x2");
        let many = told(lost(&[2.0, f64::INFINITY, 5.0, 3.0]));
        assert_eq!(many, "loses most in xinf; x5; x3; and in 1 more");
    }

    #[test]
    fn it_is_told_in_words_who_loses() {
        let mut page = String::new();
        section(&mut page, &document());
        assert!(
            page.contains("<b>no agent</b> loses most in A rolling upgrade: answers that deny"),
            "{page}"
        );
        assert!(page.contains("<b>mvp, inspect: auto</b> loses nothing by much"));
        assert!(!page.contains("<li><b>direct"));
    }
}
