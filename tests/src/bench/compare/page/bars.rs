//! A scenario's metrics, each as bars, with the table behind them.

use std::fmt::Write as _;

use super::scale::Linear;
use super::text::{escape, with_unit};
use crate::bench::compare::figures::{Measured, number};
use crate::bench::compare::scenarios::{Better, Metric};

pub(super) fn charts(page: &mut String, measured: &Measured) {
    for metric in measured.about.metrics {
        chart(page, measured, metric);
    }
}

fn chart(page: &mut String, measured: &Measured, metric: &Metric) {
    let rows: Vec<_> = measured
        .subjects
        .iter()
        .filter_map(|(name, title)| Some((*name, *title, measured.row(name, metric.name)?)))
        .collect();
    if rows.is_empty() || metric.better == Better::Neither {
        return;
    }
    let most = rows.iter().map(|(_, _, row)| row.max).fold(0.0, f64::max);
    let scale = Linear::new(most, 100.0);
    let better = match metric.better {
        Better::Lower => "shorter is better",
        Better::Higher => "longer is better",
        Better::Neither => "",
    };
    let title = escape(&capital(metric.title));
    let _ = writeln!(
        page,
        "<figure>\n<figcaption>{title} <span class=\"faint\">({better})</span></figcaption>\n<ul class=\"bars\">"
    );
    for (name, title, row) in &rows {
        let value = with_unit(row.median, metric.unit);
        let spread = match row.rounds {
            1 => String::new(),
            _ => format!(
                " <span class=\"faint\">({} to {})</span>",
                number(row.min),
                number(row.max)
            ),
        };
        let _ = writeln!(
            page,
            "<li><span>{}</span><svg viewBox=\"0 0 100 12\" preserveAspectRatio=\"none\" aria-hidden=\"true\" class=\"of-{name}\">\
             <rect class=\"bar\" width=\"{:.2}\" height=\"12\"/><line class=\"spread\" x1=\"{:.2}\" x2=\"{:.2}\" y1=\"6\" y2=\"6\"/></svg>\
             <span><b>{value}</b>{spread}</span></li>",
            escape(title),
            scale.at(row.median),
            scale.at(row.min),
            scale.at(row.max),
        );
    }
    page.push_str("</ul>\n");
    table(page, measured, metric);
    page.push_str("</figure>\n");
}

fn table(page: &mut String, measured: &Measured, metric: &Metric) {
    let title = escape(metric.title);
    let _ = write!(
        page,
        "<details><summary>Table: {title}</summary>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Table: {title}\">\
         <table>\n<tr><th>Subject</th><th>median</th><th>least</th><th>most</th><th>rounds</th>"
    );
    for (_, reference) in measured.references() {
        let _ = write!(page, "<th>by {}</th>", escape(reference));
    }
    page.push_str("</tr>\n");
    for (name, title) in &measured.subjects {
        let Some(row) = measured.row(name, metric.name) else {
            let _ = writeln!(
                page,
                "<tr><th scope=\"row\">{}</th><td>-</td></tr>",
                escape(title)
            );
            continue;
        };
        let _ = write!(
            page,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td>",
            escape(title),
            with_unit(row.median, metric.unit),
            number(row.min),
            number(row.max),
            row.rounds
        );
        for (reference, _) in measured.references() {
            let ratio = measured.ratio(name, metric.name, reference);
            let text = ratio.map_or_else(
                || String::from("-"),
                |ratio| {
                    format!(
                        "{} x ({} to {})",
                        number(ratio.median),
                        number(ratio.min),
                        number(ratio.max)
                    )
                },
            );
            let _ = write!(page, "<td>{text}</td>");
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table></div></details>\n");
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}
