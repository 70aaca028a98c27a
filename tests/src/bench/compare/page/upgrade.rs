//! The upgrades, second by second, one below the other on the same scales.

use std::fmt::Write as _;

use super::scale::{Decades, Linear};
use super::text::escape;
use crate::bench::compare::figures::number;
use crate::bench::compare::timeline::{Event, Second, Timeline};

const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 120.0;
/// The height of the strip with what failed.
const FAILED: f64 = 40.0;
/// The height of the strip of one node's guard.
const GUARD: f64 = 8.0;

type Quantile = fn(&Second) -> f64;

/// What all charts share.
#[derive(Clone, Copy)]
struct Scales {
    x: Linear,
    latency: Decades,
    failed: Linear,
    seconds: f64,
    most: f64,
}

pub(super) fn charts(page: &mut String, timelines: &[Timeline]) {
    let seconds = timelines.iter().map(|one| one.seconds.len()).max();
    let all = || timelines.iter().flat_map(|one| &one.seconds);
    let most = all().map(|second| (second.false_404 + second.errors) as f64);
    let most = most.fold(1.0, f64::max);
    let seconds = seconds.unwrap_or(0) as f64;
    let scales = Scales {
        x: Linear::new(seconds, WIDTH),
        latency: Decades::of(
            all().flat_map(|one| [one.p50_ms, one.p99_ms, one.p999_ms]),
            HEIGHT,
        ),
        failed: Linear::new(most, FAILED),
        seconds,
        most,
    };
    if timelines.is_empty() {
        return;
    }
    page.push_str(
        "<ul class=\"legend\"><li><svg viewBox=\"0 0 24 8\" aria-hidden=\"true\"><line class=\"p50\" x1=\"0\" x2=\"24\" y1=\"4\" y2=\"4\"/></svg>median</li>\
         <li><svg viewBox=\"0 0 24 8\" aria-hidden=\"true\"><line class=\"p99\" x1=\"0\" x2=\"24\" y1=\"4\" y2=\"4\"/></svg>99 %</li>\
         <li><svg viewBox=\"0 0 24 8\" aria-hidden=\"true\"><line class=\"p999\" x1=\"0\" x2=\"24\" y1=\"4\" y2=\"4\"/></svg>99.9 %</li>\
         <li><i class=\"false-404\"></i>false 404s</li><li><i class=\"error\"></i>errors</li>\
         <li><i class=\"idle\"></i>guard idle</li><li><i class=\"armed\"></i>guard armed</li>\
         <li><svg viewBox=\"0 0 8 12\" aria-hidden=\"true\"><line class=\"stops\" x1=\"4\" x2=\"4\" y1=\"0\" y2=\"12\"/></svg>a server stops</li>\
         <li><svg viewBox=\"0 0 8 12\" aria-hidden=\"true\"><line class=\"ready\" x1=\"4\" x2=\"4\" y1=\"0\" y2=\"12\"/></svg>the new one is ready</li></ul>\n",
    );
    for timeline in timelines {
        chart(page, timeline, scales);
    }
}

fn chart(page: &mut String, timeline: &Timeline, scales: Scales) {
    let sum = |count: fn(&Second) -> u64| timeline.seconds.iter().map(count).sum::<u64>();
    let (false_404, errors) = (sum(|one| one.false_404), sum(|one| one.errors));
    let verdict = if false_404 + errors > 0 {
        "bad"
    } else {
        "good"
    };
    let title = escape(timeline.way.title());
    let _ = writeln!(
        page,
        "<figure class=\"timeline\">\n<figcaption>{title}: <b class=\"{verdict}\">{false_404} false 404s, {errors} errors</b> of {} requests</figcaption>",
        sum(|one| one.requests)
    );
    latency(page, timeline, scales);
    failed(page, timeline, scales);
    guards(page, timeline, scales);
    let _ = writeln!(
        page,
        "<div class=\"plot\"><span></span><div class=\"axis\"><span>0 s</span><span>{:.0} s</span><span>{:.0} s</span></div></div>",
        scales.seconds / 2.0,
        scales.seconds
    );
    table(page, timeline);
    examples(page, timeline);
    page.push_str("</figure>\n");
}

fn latency(page: &mut String, timeline: &Timeline, scales: Scales) {
    page.push_str("<div class=\"plot\"><div class=\"ticks\" aria-hidden=\"true\">");
    for tick in scales.latency.ticks() {
        let _ = write!(page, "<span>{}</span>", time(tick));
    }
    let title = escape(timeline.way.title());
    let _ = write!(
        page,
        "</div><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"Latency by second, {title}\">"
    );
    for tick in scales.latency.ticks() {
        let y = scales.latency.at(tick);
        let _ = write!(
            page,
            "<line class=\"grid\" x1=\"0\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"
        );
    }
    marks(page, timeline, scales, HEIGHT);
    let lines: [(&str, Quantile); 3] = [
        ("p999", |one| one.p999_ms),
        ("p99", |one| one.p99_ms),
        ("p50", |one| one.p50_ms),
    ];
    for (class, value) in lines {
        for points in runs(&timeline.seconds) {
            let points: Vec<String> = points
                .iter()
                .map(|one| {
                    let (x, y) = (
                        scales.x.at(one.second as f64 + 0.5),
                        scales.latency.at(value(one)),
                    );
                    format!("{x:.1},{y:.1}")
                })
                .collect();
            let _ = write!(
                page,
                "<polyline class=\"{class}\" points=\"{}\"/>",
                points.join(" ")
            );
        }
    }
    page.push_str("</svg></div>\n");
}

fn marks(page: &mut String, timeline: &Timeline, scales: Scales, height: f64) {
    for mark in &timeline.marks {
        let class = match mark.what {
            Event::Stops => "stops",
            Event::Ready => "ready",
        };
        let x = scales.x.at(mark.at);
        let _ = write!(
            page,
            "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{height}\"/>"
        );
    }
}

/// What failed, upwards from the bottom: false 404s, and errors on top of them.
fn failed(page: &mut String, timeline: &Timeline, scales: Scales) {
    let title = escape(timeline.way.title());
    let _ = write!(
        page,
        "<div class=\"plot\"><div class=\"ticks\" aria-hidden=\"true\"><span>{:.0}/s</span><span>0</span></div>\
         <svg class=\"failed\" viewBox=\"0 0 {WIDTH} {FAILED}\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"False 404s and errors by second, {title}\">",
        scales.most
    );
    marks(page, timeline, scales, FAILED);
    for one in &timeline.seconds {
        let (x, width) = (scales.x.at(one.second as f64), scales.x.at(1.0));
        let mut floor = FAILED;
        for (class, count) in [("false-404", one.false_404), ("error", one.errors)] {
            if count > 0 {
                // One of hundreds is to be seen as well.
                let height = scales.failed.at(count as f64).max(2.0);
                floor -= height;
                let _ = write!(
                    page,
                    "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{floor:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
                );
            }
        }
    }
    page.push_str("</svg></div>\n");
}

fn guards(page: &mut String, timeline: &Timeline, scales: Scales) {
    if timeline.guards.is_empty() {
        return;
    }
    let height = GUARD * timeline.nodes.len() as f64;
    let title = escape(timeline.way.title());
    let _ = write!(
        page,
        "<div class=\"plot\"><div class=\"ticks\" aria-hidden=\"true\"><span>guard</span></div>\
         <svg class=\"guards\" viewBox=\"0 0 {WIDTH} {height}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"Guards by time, {title}\">"
    );
    for (row, node) in timeline.nodes.iter().enumerate() {
        let states: Vec<_> = timeline
            .guards
            .iter()
            .filter(|one| one.node == *node)
            .collect();
        for (index, one) in states.iter().enumerate() {
            let from = scales.x.at(one.at);
            let end = states
                .get(index + 1)
                .map_or(timeline.seconds.len() as f64, |next| next.at);
            let width = (scales.x.at(end) - from).max(0.0);
            let _ = write!(
                page,
                "<rect class=\"{}\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\"/>",
                class_of(&one.state),
                row as f64 * GUARD,
                GUARD - 1.0
            );
        }
    }
    page.push_str("</svg></div>\n");
}

fn class_of(state: &str) -> &'static str {
    match state {
        "idle" => "idle",
        "armed" => "armed",
        _ => "unknown",
    }
}

fn table(page: &mut String, timeline: &Timeline) {
    let title = escape(timeline.way.title());
    let _ = write!(
        page,
        "<details><summary>Table: each second, {title}</summary>\n<div class=\"scroll tall\" tabindex=\"0\" role=\"region\" aria-label=\"Table: {title}\">\
         <table>\n<tr><th>second</th><th>requests</th><th>median, ms</th><th>99 %, ms</th><th>99.9 %, ms</th><th>false 404s</th><th>errors</th>\
         <th>guards</th><th>servers</th></tr>\n"
    );
    for one in &timeline.seconds {
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            one.second,
            one.requests,
            number(one.p50_ms),
            number(one.p99_ms),
            number(one.p999_ms),
            one.false_404,
            one.errors,
            escape(&guards_at(timeline, one.second as f64 + 1.0)),
            escape(&events_in(timeline, one.second)),
        );
    }
    page.push_str("</table></div></details>\n");
}

/// Below the table: why, for whoever wonders.
fn examples(page: &mut String, timeline: &Timeline) {
    if timeline.examples.is_empty() {
        return;
    }
    page.push_str("<p class=\"faint\">The first failures:</p>\n<ul class=\"words faint\">\n");
    for one in &timeline.examples {
        let _ = writeln!(page, "<li>{}</li>", escape(one));
    }
    page.push_str("</ul>\n");
}

/// The last state of each node before this moment.
fn guards_at(timeline: &Timeline, at: f64) -> String {
    let of = |node: &String| {
        let mut states = timeline
            .guards
            .iter()
            .filter(|one| one.node == *node && one.at < at);
        states.next_back().map(|one| one.state.clone())
    };
    let states: Vec<String> = timeline.nodes.iter().filter_map(of).collect();
    states.join(", ")
}

fn events_in(timeline: &Timeline, second: u64) -> String {
    let marks = timeline
        .marks
        .iter()
        .filter(|mark| mark.at as u64 == second);
    let words = marks.map(|mark| match mark.what {
        Event::Stops => format!("{} stops", mark.node),
        Event::Ready => format!("{} is ready", mark.node),
    });
    words.collect::<Vec<_>>().join(", ")
}

/// Seconds next to one another that have requests: a line must not lead through where there was nothing.
fn runs(seconds: &[Second]) -> impl Iterator<Item = &[Second]> {
    seconds
        .split(|second| second.requests == 0)
        .filter(|run| !run.is_empty())
}

/// The text for a number of milliseconds.
fn time(ms: f64) -> String {
    match ms {
        ms if ms >= 1e3 => format!("{} s", ms / 1e3),
        ms if ms >= 1.0 => format!("{ms} ms"),
        ms => format!("{} us", (ms * 1e3).round()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::document;
    use super::*;

    #[test]
    fn a_line_is_interrupted_where_nothing_was_asked() {
        let document = document();
        let runs: Vec<usize> = runs(&document.timelines[0].seconds)
            .map(<[_]>::len)
            .collect();
        assert_eq!(runs, [2, 3]);
    }

    #[test]
    fn a_second_has_the_state_at_its_end_and_what_happened_in_it() {
        let document = document();
        let timeline = &document.timelines[1];
        assert_eq!(guards_at(timeline, 1.0), "idle");
        assert_eq!(guards_at(timeline, 2.0), "armed");
        assert_eq!(events_in(timeline, 3), "cp-a is ready");
        assert_eq!(events_in(timeline, 0), "");
    }

    #[test]
    fn ticks_are_told_in_units_that_people_use() {
        assert_eq!(
            [0.1, 1.0, 100.0, 10_000.0].map(time),
            ["100 us", "1 ms", "100 ms", "10 s"]
        );
    }
}
