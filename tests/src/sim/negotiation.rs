//! `Accept` as a kube-apiserver reads it, for all that the simulated one writes: `munnerz/goautoneg`, what
//! `negotiation.NegotiateMediaTypeOptions` makes of its clauses, and go-restful in front of some paths. Checked against answers
//! recorded from real servers (`tests/pairs/negotiation.rs`), so that agreement with the agent alone proves nothing.

/// What kube-apiserver's serializers write, in their order.
pub const MEDIA: [&str; 3] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];

/// One media range of an `Accept` header (RFC 9110 §12.5.1).
#[derive(Clone, Debug, PartialEq)]
pub struct Clause {
    /// The type, or `*`.
    pub kind: String,
    /// The subtype, or `*`.
    pub subkind: String,
    /// `q`, from 0 to 1.
    pub quality: f32,
    /// The other parameters, in their order.
    pub parameters: Vec<(String, String)>,
}

/// `goautoneg.ParseAccept`, sorted as Go sorts few elements.
pub fn parse(header: &str) -> Vec<Clause> {
    let mut clauses: Vec<Clause> = Vec::new();
    for part in header.split(',') {
        let Some(clause) = clause(part.trim()) else {
            continue;
        };
        let mut at = clauses.len();
        clauses.push(clause);
        while at > 0 && less(&clauses[at], &clauses[at - 1]) {
            clauses.swap(at - 1, at);
            at -= 1;
        }
    }
    clauses
}

fn clause(part: &str) -> Option<Clause> {
    let (media, mut rest) = cut(part, ';');
    let (kind, subkind) = cut(media, '/');
    let kind = kind.trim().to_owned();
    let subkind = match subkind {
        "" if kind == "*" => "*".to_owned(),
        "" => return None,
        subkind => match cut(subkind, '/') {
            (subkind, "") => subkind.trim().to_owned(),
            _ => return None,
        },
    };
    let mut clause = Clause {
        kind,
        subkind,
        quality: 1.0,
        parameters: Vec::new(),
    };
    while !rest.is_empty() {
        let (parameter, after) = cut(rest, ';');
        rest = after;
        let (name, value) = cut(parameter, '=');
        let (value, spoiled) = cut(value, '=');
        if value.is_empty() || !spoiled.is_empty() {
            continue;
        }
        match name.trim() {
            "q" => clause.quality = value.parse().unwrap_or(0.0),
            name => clause
                .parameters
                .push((name.to_owned(), value.trim().to_owned())),
        }
    }
    Some(clause)
}

fn cut(text: &str, at: char) -> (&str, &str) {
    text.split_once(at).unwrap_or((text, ""))
}

fn less(a: &Clause, b: &Clause) -> bool {
    a.quality > b.quality
        || (a.kind != "*" && b.kind == "*")
        || (a.subkind != "*" && b.subkind == "*")
}

impl Clause {
    /// Whether the range has this media type in it.
    pub fn matches(&self, media: &str) -> bool {
        let (kind, subkind) = cut(media, '/');
        (self.kind == kind && [subkind, "*"].contains(&self.subkind.as_str()))
            || (self.kind == "*" && self.subkind == "*")
    }

    /// The last value of a parameter, as Go's map keeps it.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let last = self
            .parameters
            .iter()
            .rev()
            .find(|(known, _)| known == name);
        last.map(|(_, value)| value.as_str())
    }

    /// `g`, `v` and `as`, if one of them is there.
    pub fn convert(&self) -> Option<[&str; 3]> {
        let all = ["g", "v", "as"].map(|name| self.parameter(name));
        all.iter()
            .any(Option::is_some)
            .then(|| all.map(Option::unwrap_or_default))
    }
}

/// The first media type with a form that `allows` takes, and that form. `watches`: `stream=watch` is served here.
pub fn negotiate(
    header: &str,
    offered: &[&'static str],
    watches: bool,
    allows: impl Fn(&str, Option<[&str; 3]>) -> bool,
) -> Option<(&'static str, Clause)> {
    for clause in parse(header) {
        for media in offered {
            let stream = clause.parameter("stream");
            let served = stream.is_none_or(|stream| watches && stream == "watch")
                && clause.parameter("sv").is_none();
            if clause.matches(media) && served && allows(media, clause.convert()) {
                return Some((media, clause));
            }
        }
    }
    None
}

/// Whether go-restful finds a route that produces one of these.
pub fn routed(header: &str, produced: &[&str]) -> bool {
    header.is_empty()
        || header.split(',').any(|clause| {
            let media = cut(clause, ';').0.trim();
            media == "*/*" || produced.contains(&media)
        })
}
