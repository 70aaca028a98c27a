//! Which document an `Accept` header asks for: k8s.io/apiserver pkg/endpoints/handlers/negotiation with the
//! restrictions of discovery (pkg/endpoints/discovery/aggregated/negotiation.go).

/// What a discovery handler writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub media: Media,
    pub document: Document,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Media {
    Json,
    Yaml,
    Protobuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Document {
    Legacy,
    V2,
    V2Beta1,
}

impl Media {
    pub(super) fn name(self) -> &'static str {
        match self {
            Media::Json => "application/json",
            Media::Yaml => "application/yaml",
            Media::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// Clauses by quality, then the more specific first; the first one wins that names a media type the server writes and
/// either no kind or the list of an aggregated discovery it has. No header means JSON. `None` is a 406.
///
/// `beta`: whether the server still has v2beta1 (on by default before 1.33).
/// `aggregated`: whether there is an aggregated document at this path at all.
pub(super) fn negotiate(header: Option<&str>, aggregated: bool, beta: bool) -> Option<Choice> {
    let header = header.unwrap_or_default();
    if header.is_empty() {
        return Some(Choice {
            media: Media::Json,
            document: Document::Legacy,
        });
    }
    clauses(header).iter().find_map(|clause| {
        [Media::Json, Media::Yaml, Media::Protobuf]
            .into_iter()
            .find_map(|media| {
                let document = clause
                    .matches(media.name())
                    .then(|| clause.document(aggregated, beta))??;
                Some(Choice { media, document })
            })
    })
}

/// The first of these media types that the header takes; no header takes the first.
pub(super) fn first_of<'a>(header: Option<&str>, offered: &[&'a str]) -> Option<&'a str> {
    let header = header.filter(|header| !header.is_empty());
    clauses(header.unwrap_or("*/*"))
        .iter()
        .find_map(|clause| offered.iter().find(|media| clause.matches(media)).copied())
}

#[derive(Debug)]
struct Clause<'a> {
    kind: &'a str,
    subkind: &'a str,
    quality: f64,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Clause<'a>> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, subkind) = match parts.next()? {
            "*" => ("*", "*"),
            media => media.split_once('/')?,
        };
        let mut clause = Clause {
            kind: kind.trim(),
            subkind: subkind.trim(),
            quality: 1.0,
            parameters: Vec::new(),
        };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match (name.trim(), value.trim()) {
                ("q", value) => clause.quality = value.parse().unwrap_or(1.0),
                parameter => clause.parameters.push(parameter),
            }
        }
        Some(clause)
    }

    fn matches(&self, media: &str) -> bool {
        let (kind, subkind) = media.split_once('/').unwrap_or_default();
        (self.kind == kind && (self.subkind == subkind || self.subkind == "*"))
            || (self.kind == "*" && self.subkind == "*")
    }

    /// The kind the clause converts to: one of `g`, `v`, `as` is enough to ask for one, and then it must be exactly a
    /// list of discovery. A discovery is never streamed. Parameters without meaning, and `profile`, change nothing.
    fn document(&self, aggregated: bool, beta: bool) -> Option<Document> {
        let value = |name: &str| {
            self.parameters
                .iter()
                .rev()
                .find(|parameter| parameter.0 == name)
                .map(|parameter| parameter.1)
        };
        if value("stream").is_some_and(|stream| !stream.is_empty()) {
            return None;
        }
        match (value("g"), value("v"), value("as")) {
            (None, None, None) => Some(Document::Legacy),
            (Some("apidiscovery.k8s.io"), Some(version), Some("APIGroupDiscoveryList"))
                if aggregated =>
            {
                match version {
                    "v2" => Some(Document::V2),
                    "v2beta1" if beta => Some(Document::V2Beta1),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

fn clauses(header: &str) -> Vec<Clause<'_>> {
    let mut clauses: Vec<Clause<'_>> = header.split(',').filter_map(Clause::parse).collect();
    clauses.sort_by(|a, b| {
        let general = |clause: &Clause<'_>| (clause.kind == "*", clause.subkind == "*");
        b.quality
            .total_cmp(&a.quality)
            .then_with(|| general(a).cmp(&general(b)))
    });
    clauses
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    const BETA: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

    fn document(header: &str, beta: bool) -> Option<Document> {
        negotiate(Some(header), true, beta).map(|choice| choice.document)
    }

    #[test]
    fn table() {
        use Document::{Legacy, V2 as Two, V2Beta1};
        let and_json = |first: &str| format!("{first},application/json");
        let cases = [
            (String::new(), Some(Legacy), Some(Legacy)),
            ("application/json".into(), Some(Legacy), Some(Legacy)),
            ("*/*".into(), Some(Legacy), Some(Legacy)),
            ("application/*".into(), Some(Legacy), Some(Legacy)),
            ("application/yaml".into(), Some(Legacy), Some(Legacy)),
            (V2.into(), Some(Two), Some(Two)),
            (format!("{V2};profile=nopeer"), Some(Two), Some(Two)),
            (
                format!("{V2};profile=other;unknown=1"),
                Some(Two),
                Some(Two),
            ),
            (
                "application/json; as=APIGroupDiscoveryList; v=v2; g=apidiscovery.k8s.io".into(),
                Some(Two),
                Some(Two),
            ),
            (V2.replace("json", "*"), Some(Two), Some(Two)),
            (and_json(V2), Some(Two), Some(Two)),
            // The order of equal qualities is that of the header; otherwise the quality decides.
            (format!("application/json,{V2}"), Some(Legacy), Some(Legacy)),
            (format!("application/json;q=0.5,{V2}"), Some(Two), Some(Two)),
            (
                format!("{V2};q=0.1,application/json;q=0.9"),
                Some(Legacy),
                Some(Legacy),
            ),
            (format!("*/*,{V2}"), Some(Two), Some(Two)),
            (BETA.into(), Some(V2Beta1), None),
            (and_json(BETA), Some(V2Beta1), Some(Legacy)),
            (
                format!("{V2},{BETA},application/json"),
                Some(Two),
                Some(Two),
            ),
            // Half a kind is another kind.
            ("application/json;v=v2".into(), None, None),
            (V2.replace("v=v2", "v=v3"), None, None),
            (V2.replace("List", ""), None, None),
            (format!("{V2};stream=watch"), None, None),
            (
                "application/vnd.kubernetes.protobuf".into(),
                Some(Legacy),
                Some(Legacy),
            ),
            (
                V2.replace("json", "vnd.kubernetes.protobuf"),
                Some(Two),
                Some(Two),
            ),
            // Formats that are not written here, or no format at all.
            ("application/cbor".into(), None, None),
            (V2.replace("json", "cbor"), None, None),
            (
                format!("{},{V2}", V2.replace("json", "vnd.kubernetes.protobuf")),
                Some(Two),
                Some(Two),
            ),
            (
                "application/vnd.kubernetes.protobuf,*/*".into(),
                Some(Legacy),
                Some(Legacy),
            ),
            ("text/html".into(), None, None),
            ("garbage".into(), None, None),
        ];
        for (header, old, new) in cases {
            assert_eq!(document(&header, true), old, "before 1.33: {header}");
            assert_eq!(document(&header, false), new, "from 1.33: {header}");
        }
    }

    #[test]
    fn no_aggregated_document_here() {
        assert_eq!(negotiate(Some(V2), false, false), None);
        let both = format!("{V2},application/json");
        let choice = negotiate(Some(&both), false, false).unwrap();
        assert_eq!(choice.document, Document::Legacy);
    }

    #[test]
    fn encodings() {
        let media = |accept: &str| {
            let choice = negotiate(Some(accept), true, false).unwrap();
            assert_eq!(choice.document, Document::V2, "{accept}");
            choice.media
        };
        let protobuf = V2.replace("json", "vnd.kubernetes.protobuf");
        assert_eq!(media(&V2.replace("json", "yaml")), Media::Yaml);
        assert_eq!(media(&V2.replace("json", "*")), Media::Json);
        assert_eq!(media(&protobuf), Media::Protobuf);
        assert_eq!(
            media(&format!("{protobuf};q=0.5,{V2};q=0.4")),
            Media::Protobuf
        );
        assert_eq!(media(&format!("{protobuf};q=0.4,{V2};q=0.5")), Media::Json);
    }
}
