//! What differs between the servers, as a view and as text.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::text::table::{age, clean, columns, table};

/// `GET /skew`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SkewView {
    /// The local server first.
    pub servers: Vec<SkewServer>,
    /// In the order of group, version, resource, subresource; empty when no two servers are known to differ.
    pub rows: Vec<SkewRow>,
}

/// One server, as the comparison knows it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SkewServer {
    /// As in routes, metrics and logs.
    pub name: String,
    /// It is the kube-apiserver of this node.
    pub local: bool,
    /// `v1.36.3`; none: never reached.
    pub version: Option<String>,
    /// Its version is the newest of all known ones.
    pub newest: bool,
    /// `fresh`, `stale` or `none`.
    pub knowledge: String,
    /// Since it last confirmed what it serves.
    pub age_ms: Option<u64>,
}

/// One key that not all servers serve alike.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SkewRow {
    /// Empty for the core group.
    pub group: String,
    /// The version of the group, for example `v1beta1`.
    pub version: String,
    /// The plural name in request paths.
    pub resource: String,
    /// Empty for the resource itself.
    pub subresource: String,
    /// By server.
    pub servers: BTreeMap<String, SkewCell>,
}

/// What one server has of a key.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SkewCell {
    /// Whether requests for the key may go there.
    pub state: SkewState,
    /// Verbs that another server has for the key and this one has not.
    pub missing: Vec<String>,
}

/// How far a server serves a key, measured by all servers together.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum SkewState {
    /// The server serves the key with every verb that any server has for it.
    Serves,
    /// The server serves the key without some of those verbs.
    Partial,
    /// The server's discovery does not list the key.
    Lacks,
    /// Nothing at all is known of the server.
    #[default]
    Unknown,
}

impl SkewView {
    /// For people: the servers, then a line for each difference with a column for each server.
    pub fn text(&self) -> String {
        let servers: Vec<_> = self.servers.iter().map(SkewServer::cells).collect();
        let mut out = table(["SERVER", "VERSION", "KNOWLEDGE", "AGE"], &servers);
        out.push('\n');
        if self.rows.is_empty() {
            return out + &self.nothing();
        }
        out + &self.differences(SkewCell::text)
    }

    /// A line for each difference, with a column for each server that has what `word` says of the cell.
    pub fn differences(&self, word: fn(&SkewCell) -> String) -> String {
        let mut heading = vec!["GROUP/VERSION".to_owned(), "RESOURCE".to_owned()];
        heading.extend(self.servers.iter().map(|server| server.name.clone()));
        let rows: Vec<_> = self.rows.iter().map(|row| self.cells(row, word)).collect();
        columns(&heading, &rows)
    }

    fn nothing(&self) -> String {
        let (known, unknown): (Vec<_>, Vec<_>) =
            self.servers.iter().partition(|s| s.knowledge != "none");
        let plural = if known.len() == 1 { "" } else { "s" };
        let mut line = format!("no differences among {} server{plural}", known.len());
        if !unknown.is_empty() {
            let names: Vec<_> = unknown.iter().map(|s| clean(&s.name)).collect();
            line += &format!("; nothing is known of {}", names.join(", "));
        }
        line + "\n"
    }

    fn cells(&self, row: &SkewRow, word: fn(&SkewCell) -> String) -> Vec<String> {
        let group_version = match row.group.as_str() {
            "" => row.version.clone(),
            group => format!("{group}/{}", row.version),
        };
        let resource = match row.subresource.as_str() {
            "" => row.resource.clone(),
            subresource => format!("{}/{subresource}", row.resource),
        };
        let unknown = SkewCell::default();
        let cells = self
            .servers
            .iter()
            .map(|server| word(row.servers.get(&server.name).unwrap_or(&unknown)));
        [group_version, resource].into_iter().chain(cells).collect()
    }
}

impl SkewServer {
    fn cells(&self) -> [String; 4] {
        let mut version = self.version.clone().unwrap_or_else(|| "-".to_owned());
        if self.newest {
            version += " (newest)";
        }
        [
            self.name.clone(),
            version,
            self.knowledge.clone(),
            self.age_ms.map_or_else(|| "-".to_owned(), age),
        ]
    }
}

impl SkewCell {
    fn text(&self) -> String {
        match self.state {
            SkewState::Serves => "serves".to_owned(),
            SkewState::Partial => format!("no {}", self.missing.join(",")),
            SkewState::Lacks => "lacks".to_owned(),
            SkewState::Unknown => "unknown".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str, version: Option<&str>, knowledge: &str) -> SkewServer {
        SkewServer {
            name: name.into(),
            version: version.map(str::to_owned),
            newest: version == Some("v1.36.3"),
            knowledge: knowledge.into(),
            age_ms: version.map(|_| 350),
            ..SkewServer::default()
        }
    }

    #[test]
    fn as_a_table() {
        let cell = |state, missing: &[&str]| SkewCell {
            state,
            missing: missing.iter().map(|v| (*v).to_owned()).collect(),
        };
        let row = |group: &str, resource: &str, subresource: &str, a, b| SkewRow {
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: subresource.into(),
            servers: BTreeMap::from([("cp-a".into(), a), ("cp-b\u{7}".into(), b)]),
        };
        let serves = cell(SkewState::Serves, &[]);
        let lacks = cell(SkewState::Lacks, &["get"]);
        let partial = cell(SkewState::Partial, &["list", "watch"]);
        let mut view = SkewView {
            servers: vec![
                server("cp-a", Some("v1.35.6"), "fresh"),
                server("cp-b\u{7}", Some("v1.36.3"), "stale"),
                server("cp-c", None, "none"),
            ],
            rows: vec![
                row("", "pods", "resize", lacks, serves.clone()),
                row("apps", "things", "", serves, partial),
            ],
        };
        let servers = "\
SERVER  VERSION           KNOWLEDGE  AGE
cp-a    v1.35.6           fresh      350ms
cp-b?   v1.36.3 (newest)  stale      350ms
cp-c    -                 none       -
";
        let rows = "
GROUP/VERSION  RESOURCE     cp-a    cp-b?          cp-c
v1             pods/resize  lacks   serves         unknown
apps/v1        things       serves  no list,watch  unknown
";
        assert_eq!(view.text(), format!("{servers}{rows}"));
        view.rows.clear();
        let nothing = "\nno differences among 2 servers; nothing is known of cp-c\n";
        assert_eq!(view.text(), format!("{servers}{nothing}"));
        view.servers.truncate(1);
        assert!(view.text().ends_with("\nno differences among 1 server\n"));
    }
}
