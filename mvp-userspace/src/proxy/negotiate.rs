//! What an `Accept` header accepts, by the very rules of kube-apiserver. Pure.
//!
//! The clauses are read as `munnerz/goautoneg` reads them, and matched as `NegotiateMediaTypeOptions` of
//! `apiserver/pkg/endpoints/handlers/negotiation/negotiate.go` does. Where go-restful routes a path, it has looked at the header
//! before ([`is_routed`]).

use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue};

use crate::document::Media;

/// Up to here Go's sort is an insertion sort, whose order of equals is known (`sort.Sort`); above it the order of equals is
/// nobody's promise.
const INSERTION: usize = 12;
/// What kube-apiserver writes, in the order of its serializers: a wildcard gets the first.
const OFFERED: [Media; 3] = [Media::Json, Media::Yaml, Media::Protobuf];

/// One clause of an `Accept` header.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Clause<'a> {
    kind: &'a str,
    subkind: &'a str,
    q: f32,
    parameters: Vec<(&'a str, &'a str)>,
}

/// The form of an object that a clause asks for: `g`, `v` and `as`.
pub(super) type Convert<'a> = (&'a str, &'a str, &'a str);

/// The header that counts: the first, as Go's `Header.Get`; empty if there is none. `None` if it is not text: no clause with
/// such bytes can match.
pub(super) fn accept(headers: &HeaderMap) -> Option<&str> {
    match headers.get(ACCEPT).map(HeaderValue::to_str) {
        None => Some(""),
        Some(Ok(text)) => Some(text.trim()),
        Some(Err(_)) => None,
    }
}

/// The clauses in the order in which they are tried.
pub(super) fn clauses(header: &str) -> Vec<Clause<'_>> {
    let mut clauses: Vec<Clause<'_>> = header.split(',').filter_map(Clause::parse).collect();
    if clauses.len() > INSERTION {
        clauses.sort_by(|a, b| b.q.total_cmp(&a.q).then(a.wildcards().cmp(&b.wildcards())));
        return clauses;
    }
    for end in 1..clauses.len() {
        let mut at = end;
        while let Some(before) = at.checked_sub(1)
            && let Some([left, right]) = clauses.get(before..=at)
            && right.comes_before(left)
        {
            clauses.swap(at, before);
            at = before;
        }
    }
    clauses
}

/// The first media type that a header accepts with a form for which `allows` holds, and the clause that says so. `streams`:
/// whether the handler takes `stream=watch`.
pub(super) fn choose<'a>(
    header: &'a str,
    streams: bool,
    allows: impl Fn(Media, Option<Convert<'a>>) -> bool,
) -> Option<(Media, Clause<'a>)> {
    for clause in clauses(header) {
        for media in OFFERED {
            if clause.matches(media) && clause.is_served(streams, |convert| allows(media, convert))
            {
                return Some((media, clause));
            }
        }
    }
    None
}

/// The media type of an object in no other form than its own (`DefaultEndpointRestrictions`).
pub(super) fn choose_plain(header: &str) -> Option<Media> {
    if header.is_empty() {
        return Some(Media::Json);
    }
    choose(header, true, |_, convert| convert.is_none()).map(|(media, _)| media)
}

/// Whether go-restful finds a route for this header among routes that produce what kube-apiserver writes
/// (`Route.matchesAccept`): it knows no wildcards but `*/*`, and no q.
pub(super) fn is_routed(header: &str) -> bool {
    header.is_empty()
        || header.split(',').any(|clause| {
            let kind = clause.split(';').next().unwrap_or_default().trim();
            kind == "*/*" || OFFERED.iter().any(|media| media.name() == kind)
        })
}

impl<'a> Clause<'a> {
    /// `None` for what goautoneg passes over.
    fn parse(text: &'a str) -> Option<Self> {
        let (media, parameters) = text.split_once(';').unwrap_or((text, ""));
        let (kind, subkind) = match media.trim().split_once('/') {
            Some((kind, subkind)) if !subkind.is_empty() => (kind.trim(), subkind),
            Some((kind, _)) => (
                kind.trim(),
                if kind.trim() == "*" { "*" } else { return None },
            ),
            None if media.trim() == "*" => ("*", "*"),
            None => return None,
        };
        // A second slash is passed over only if something is behind it.
        let subkind = match subkind.split_once('/') {
            Some((_, rest)) if !rest.is_empty() => return None,
            Some((subkind, _)) => subkind,
            None => subkind,
        };
        let mut clause = Self {
            kind,
            subkind: subkind.trim(),
            q: 1.0,
            parameters: Vec::new(),
        };
        for parameter in parameters.split(';') {
            let Some((name, value)) = parameter.split_once('=') else {
                continue;
            };
            // What is after a second `=` spoils the parameter, an empty value as well.
            let value = match value.split_once('=') {
                Some((_, rest)) if !rest.is_empty() => continue,
                Some((value, _)) => value,
                None if value.is_empty() => continue,
                None => value,
            };
            match name.trim() {
                // strconv.ParseFloat gives 0 for what it cannot read.
                "q" => clause.q = number(value),
                name => clause.parameters.push((name, value.trim())),
            }
        }
        Some(clause)
    }

    /// If a parameter occurs twice, the last one counts.
    pub(super) fn parameter(&self, wanted: &str) -> Option<&'a str> {
        let mut found = self.parameters.iter().rev();
        found.find(|(name, _)| *name == wanted).map(|(_, v)| *v)
    }

    /// The other form that the clause asks for, if it names one at all.
    pub(super) fn convert(&self) -> Option<Convert<'a>> {
        let [group, version, kind] = ["g", "v", "as"].map(|name| self.parameter(name));
        if group.is_none() && version.is_none() && kind.is_none() {
            return None;
        }
        let text = Option::unwrap_or_default;
        Some((text(group), text(version), text(kind)))
    }

    fn matches(&self, media: Media) -> bool {
        let (kind, subkind) = media.name().split_once('/').unwrap_or_default();
        (self.kind == kind && (self.subkind == subkind || self.subkind == "*"))
            || (self.kind == "*" && self.subkind == "*")
    }

    /// `acceptMediaTypeOptions`.
    fn is_served(&self, streams: bool, allows: impl Fn(Option<Convert<'a>>) -> bool) -> bool {
        let named = |name: &str| self.parameter(name).filter(|value| !value.is_empty());
        let streamed = |schema: &str| streams && schema == "watch";
        named("stream").is_none_or(streamed) && named("sv").is_none() && allows(self.convert())
    }

    /// `acceptSlice.Less`, which is no order: what it says of two neighbours is all that is used of it.
    fn comes_before(&self, other: &Self) -> bool {
        self.q > other.q
            || (self.kind != "*" && other.kind == "*")
            || (self.subkind != "*" && other.subkind == "*")
    }

    fn wildcards(&self) -> usize {
        usize::from(self.kind == "*") + usize::from(self.subkind == "*")
    }
}

fn number(text: &str) -> f32 {
    text.parse()
        .ok()
        .filter(|q: &f32| !q.is_nan())
        .unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Recorded with kube-apiserver 1.33.13 and 1.36.3, of a Status.
    #[test]
    fn plain_objects() {
        let (json, yaml, protobuf) = (Some(Media::Json), Some(Media::Yaml), Some(Media::Protobuf));
        for (header, media) in [
            ("", json),
            ("*", json),
            ("*/*", json),
            ("/", None),
            ("application", None),
            ("application/", None),
            ("application/*", json),
            ("*/json", None),
            ("APPLICATION/JSON", None),
            ("\"application/json\"", None),
            ("text/html", None),
            (",,,application/yaml", yaml),
            ("application/json ; charset=utf-8", json),
            ("application/json;;q=1", json),
            ("application/json;q=0", json),
            ("application/json;q=0,*/*", json),
            ("*/*;q=0.1,application/yaml", yaml),
            ("application/yaml;q=0.1,*/*", json),
            ("application/json;q=\"0.3\",application/yaml;q=0.5", yaml),
            ("application/yaml;q=,application/json", yaml),
            ("application/yaml;q=-1,application/json", json),
            ("application/yaml;q=2,application/json", yaml),
            ("application/yaml;q=abc,application/json;q=0.1", json),
            (
                "application/json;q=0.2,application/vnd.kubernetes.protobuf;q=0.9",
                protobuf,
            ),
            ("application/json;stream=watch", json),
            ("application/json;stream=other", None),
            ("application/json;sv=v1", None),
            (
                "application/json;as=Table;v=v9;g=meta.k8s.io,application/json",
                json,
            ),
            (
                "application/json;G=apidiscovery.k8s.io;V=v2;AS=APIGroupDiscoveryList",
                json,
            ),
            ("application/json;as=,application/yaml", json),
            ("application/json;as=a=b,application/yaml", json),
        ] {
            assert_eq!(choose_plain(header), media, "{header}");
        }
    }

    #[test]
    fn go_restful_knows_no_partial_wildcard() {
        for (header, routed) in [
            ("", true),
            ("*/*", true),
            ("*/*;q=0", true),
            ("*", false),
            ("application/*", false),
            ("text/html, application/yaml;q=0.1", true),
            ("text/html", false),
        ] {
            assert_eq!(is_routed(header), routed, "{header}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read(header in "[a-z*/;=,q0-9. \"]{0,200}") {
            let clauses = clauses(&header);
            prop_assert!(clauses.len() <= header.split(',').count());
            let _ = (choose_plain(&header), is_routed(&header));
        }

        #[test]
        fn more_wanted_comes_first(qs in prop::collection::vec(0u8..=10, 0..30)) {
            let header: Vec<_> = qs.iter().map(|q| format!("a/b;q={}", f32::from(*q) / 10.0)).collect();
            let header = header.join(",");
            prop_assert!(clauses(&header).is_sorted_by(|a, b| a.q >= b.q));
        }
    }
}
