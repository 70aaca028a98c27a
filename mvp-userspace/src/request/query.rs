//! The two list options that change what a request is: `watch` and `fieldSelector=metadata.name=…`. And those that a server may be
//! too old to know.

use std::borrow::Cow;

use super::path::{Plus, unescape};

#[derive(Debug, Default, PartialEq)]
pub(super) struct ListOptions {
    pub(super) watch: bool,
    /// From a field selector that requires exactly this name.
    pub(super) name: String,
}

/// Options of a list or watch that a kube-apiserver refuses if it is too old to know them, or their values. Most options that it does not
/// know it ignores; of these it says so.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NewerOptions {
    /// Which fields can be selected by is each release's own.
    pub field_selector: bool,
    /// Since Kubernetes 1.27, and by a feature gate.
    pub send_initial_events: bool,
}

impl NewerOptions {
    /// The options of a query, undecoded; none of `None`.
    pub fn read(query: Option<&str>) -> Self {
        let mut options = Self::default();
        for (key, value) in pairs(query.unwrap_or_default()) {
            options.field_selector |= key == "fieldSelector" && !value.is_empty();
            options.send_initial_events |= key == "sendInitialEvents";
        }
        options
    }

    /// Whether there is an option that an older server would refuse.
    pub fn any(self) -> bool {
        self.field_selector || self.send_initial_events
    }
}

/// Reads a query as kube-apiserver decodes `metav1.ListOptions` in `NewRequestInfo`: the first value of a key counts; `watch`
/// is true for any value but `false` and `0`; options that do not decode leave the name empty but keep `watch`.
///
/// A label selector is not checked: a malformed one could only change the name that is logged for a request the server refuses.
pub(super) fn list_options(query: &str) -> ListOptions {
    let (mut watch, mut selector, mut decodes) = (None, None, true);
    let (mut timeout, mut limit) = (None, None);
    for (key, value) in pairs(query) {
        let slot = match &*key {
            "watch" => &mut watch,
            "fieldSelector" => &mut selector,
            "timeoutSeconds" => &mut timeout,
            "limit" => &mut limit,
            _ => continue,
        };
        if slot.is_none() {
            *slot = unescape(value, Plus::IsSpace);
        }
    }
    for number in [timeout, limit].iter().flatten() {
        decodes &= number.parse::<i64>().is_ok();
    }
    let watch = watch.is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"));
    let name = match selector {
        Some(selector) if decodes => exact_name(&selector).unwrap_or_default(),
        _ => String::new(),
    };
    ListOptions { watch, name }
}

/// Go's `url.ParseQuery`: pairs with a semicolon or a malformed escape are skipped. Values are still encoded.
fn pairs(query: &str) -> impl Iterator<Item = (Cow<'_, str>, &str)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.contains(';'))
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((unescape(key, Plus::IsSpace)?, value))
        })
}

/// The name that a field selector requires, if it is one that may stand in a path (`fields.ParseSelector`,
/// `Selector.RequiresExactMatch`, `path.IsValidPathSegmentName`). One malformed term spoils the whole selector.
fn exact_name(selector: &str) -> Option<String> {
    let mut terms = split_terms(selector);
    // Go sorts the terms before it looks for the first match.
    terms.sort_unstable();
    let mut name = None;
    for term in terms.into_iter().filter(|term| !term.is_empty()) {
        let (field, equals, value) = split_term(term)?;
        let value = unescape_value(value)?;
        if equals && field == "metadata.name" && name.is_none() {
            name = Some(value);
        }
    }
    name.filter(|name| !matches!(name.as_str(), "." | "..") && !name.contains(['/', '%']))
}

/// Splits at commas that no backslash escapes.
fn split_terms(selector: &str) -> Vec<&str> {
    let mut escaped = false;
    selector
        .split(|c| {
            let separates = c == ',' && !escaped;
            escaped = c == '\\' && !escaped;
            separates
        })
        .collect()
}

/// (field, true for `=` and `==` and false for `!=`, value), at the first operator.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let (field, value) = term.split_once('=')?;
    if let Some(field) = field.strip_suffix('!') {
        return Some((field, false, value));
    }
    Some((field, true, value.strip_prefix('=').unwrap_or(value)))
}

/// A backslash may stand before a backslash, a comma or an equals sign, and the latter two need one.
fn unescape_value(value: &str) -> Option<String> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.push(chars.next().filter(|c| matches!(c, '\\' | ',' | '='))?),
            ',' | '=' => return None,
            c => plain.push(c),
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_options() {
        for (query, expected) in [
            (None, (false, false)),
            (Some("watch=1&limit=5&x=fieldSelector"), (false, false)),
            (Some("fieldSelector="), (false, false)),
            (Some("fieldSelector=a%3Db"), (true, false)),
            (
                Some("watch=1&send%49nitialEvents=true&fieldSelector=a=b"),
                (true, true),
            ),
            (Some("sendInitialEvents=false"), (false, true)),
        ] {
            let options = NewerOptions::read(query);
            assert_eq!(
                (options.field_selector, options.send_initial_events),
                expected,
                "{query:?}"
            );
            assert_eq!(options.any(), expected != (false, false));
        }
    }

    #[test]
    fn watch() {
        for (query, expected) in [
            ("watch", true),
            ("watch=", true),
            ("watch=true", true),
            ("watch=1", true),
            ("watch=no", true),
            ("watch=false", false),
            ("watch=FALSE", false),
            ("watch=0", false),
            ("watch=false&watch=true", false),
            ("watch=true&watch=false", true),
            ("%77atch=1", true),
            ("Watch=1", false),
            ("watch=1;x=2", false),
            ("watch=%zz", false),
            ("watch=%zz&watch=1", true),
            ("limit=x&watch=1", true),
            ("", false),
            ("&&", false),
            ("=1", false),
        ] {
            assert_eq!(list_options(query).watch, expected, "{query}");
        }
    }

    #[test]
    fn name() {
        for (query, expected) in [
            ("fieldSelector=metadata.name=x", "x"),
            ("fieldSelector=metadata.name%3Dx", "x"),
            ("fieldSelector=metadata.name==x", "x"),
            ("fieldSelector=metadata.name!=x", ""),
            ("fieldSelector=metadata.name=x,status.phase=Running", "x"),
            ("fieldSelector=status.phase!=Running,metadata.name=x,", "x"),
            ("fieldSelector=metadata.name=b,metadata.name=a", "a"),
            ("fieldSelector=metadata.name=b,metadata.name==a", "a"),
            ("fieldSelector=metadata.name=a%5C,b", "a,b"),
            ("fieldSelector=metadata.name=a%5Cb", ""),
            ("fieldSelector=metadata.name=a%5C", ""),
            ("fieldSelector=metadata.name=a=b", ""),
            ("fieldSelector=metadata.name=x,broken", ""),
            ("fieldSelector=metadata.name=..", ""),
            ("fieldSelector=metadata.name=a/b", ""),
            ("fieldSelector=metadata.name=a%2525", ""),
            ("fieldSelector=metadata.name=a+b", "a b"),
            ("fieldSelector=metadata.name=", ""),
            ("fieldSelector=metadata.name=x&limit=500", "x"),
            ("fieldSelector=metadata.name=x&limit=many", ""),
            ("fieldSelector=metadata.name=x&timeoutSeconds=", ""),
            ("fieldSelector=spec.nodeName=n", ""),
            ("labelSelector=metadata.name=x", ""),
        ] {
            assert_eq!(list_options(query).name, expected, "{query}");
        }
    }
}
