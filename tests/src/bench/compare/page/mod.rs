//! The page: one HTML document with its style and its charts in it, and nothing that has to be fetched.
//!
//! Charts have no text of their own, so that they may become narrow: labels and values are HTML beside them. Behind each chart is a table
//! with what it shows.

mod bars;
mod glance;
mod scale;
mod text;
mod upgrade;

use std::fmt::Write as _;

use super::figures::{Document, Run, number};
use text::escape;

const STYLE: &str = include_str!("style.css");

/// The whole page.
pub(super) fn html(document: &Document) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>mvp compared</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <a class=\"skip\" href=\"#glance\">To the comparison at a glance</a>\n<main>\n\
         <h1>Ways through to a server of another version, compared</h1>\n"
    );
    circumstances(&mut page, &document.run);
    contents(&mut page, document);
    glance::section(&mut page, document);
    for measured in &document.scenarios {
        let about = measured.about;
        let _ = write!(
            page,
            "<section id=\"{name}\" aria-labelledby=\"{name}-title\">\n<h2 id=\"{name}-title\">{}</h2>\n<p>{}</p>\n",
            escape(about.title),
            escape(about.how),
            name = about.name,
        );
        if about.name == super::timeline::ABOUT.name {
            upgrade::charts(&mut page, &document.timelines);
        }
        bars::charts(&mut page, measured);
        page.push_str("</section>\n");
    }
    subjects(&mut page, document);
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn circumstances(page: &mut String, run: &Run) {
    let _ = writeln!(
        page,
        "<p class=\"faint\">{} UTC, kernel {}, {} cores shared by clients, proxies and servers, {} of {} s for each measurement. Values are \
         medians over the rounds; what stands in parentheses, and the thin line over a bar, goes from the least to the most.</p>",
        escape(&run.date),
        escape(&run.kernel),
        run.cores,
        run.rounds(),
        number(run.seconds)
    );
    let mut warn = |text: &str| {
        let _ = writeln!(page, "<p class=\"warn\">{}</p>", escape(text));
    };
    if run.debug {
        warn("This is a build that is not optimised: its figures say nothing.");
    }
    if run.quick {
        warn(
            "A quick run: one short round. Its figures are rough, and small differences mean nothing.",
        );
    }
    if let Some(load) = run.load_average.filter(|&load| load > 0.5) {
        warn(&format!(
            "The machine was busy before the run began (load average {}): no figure here is to be relied on.",
            number(load)
        ));
    }
}

fn contents(page: &mut String, document: &Document) {
    page.push_str("<nav aria-label=\"Sections\"><ul class=\"contents\">\n<li><a href=\"#glance\">At a glance</a></li>\n");
    for measured in &document.scenarios {
        let (name, title) = (measured.about.name, escape(measured.about.title));
        let _ = writeln!(page, "<li><a href=\"#{name}\">{title}</a></li>");
    }
    page.push_str("<li><a href=\"#subjects\">Who was compared</a></li>\n</ul></nav>\n");
}

fn subjects(page: &mut String, document: &Document) {
    page.push_str("<section id=\"subjects\" aria-labelledby=\"subjects-title\">\n<h2 id=\"subjects-title\">Who was compared</h2>\n<dl>\n");
    for one in &document.subjects {
        let _ = writeln!(
            page,
            "<dt>{}</dt><dd>{}. {}</dd>",
            escape(one.title),
            escape(&one.version),
            escape(&one.setup)
        );
    }
    page.push_str("</dl>\n");
    for one in &document.left_out {
        let _ = writeln!(
            page,
            "<p class=\"warn\">Left out: {}: {}</p>",
            escape(&one.what),
            escape(&one.why)
        );
    }
    page.push_str("</section>\n");
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bench::compare::figures::{Described, Figures, LeftOut};
    use crate::bench::compare::scenarios::Scenario;
    use crate::bench::compare::timeline::{Event, Mark, Second, State, Timeline, Way};

    /// A run of which every part has something.
    pub(super) fn document() -> Document {
        let mut figures = Figures::new(Scenario::Get.about());
        for more in [0.0, 5.0, 10.0] {
            figures.add(&[
                ("direct", vec![("p50_us", 100.0 + more), ("p99_us", 200.0)]),
                (
                    "mvp",
                    vec![
                        ("p50_us", 150.0 + more),
                        ("p99_us", 260.0),
                        ("cpu_us", 12.0),
                    ],
                ),
                (
                    "haproxy",
                    vec![
                        ("p50_us", 160.0 + more),
                        ("p99_us", 250.0),
                        ("cpu_us", 10.0),
                    ],
                ),
            ]);
        }
        let get = figures.finish(vec![
            ("direct", "direct, no proxy"),
            ("mvp", "mvp, userspace"),
            ("haproxy", "HAProxy"),
        ]);
        let mut figures = Figures::new(Scenario::Timeline.about());
        figures.add(&[
            ("no_agent", vec![("false_404", 30.0), ("errors", 3.0)]),
            ("mvp_auto", vec![("false_404", 0.0), ("errors", 0.0)]),
        ]);
        let upgrade = figures.finish(vec![
            ("no_agent", "no agent"),
            ("mvp_auto", "mvp, inspect: auto"),
        ]);
        Document {
            run: Run {
                date: String::from("2026-01-02 03:04"),
                quick: true,
                debug: true,
                cores: 2,
                kernel: String::from("6.18"),
                load_average: Some(3.0),
                rounds: 3,
                seconds: 1.0,
                rate: 1000.0,
                watches: 1000,
            },
            subjects: vec![Described {
                name: "mvp",
                title: "mvp, userspace",
                version: String::from("mvp <0.1> & more"),
                setup: String::from("No \"kernel\" part."),
            }],
            left_out: vec![LeftOut {
                what: String::from("Envoy"),
                why: String::from("not <installed>"),
                failed: false,
            }],
            scenarios: vec![upgrade, get],
            timelines: vec![timeline(Way::NoAgent, 30), timeline(Way::MvpAuto, 0)],
        }
    }

    fn timeline(way: Way, false_404: u64) -> Timeline {
        let second = |second| Second {
            second,
            requests: if second == 2 { 0 } else { 100 },
            p50_ms: 0.4,
            p99_ms: 3.0,
            p999_ms: 40.0,
            false_404: if second == 3 { false_404 } else { 0 },
            ..Second::default()
        };
        let mark = |at, what| Mark {
            at,
            node: String::from("cp-a"),
            what,
        };
        let state = |at, state: &str| State {
            at,
            node: String::from("cp-a"),
            state: state.into(),
        };
        Timeline {
            way,
            seconds: (0..6).map(second).collect(),
            marks: vec![mark(1.0, Event::Stops), mark(3.5, Event::Ready)],
            guards: match way {
                Way::MvpAuto => vec![state(0.0, "idle"), state(1.1, "armed")],
                _ => Vec::new(),
            },
            examples: vec![String::from("GET /apis: <b>no</b>")],
            nodes: vec![String::from("cp-a")],
        }
    }

    #[test]
    fn nothing_is_fetched_and_nothing_runs() {
        let page = html(&document());
        for needle in [
            "<script", "http://", "https://", "@import", "url(", " src=", "<link", "onclick",
        ] {
            assert!(!page.contains(needle), "{needle}");
        }
    }

    #[test]
    fn what_others_wrote_is_escaped() {
        let page = html(&document());
        assert!(page.contains("mvp &lt;0.1&gt; &amp; more. No &quot;kernel&quot; part."));
        assert!(page.contains("not &lt;installed&gt;"));
        assert!(!page.contains("<installed>"));
        assert!(page.contains("GET /apis: &lt;b&gt;no&lt;/b&gt;"));
    }

    #[test]
    fn every_chart_has_a_table_and_every_link_a_target() {
        let page = html(&document());
        let count = |needle: &str| page.matches(needle).count();
        assert_eq!(count("<figure"), count("<details"));
        assert_eq!(count("<details"), count("</details>"));
        assert!(count("<figure") >= 5, "{}", count("<figure"));
        for link in page.split("href=\"#").skip(1) {
            let target = link.split('"').next().unwrap();
            assert_eq!(count(&format!("id=\"{target}\"")), 1, "{target}");
        }
        for tag in [
            "section", "table", "figure", "svg", "ul", "ol", "div", "p", "dl",
        ] {
            let opened = count(&format!("<{tag}>")) + count(&format!("<{tag} "));
            assert_eq!(opened, count(&format!("</{tag}>")), "{tag}");
        }
    }

    #[test]
    fn a_run_that_is_worth_little_says_so() {
        let page = html(&document());
        for words in ["say nothing", "quick run", "was busy"] {
            assert!(page.contains(words), "{words}");
        }
    }
}
