//! One frame of `mvp top`. Pure: the same documents give the same frame.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Paragraph};

use super::{Screen, bad, rate};
use crate::admin::{SkewCell, SkewState, SkewView, StatusView};
use crate::history::{HistoryView, clock};
use crate::text::table::{age, clean, table};

/// The agent's documents.
#[derive(Debug, Default)]
pub(super) struct Shown {
    pub status: StatusView,
    pub skew: SkewView,
    pub history: HistoryView,
    /// Why the documents are not up to date.
    pub problem: Option<String>,
    /// What is bad is only bold, without a colour: `NO_COLOR` is set, or there is no terminal.
    pub plain: bool,
}

/// The most rows of differences that are shown.
const SKEW: u16 = 12;
/// The most rows of decisions that are shown.
const DECISIONS: u16 = 10;

impl Screen for Shown {
    /// Draws all of it into the frame, however small that is.
    fn draw(&self, frame: &mut Frame<'_>) {
        draw(frame, self);
    }

    fn plain(&mut self, plain: bool) {
        self.plain = plain;
    }

    fn problem(&mut self, problem: String) {
        self.problem = Some(problem);
    }
}

fn draw(frame: &mut Frame<'_>, shown: &Shown) {
    let servers = servers(shown);
    let skew = skew(shown);
    let requests = requests(shown);
    let tall = |lines: &[Line<'_>], most: u16| {
        let lines = u16::try_from(lines.len()).unwrap_or(u16::MAX);
        Constraint::Length(lines.min(most).saturating_add(1))
    };
    let head = head(shown);
    let [top, below_top, middle, above_bottom, bottom] = Layout::vertical([
        Constraint::Length(u16::try_from(head.len()).unwrap_or(4)),
        tall(&servers, 9),
        tall(&requests, DECISIONS),
        tall(&skew, SKEW),
        Constraint::Min(2),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(head), top);
    block(frame, below_top, "Servers", servers);
    block(frame, middle, "Requests per second", requests);
    block(frame, above_bottom, &skew_title(&shown.skew), skew);
    let events = events(shown, bottom.height.saturating_sub(1).into());
    block(frame, bottom, "Last events", events);
}

fn block(frame: &mut Frame<'_>, area: Rect, title: &str, lines: Vec<Line<'_>>) {
    let block = Block::new()
        .borders(Borders::TOP)
        .title(format!(" {title} "));
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn head(shown: &Shown) -> Vec<Line<'static>> {
    let status = &shown.status;
    let stance = match status.stance.line.as_str() {
        "" => "nothing is known of the agent yet".to_owned(),
        line => clean(line),
    };
    let stance = match status.stance.word.as_str() {
        "passing by" => Line::styled(stance, bad(shown.plain)),
        _ => Line::styled(stance, Style::new().add_modifier(Modifier::BOLD)),
    };
    let ready = match (status.ready, status.awaiting.first()) {
        (true, _) => "ready".to_owned(),
        (false, Some(task)) => format!("not ready, awaiting {}", clean(task)),
        (false, None) => clean(&status.drain),
    };
    let mut lines = vec![
        stance,
        Line::raw(format!("guard    {}", clean(&status.guard.line()))),
        Line::raw(format!("before   {}", clean(&before(status)))),
        Line::raw(format!(
            "agent    {} {}, up {}, {ready}; {} connections, {} requests open",
            clean(&status.node),
            clean(&status.version),
            age(status.uptime_ms),
            status.connections,
            status.streams
        )),
    ];
    if let Some(problem) = &shown.problem {
        lines.push(Line::styled(clean(problem), bad(shown.plain)));
    }
    lines
}

/// Connections from before the guard armed.
fn before(status: &StatusView) -> String {
    match status.retirement.retiring {
        true => status.retirement.line(),
        false => format!(
            "{}; {}",
            status.retirement.line(),
            match status.retiring.as_str() {
                "" => "nothing is known of ending them",
                line => line,
            }
        ),
    }
}

fn servers(shown: &Shown) -> Vec<Line<'static>> {
    let rows: Vec<_> = shown
        .status
        .servers
        .iter()
        .map(|server| {
            let name = match server.local {
                true => format!("{} *", server.name),
                false => server.name.clone(),
            };
            let available = match (server.available, server.stopping) {
                (true, true) => "stopping",
                (true, false) => "yes",
                (false, _) => "NO",
            };
            let aged = server.age_ms.map_or_else(|| "-".to_owned(), age);
            [
                name,
                server.version.clone().unwrap_or_else(|| "-".to_owned()),
                available.to_owned(),
                server.proof.word().to_owned(),
                format!("{} {aged}", server.knowledge),
                server.outstanding.to_string(),
                server.last_error.clone().unwrap_or_default(),
            ]
        })
        .collect();
    let head = [
        "SERVER",
        "VERSION",
        "AVAILABLE",
        "PROVED",
        "KNOWLEDGE",
        "REQUESTS",
        "LAST ERROR",
    ];
    let mut lines = lines(&table(head, &rows));
    for (line, server) in lines.iter_mut().skip(1).zip(&shown.status.servers) {
        if !server.available {
            line.style = bad(shown.plain);
        }
    }
    lines
}

/// Rates by decision, the greatest first, below the sums.
fn requests(shown: &Shown) -> Vec<Line<'static>> {
    let traffic = &shown.status.traffic;
    let all: f64 = traffic.per_second.values().sum();
    let mut lines = vec![Line::raw(format!(
        "{} in all{}; {} forwarded, {} false 404s prevented, {} while the local server was down",
        rate(all),
        match traffic.added_us {
            Some(micros) => format!(", {micros:.0}us added to each"),
            None => String::new(),
        },
        rate(traffic.forwarded_per_second),
        rate(traffic.prevented_per_second),
        rate(traffic.served_while_down_per_second)
    ))];
    if traffic.failed_per_second > 0.0 {
        let failed = rate(traffic.failed_per_second);
        lines.push(Line::styled(
            format!("{failed} could not be answered by any server"),
            bad(shown.plain),
        ));
    }
    let mut decisions: Vec<_> = traffic.per_second.iter().collect();
    // The order of the names is that of the map, and the sort is stable.
    decisions.sort_by(|a, b| b.1.total_cmp(a.1));
    let rows: Vec<_> = decisions
        .into_iter()
        .map(|(decision, value)| [rate(*value), clean(decision)])
        .collect();
    lines.extend(
        rows.iter()
            .map(|[value, name]| Line::raw(format!("{value:>8}  {name}"))),
    );
    lines
}

fn skew_title(skew: &SkewView) -> String {
    match skew.rows.len() {
        0 => "Differences: none are known".to_owned(),
        n => format!("Differences: {n}"),
    }
}

fn skew(shown: &Shown) -> Vec<Line<'static>> {
    match shown.skew.rows.is_empty() {
        true => Vec::new(),
        false => lines(&shown.skew.differences(cell)),
    }
}

/// Emphasizes what is missing.
fn cell(cell: &SkewCell) -> String {
    match cell.state {
        SkewState::Serves => "serves".to_owned(),
        SkewState::Partial => format!("no {}", cell.missing.join(",")),
        SkewState::Lacks => "LACKS".to_owned(),
        SkewState::Unknown => "?".to_owned(),
    }
}

/// As many events as there is room for, the newest last.
fn events(shown: &Shown, room: usize) -> Vec<Line<'static>> {
    let events = &shown.history.events;
    let first = events.len().saturating_sub(room);
    let rows: Vec<_> = events
        .iter()
        .skip(first)
        .map(|event| {
            [
                clock(event.at_ms),
                event.kind.as_str().to_owned(),
                event.subject.clone(),
                event.detail.clone(),
            ]
        })
        .collect();
    let text = table(["", "", "", ""], &rows);
    lines(&text).into_iter().skip(1).collect()
}

fn lines(text: &str) -> Vec<Line<'static>> {
    text.lines()
        .map(|line| Line::raw(line.to_owned()))
        .collect()
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
