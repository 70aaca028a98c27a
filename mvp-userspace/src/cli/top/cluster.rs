//! The agents of all nodes, one line for each node.

use std::collections::BTreeMap;
use std::sync::Arc;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Paragraph};

use super::super::client::ClientError;
use super::super::fleet::{Fleet, Member, each};
use super::{Screen, bad, rate};
use crate::admin::{ServerView, StatusView};
use crate::text::table::{clean, table};

/// Queries the agents repeatedly, and remembers the last answer of each.
pub(super) struct Nodes {
    fleet: Fleet,
    members: Vec<Member>,
    last: BTreeMap<String, StatusView>,
}

/// The last answers of all agents.
#[derive(Clone, Debug, Default)]
pub(super) struct ClusterShown {
    pub nodes: Vec<Node>,
    /// Why the list of agents is not up to date.
    pub problem: Option<String>,
    pub plain: bool,
}

/// One agent.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    pub name: String,
    /// Its last answer; `None`: it has not answered yet.
    pub status: Option<StatusView>,
    /// Why the last answer is not up to date.
    pub problem: Option<String>,
}

impl Nodes {
    pub(super) fn new(fleet: Fleet) -> Self {
        Self {
            fleet,
            members: Vec::new(),
            last: BTreeMap::new(),
        }
    }

    /// # Errors
    /// No agent is known at all. One that cannot be asked is shown as such.
    pub(super) fn look(&mut self) -> Result<ClusterShown, ClientError> {
        let problem = match self.fleet.members() {
            Ok(members) => {
                self.members = members;
                None
            }
            Err(problem) if self.members.is_empty() => {
                let address = "the agents' pods".to_owned();
                return Err(ClientError::Unreachable { address, problem });
            }
            // The agents that are known are queried further.
            Err(problem) => Some(problem),
        };
        let told = each(&self.members, |member| {
            (member.name.clone(), member.status())
        });
        let mut nodes = Vec::new();
        for (name, told) in told {
            let problem = match told {
                Ok(status) => {
                    self.last.insert(name.clone(), status);
                    None
                }
                Err(problem) => Some(problem),
            };
            nodes.push(Node {
                status: self.last.get(&name).cloned(),
                name,
                problem,
            });
        }
        self.last
            .retain(|name, _| nodes.iter().any(|node| node.name == *name));
        Ok(ClusterShown {
            nodes,
            problem,
            plain: false,
        })
    }
}

impl Screen for ClusterShown {
    fn draw(&self, frame: &mut Frame<'_>) {
        let (head, nodes) = (head(self), nodes(self));
        let height = |lines: &[Line<'_>]| u16::try_from(lines.len()).unwrap_or(u16::MAX);
        let [top, middle, bottom] = Layout::vertical([
            Constraint::Length(height(&head)),
            Constraint::Length(height(&nodes).saturating_add(1)),
            Constraint::Min(2),
        ])
        .areas(frame.area());
        frame.render_widget(Paragraph::new(head), top);
        for (area, title, lines) in [
            (middle, " Nodes ", nodes),
            (bottom, " Requests per second ", decisions(self)),
        ] {
            let block = Block::new().borders(Borders::TOP).title(title);
            frame.render_widget(Paragraph::new(lines).block(block), area);
        }
    }

    fn plain(&mut self, plain: bool) {
        self.plain = plain;
    }

    fn problem(&mut self, problem: String) {
        self.problem = Some(problem);
    }
}

fn head(shown: &ClusterShown) -> Vec<Line<'static>> {
    let known = || shown.nodes.iter().filter_map(|node| node.status.as_ref());
    let versions: std::collections::BTreeSet<_> = known()
        .flat_map(|status| &status.servers)
        .filter_map(|server| server.version.as_deref())
        .collect();
    let versions: Vec<_> = versions.into_iter().collect();
    let silent = shown.nodes.iter().filter(|node| node.problem.is_some());
    let mut lines = vec![Line::styled(
        clean(&format!(
            "{} agents, {} silent; servers {}; {} connections of before",
            shown.nodes.len(),
            silent.count(),
            match versions.is_empty() {
                true => "unknown".to_owned(),
                false => versions.join(", "),
            },
            known().map(|status| status.retirement.open).sum::<usize>(),
        )),
        Style::new().add_modifier(Modifier::BOLD),
    )];
    if let Some(problem) = &shown.problem {
        lines.push(Line::styled(clean(problem), bad(shown.plain)));
    }
    lines
}

/// One line for each agent, and below them the problems, which may need a whole line.
fn nodes(shown: &ClusterShown) -> Vec<Line<'static>> {
    let rows: Vec<_> = shown.nodes.iter().map(row).collect();
    let head = [
        "NODE",
        "AGENT",
        "SERVER",
        "CLIENTS",
        "GUARD",
        "BEFORE",
        "REQ/S",
        "FORWARDED",
        "ADDED",
    ];
    let text = table(head, &rows);
    let mut lines: Vec<_> = text
        .lines()
        .map(|line| Line::raw(line.to_owned()))
        .collect();
    for (line, node) in lines.iter_mut().skip(1).zip(&shown.nodes) {
        if wrong(node).is_some() {
            line.style = bad(shown.plain);
        }
    }
    lines.extend(shown.nodes.iter().filter_map(|node| {
        let text = format!("{}: {}", node.name, wrong(node)?);
        Some(Line::styled(clean(&text), bad(shown.plain)))
    }));
    lines
}

fn wrong(node: &Node) -> Option<String> {
    if node.problem.is_some() {
        return node.problem.clone();
    }
    let status = node.status.as_ref()?;
    match (status.ready, status.awaiting.first()) {
        (true, _) => {}
        (false, Some(task)) => return Some(format!("not ready, awaiting {task}")),
        (false, None) => return Some(format!("not ready, {}", status.drain)),
    }
    if status.stance.word == "passing by" {
        return Some(status.stance.line.clone());
    }
    let failing = status.servers.iter().find(|server| !server.available)?;
    Some(format!("it cannot use {}", failing.name))
}

fn row(node: &Node) -> [String; 9] {
    let Some(status) = &node.status else {
        let mut row = [(); 9].map(|()| "-".to_owned());
        row[0] = node.name.clone();
        return row;
    };
    let traffic = &status.traffic;
    let local = status.servers.iter().find(|server| server.local);
    [
        node.name.clone(),
        status.version.clone(),
        local.map_or_else(|| "-".to_owned(), version),
        status.stance.word.clone(),
        guard(status),
        status.retirement.open.to_string(),
        rate(traffic.per_second.values().sum()),
        rate(traffic.forwarded_per_second),
        match traffic.added_us {
            Some(micros) => format!("{micros:.0}us"),
            None => "-".to_owned(),
        },
    ]
}

/// The state with its first reason, and how many more there are.
fn guard(status: &StatusView) -> String {
    let state = &status.guard.state;
    match status.guard.reasons.as_slice() {
        [] => state.clone(),
        [reason] => format!("{state}: {reason}"),
        [reason, others @ ..] => format!("{state}: {reason} +{}", others.len()),
    }
}

fn version(server: &ServerView) -> String {
    let version = server.version.as_deref().unwrap_or("-");
    match (server.available, server.stopping) {
        (true, true) => format!("{version} stopping"),
        (true, false) => version.to_owned(),
        (false, _) => format!("{version} DOWN"),
    }
}

/// Rates by decision, the greatest first, with a column for each node.
fn decisions(shown: &ClusterShown) -> Vec<Line<'static>> {
    let mut all: BTreeMap<&Arc<str>, f64> = BTreeMap::new();
    for status in shown.nodes.iter().filter_map(|node| node.status.as_ref()) {
        for (decision, value) in &status.traffic.per_second {
            *all.entry(decision).or_default() += value;
        }
    }
    let mut all: Vec<_> = all.into_iter().collect();
    // The order of the names is that of the map, and the sort is stable.
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    let names = shown.nodes.iter().map(|node| node.name.clone());
    let heading: Vec<String> = ["DECISION".to_owned(), "ALL".to_owned()]
        .into_iter()
        .chain(names)
        .collect();
    let of = |node: &Node, decision: &Arc<str>| {
        let status = node.status.as_ref();
        let value = status.and_then(|status| status.traffic.per_second.get(decision));
        value.map_or_else(|| "-".to_owned(), |value| rate(*value))
    };
    let rows: Vec<Vec<String>> = all
        .into_iter()
        .map(|(decision, sum)| {
            let nodes = shown.nodes.iter().map(|node| of(node, decision));
            [decision.to_string(), rate(sum)]
                .into_iter()
                .chain(nodes)
                .collect()
        })
        .collect();
    let text = crate::text::table::columns(&heading, &rows);
    text.lines()
        .map(|line| Line::raw(line.to_owned()))
        .collect()
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
