//! Which document an `Accept` header asks for: the discovery wrapper (k8s.io/apiserver
//! pkg/endpoints/discovery/aggregated/wrapper.go) in front of the handlers of legacy discovery.

use crate::sim::negotiation;

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

/// What stands at a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// There is an aggregated document.
    pub aggregated: bool,
    /// The server still has v2beta1 (on by default before 1.33).
    pub beta: bool,
    /// go-restful routes requests there; the aggregator serves the others itself.
    pub routed: bool,
}

impl Media {
    pub(super) fn name(self) -> &'static str {
        match self {
            Media::Json => negotiation::MEDIA[0],
            Media::Yaml => negotiation::MEDIA[1],
            Media::Protobuf => negotiation::MEDIA[2],
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Json, Self::Yaml, Self::Protobuf]
            .into_iter()
            .find(|media| media.name() == name)
    }
}

/// The first clause that asks for an aggregated document wins, wherever it stands; without one, plain clauses count. No header
/// means JSON. `None` is a 406.
pub(super) fn negotiate(header: Option<&str>, place: Place) -> Option<Choice> {
    let header = header.unwrap_or_default().trim();
    let of = |convert: Option<[&str; 3]>| match convert? {
        ["apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList"] => Some(Document::V2),
        ["apidiscovery.k8s.io", "v2beta1", "APIGroupDiscoveryList"] if place.beta => {
            Some(Document::V2Beta1)
        }
        _ => None,
    };
    if place.routed && !negotiation::routed(header, &negotiation::MEDIA) {
        return None;
    }
    if place.aggregated {
        let allows = |_: &str, convert: Option<[&str; 3]>| of(convert).is_some();
        let found = negotiation::negotiate(header, &negotiation::MEDIA, false, allows);
        if let Some((media, clause)) = found {
            return Some(Choice {
                media: Media::named(media)?,
                document: of(clause.convert())?,
            });
        }
    }
    let plain = |_: &str, convert: Option<[&str; 3]>| convert.is_none();
    let media = match header {
        "" => Media::Json,
        header => {
            let found = negotiation::negotiate(header, &negotiation::MEDIA, true, plain);
            Media::named(found?.0)?
        }
    };
    Some(Choice {
        media,
        document: Document::Legacy,
    })
}

/// kube-openapi's handlers: the first clause in any of these media types. A header without one clause gets nothing from v3, and
/// a 406 from v2.
pub(super) fn first_of<'a>(header: Option<&str>, offered: &[&'a str]) -> Option<&'a str> {
    let header = header.filter(|header| !header.trim().is_empty());
    let clauses = negotiation::parse(header.unwrap_or("*/*"));
    clauses.iter().find_map(|clause| {
        // Unlike apiserver's, these handlers take a wildcard in front of any subtype.
        let matches = |media: &&&str| {
            let (kind, subkind) = media.split_once('/').unwrap_or_default();
            [kind, "*"].contains(&clause.kind.as_str())
                && [subkind, "*"].contains(&clause.subkind.as_str())
        };
        offered.iter().find(matches).copied()
    })
}

/// Whether kube-openapi's v3 handler writes nothing at all, with a 200.
pub(super) fn is_silent(header: Option<&str>) -> bool {
    header.is_some_and(|header| !header.trim().is_empty() && negotiation::parse(header).is_empty())
}
