//! Reading what a list and a watch of Kubernetes objects say, and the lines of a watch. Pure, and bounded in everything.

use bytes::{Buf, Bytes, BytesMut};
use serde::Deserialize;

use super::priorities::{ApiService, ApiServiceSpec};
use crate::api::MAX_NAME;

/// An object is at most 1.5 MiB in etcd, and a line holds one with a few words around it.
pub(super) const MAX_LINE: usize = 4 << 20;

/// A page of a list.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Page {
    /// The revision of the whole list: a watch continues from it.
    pub revision: String,
    /// The token of the next page; `None`: this was the last.
    pub next: Option<String>,
    /// Name and, of APIServices, what they say.
    pub items: Vec<(String, Option<ApiService>)>,
}

/// A line of a watch.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Change {
    Applied {
        name: String,
        service: Option<ApiService>,
        revision: String,
    },
    Deleted {
        name: String,
        revision: String,
    },
    /// Nothing happened up to this revision.
    Bookmark {
        revision: String,
    },
    /// The server ends the watch: a Status.
    Error {
        code: u16,
        message: String,
    },
}

/// Why something was refused; the fault of the server that sent it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum ChangeError {
    #[error("the server's list or event cannot be read: {0}")]
    Json(String),
    #[error("the server sent {0:?}, which is no resourceVersion")]
    Revision(String),
    #[error("the server sent {0:?}, which is no continue token")]
    Continue(String),
    #[error("the server sent an event of the unknown type {0:?}")]
    Type(String),
    #[error("the server sent a line of more than {0} bytes")]
    LongLine(usize),
}

/// Cuts what arrives into lines of at most [`MAX_LINE`] bytes.
#[derive(Debug, Default)]
pub(super) struct Lines {
    waiting: BytesMut,
    /// How many bytes of `waiting` are known to contain no end of a line.
    searched: usize,
}

/// Longest resourceVersion; real ones are decimal numbers of 64 bits.
const MAX_REVISION: usize = 64;
/// Longest continue token; real ones hold a key of etcd and a few words in base64.
const MAX_CONTINUE: usize = 4096;
/// The part of a server's message that fits into a log line.
const MAX_QUOTE: usize = 200;

#[derive(Default, Deserialize)]
#[serde(default)]
struct List {
    metadata: Option<Metadata>,
    items: Option<Vec<Object>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: Option<String>,
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    next: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Object {
    metadata: Option<Metadata>,
    spec: Option<ApiServiceSpec>,
    code: Option<u16>,
    message: Option<String>,
}

/// An object of which only the metadata is of interest, whatever else is in it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    metadata: Option<Metadata>,
    code: Option<u16>,
    message: Option<String>,
}

#[derive(Deserialize)]
#[serde(bound = "O: Default + Deserialize<'de>")]
struct Event<O> {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    object: O,
}

impl Page {
    /// `services`: the objects are APIServices, and what they say is wanted; else only the list's metadata is read.
    pub(super) fn read(body: &[u8], services: bool) -> Result<Self, ChangeError> {
        let (metadata, items) = if services {
            let list: List = json(body)?;
            (list.metadata, list.items.unwrap_or_default())
        } else {
            (json::<Named>(body)?.metadata, Vec::new())
        };
        let metadata = metadata.unwrap_or_default();
        Ok(Self {
            revision: revision(metadata.resource_version)?,
            next: match metadata.next.filter(|token| !token.is_empty()) {
                Some(token) => Some(continue_token(token)?),
                None => None,
            },
            items: items
                .into_iter()
                .filter_map(|object| {
                    let name = name(object.metadata)?;
                    Some((name, object.spec.and_then(ApiServiceSpec::read)))
                })
                .collect(),
        })
    }
}

impl Change {
    /// `services` as in [`Page::read`].
    pub(super) fn read(line: &[u8], services: bool) -> Result<Self, ChangeError> {
        let event: Event<Object> = if services {
            json(line)?
        } else {
            let event: Event<Named> = json(line)?;
            Event {
                kind: event.kind,
                object: Object {
                    metadata: event.object.metadata,
                    spec: None,
                    code: event.object.code,
                    message: event.object.message,
                },
            }
        };
        let object = event.object;
        if event.kind == "ERROR" {
            return Ok(Change::Error {
                code: object.code.unwrap_or_default(),
                message: quote(&object.message.unwrap_or_default()),
            });
        }
        let mut metadata = object.metadata.unwrap_or_default();
        let revision = revision(metadata.resource_version.take())?;
        let name = name(Some(metadata)).unwrap_or_default();
        match &*event.kind {
            "ADDED" | "MODIFIED" => Ok(Change::Applied {
                name,
                service: object.spec.and_then(ApiServiceSpec::read),
                revision,
            }),
            "DELETED" => Ok(Change::Deleted { name, revision }),
            "BOOKMARK" => Ok(Change::Bookmark { revision }),
            other => Err(ChangeError::Type(quote(other))),
        }
    }
}

impl Lines {
    pub(super) fn push(&mut self, data: &[u8]) {
        self.waiting.extend_from_slice(data);
    }

    /// The next whole line without its end; `None` until more arrives. Empty lines are left out.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, ChangeError> {
        loop {
            let unsearched = self.waiting.get(self.searched..).unwrap_or_default();
            let Some(end) = unsearched.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.waiting.len();
                if self.searched > MAX_LINE {
                    return Err(ChangeError::LongLine(MAX_LINE));
                }
                return Ok(None);
            };
            let end = self.searched + end;
            if end > MAX_LINE {
                return Err(ChangeError::LongLine(MAX_LINE));
            }
            let line = self.waiting.split_to(end).freeze();
            self.waiting.advance(1);
            self.searched = 0;
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
    }
}

fn json<'de, T: Deserialize<'de>>(text: &'de [u8]) -> Result<T, ChangeError> {
    serde_json::from_slice(text).map_err(|error| ChangeError::Json(quote(&error.to_string())))
}

/// It goes into a query as it is.
fn revision(text: Option<String>) -> Result<String, ChangeError> {
    let text = text.unwrap_or_default();
    let sound = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric());
    if sound && text.len() <= MAX_REVISION {
        Ok(text)
    } else {
        Err(ChangeError::Revision(quote(&text)))
    }
}

/// kube-apiserver's are base64 for URLs, and go into a query as they are.
fn continue_token(text: String) -> Result<String, ChangeError> {
    let sound = |b: u8| b.is_ascii_alphanumeric() || b"-_.~=".contains(&b);
    if text.len() <= MAX_CONTINUE && text.bytes().all(sound) {
        Ok(text)
    } else {
        Err(ChangeError::Continue(quote(&text)))
    }
}

fn name(metadata: Option<Metadata>) -> Option<String> {
    metadata?.name.filter(|name| name.len() <= MAX_NAME)
}

fn quote(text: &str) -> String {
    text.chars().take(MAX_QUOTE).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pages() {
        let body = br#"{"kind":"APIServiceList","metadata":{"resourceVersion":"12","continue":"eyJ2_-=","remainingItemCount":1},
            "items":[{"metadata":{"name":"v1."},"spec":{"version":"v1","groupPriorityMinimum":18000,"versionPriority":1}},
                     {"metadata":{"name":"bad"},"spec":{}},{"spec":{}},{"metadata":null}]}"#;
        let page = Page::read(body, true).unwrap();
        assert_eq!(
            (page.revision.as_str(), page.next.as_deref()),
            ("12", Some("eyJ2_-="))
        );
        assert_eq!(page.items.len(), 2);
        assert_eq!(page.items[0].1.as_ref().unwrap().group_priority, 18000);
        assert_eq!(page.items[1], ("bad".to_owned(), None));
        let names = Page::read(body, false).unwrap();
        assert_eq!((names.items.len(), &*names.revision), (0, "12"));
        let last = br#"{"metadata":{"resourceVersion":"7","continue":""},"items":null}"#;
        assert_eq!(Page::read(last, true).unwrap().next, None);
    }

    #[test]
    fn what_would_change_the_query_is_refused() {
        let with = |revision: &str, next: &str| {
            let body =
                serde_json::json!({"metadata": {"resourceVersion": revision, "continue": next}});
            Page::read(body.to_string().as_bytes(), true).unwrap_err()
        };
        for bad in ["", "1&watch=false", "1 ", "é", &"1".repeat(65)] {
            assert!(matches!(with(bad, ""), ChangeError::Revision(_)), "{bad}");
        }
        for bad in ["a&b", "a b", "a#", &"x".repeat(4097)] {
            assert!(matches!(with("1", bad), ChangeError::Continue(_)), "{bad}");
        }
    }

    #[test]
    fn events() {
        let applied = br#"{"type":"MODIFIED","object":{"metadata":{"name":"v1.apps","resourceVersion":"8"},"spec":{"group":"apps","version":"v1"}}}"#;
        let Change::Applied {
            name,
            service,
            revision,
        } = Change::read(applied, true).unwrap()
        else {
            panic!()
        };
        assert_eq!((&*name, &*revision), ("v1.apps", "8"));
        assert_eq!(&*service.unwrap().group, "apps");
        // The spec of another type is none of ours, whatever it looks like.
        let other = br#"{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"9"},"spec":{"group":1,"version":[]}}}"#;
        assert!(matches!(
            Change::read(other, false),
            Ok(Change::Applied { service: None, .. })
        ));
        let bookmark = br#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"10"}}}"#;
        let expected = Change::Bookmark {
            revision: "10".to_owned(),
        };
        assert_eq!(Change::read(bookmark, true), Ok(expected));
        let gone = br#"{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}"#;
        let expected = Change::Error {
            code: 410,
            message: "too old".to_owned(),
        };
        assert_eq!(Change::read(gone, false), Ok(expected));
        for bad in [
            "{}",
            "[]",
            "x",
            r#"{"type":"NEW","object":{"metadata":{"resourceVersion":"1"}}}"#,
        ] {
            assert!(Change::read(bad.as_bytes(), true).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_line_is_bounded() {
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; MAX_LINE]);
        assert_eq!(lines.next(), Ok(None));
        lines.push(b"\n");
        assert_eq!(lines.next().unwrap().unwrap().len(), MAX_LINE);
        lines.push(&vec![b'x'; MAX_LINE + 1]);
        assert_eq!(lines.next(), Err(ChangeError::LongLine(MAX_LINE)));
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; MAX_LINE + 1]);
        lines.push(b"\n");
        assert_eq!(lines.next(), Err(ChangeError::LongLine(MAX_LINE)));
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_they_arrive(text in "[ab\n]{0,60}", cuts in proptest::collection::vec(0usize..8, 0..40)) {
            let mut lines = Lines::default();
            let mut got = Vec::new();
            let mut rest = text.as_bytes();
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                rest = later;
                lines.push(now);
                while let Some(line) = lines.next().unwrap() {
                    got.push(String::from_utf8(line.to_vec()).unwrap());
                }
            }
            lines.push(rest);
            while let Some(line) = lines.next().unwrap() {
                got.push(String::from_utf8(line.to_vec()).unwrap());
            }
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let expected: Vec<_> = whole.split('\n').filter(|l| !l.is_empty()).collect();
            prop_assert_eq!(got, expected);
        }

        #[test]
        fn hostile_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300), services: bool) {
            let _ = Page::read(&bytes, services);
            let _ = Change::read(&bytes, services);
        }

        #[test]
        fn hostile_objects_do_no_harm(
            kind in "[A-Z]{0,9}|ADDED|MODIFIED|DELETED|BOOKMARK|ERROR",
            revision in "\\PC{0,70}", name in "\\PC{0,300}", group in "\\PC{0,20}", priority: i64, services: bool,
        ) {
            let object = serde_json::json!({
                "metadata": {"name": name, "resourceVersion": revision, "continue": name},
                "spec": {"group": group, "version": name, "groupPriorityMinimum": priority},
            });
            let sound = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric());
            let line = serde_json::json!({"type": kind, "object": object}).to_string();
            match Change::read(line.as_bytes(), services) {
                Ok(Change::Applied { name, revision, service }) => {
                    prop_assert!(sound(&revision) && name.len() <= MAX_NAME);
                    prop_assert!(service.is_none() || services);
                }
                Ok(Change::Deleted { revision, .. } | Change::Bookmark { revision }) => prop_assert!(sound(&revision)),
                Ok(Change::Error { .. }) => prop_assert_eq!(kind, "ERROR"),
                Err(_) => {}
            }
            let list = serde_json::json!({"metadata": object["metadata"], "items": [object]}).to_string();
            if let Ok(page) = Page::read(list.as_bytes(), services) {
                prop_assert!(sound(&page.revision));
                prop_assert!(page.next.is_none_or(|t| t.bytes().all(|b| b.is_ascii_graphic() && !b"&#?/%+ ".contains(&b))));
            }
        }
    }
}
