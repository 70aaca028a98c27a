//! The tables of HPACK: the fixed one (RFC 7541 appendix A), and the one that grows with a connection (§2.3.2, §4).

use std::collections::VecDeque;
use std::sync::LazyLock;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method};

use crate::h2wire::target::{Refusal, judge, stand_in};

/// What SETTINGS_HEADER_TABLE_SIZE is while nobody says otherwise (RFC 9113 §6.5.2): the agent does not.
pub(crate) const TABLE_SIZE: usize = 4096;
/// What an entry takes beside its two texts (§4.1).
const OVERHEAD: usize = 32;

/// A field's name as it came.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Name {
    Status,
    Method,
    Scheme,
    Authority,
    Path,
    Field(HeaderName),
    /// `te`, of which HTTP/2 allows one value.
    Te,
    /// A field that is about a connection of HTTP/1.1 (RFC 9113 §8.2.2).
    OfConnection,
    /// A name that no message may have: another pseudo-header field, an upper-case letter, a byte that is no token. The entry stands in
    /// the table all the same, since both ends count alike.
    Wrong,
}

/// A field's value, as what it is used as: an entry of the table is read once, however often it comes.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Status(u16),
    Method(Method),
    Scheme(Scheme),
    Authority(Authority),
    Path(PathAndQuery),
    /// A path that `http::Uri` cannot represent, and what stands for it.
    Refused(Refusal, PathAndQuery),
    Field(HeaderValue),
    /// What no such field may have.
    Wrong,
}

/// A field as an entry of the tables, and as it came.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub name: Name,
    /// Bytes of the name as it came.
    pub name_length: usize,
    pub value: Value,
    /// What it counts for, bytes (§4.1).
    pub size: usize,
}

impl Name {
    /// By RFC 9113 §8.2.1 and §8.3.
    pub(crate) fn read(name: &[u8]) -> Self {
        match name {
            b":status" => Self::Status,
            b":method" => Self::Method,
            b":scheme" => Self::Scheme,
            b":authority" => Self::Authority,
            b":path" => Self::Path,
            b"te" => Self::Te,
            b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding"
            | b"upgrade" => Self::OfConnection,
            _ if name.iter().any(u8::is_ascii_uppercase) => Self::Wrong,
            _ => HeaderName::from_bytes(name).map_or(Self::Wrong, Self::Field),
        }
    }

    /// A value of this field. `never`: it must not be indexed by anybody (RFC 7541 §6.2.3).
    pub(crate) fn value(&self, value: &[u8], never: bool) -> Value {
        let read = match self {
            Self::Status => text(value).and_then(|t| t.parse().ok().map(Value::Status)),
            Self::Method => Method::from_bytes(value).ok().map(Value::Method),
            Self::Scheme => Scheme::try_from(value).ok().map(Value::Scheme),
            Self::Authority => Authority::try_from(value).ok().map(Value::Authority),
            Self::Path => path(value),
            Self::Field(_) | Self::Te | Self::OfConnection => {
                let value = HeaderValue::from_bytes(value).ok();
                value.map(|mut value| {
                    value.set_sensitive(never);
                    Value::Field(value)
                })
            }
            Self::Wrong => None,
        };
        read.unwrap_or(Value::Wrong)
    }
}

fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok()
}

fn path(value: &[u8]) -> Option<Value> {
    if value.is_empty() {
        return None;
    }
    let Some(refusal) = judge(value) else {
        return PathAndQuery::try_from(value).ok().map(Value::Path);
    };
    let plain = PathAndQuery::try_from(stand_in(value).as_slice()).ok()?;
    Some(Value::Refused(refusal, plain))
}

impl Entry {
    /// The size of a field with such texts.
    pub(crate) fn size_of(name: usize, value: usize) -> usize {
        name.saturating_add(value).saturating_add(OVERHEAD)
    }

    /// A field with these texts, read.
    fn read(name: &str, value: &str) -> Self {
        let read = Name::read(name.as_bytes());
        Self {
            value: read.value(value.as_bytes(), false),
            name: read,
            name_length: name.len(),
            size: Self::size_of(name.len(), value.len()),
        }
    }
}

/// The entries that the other end has added, the latest first.
#[derive(Debug)]
pub(super) struct Dynamic {
    entries: VecDeque<Entry>,
    /// The size of all entries, bytes.
    size: usize,
    most: usize,
}

impl Dynamic {
    pub(super) fn new(most: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            most,
        }
    }

    /// Sets the size above which entries leave (§4.3).
    pub(super) fn resize(&mut self, most: usize) {
        self.most = most;
        self.evict(0);
    }

    /// One larger than the table empties it, which is no error (§4.4).
    pub(super) fn insert(&mut self, entry: Entry) {
        self.evict(entry.size);
        if entry.size <= self.most {
            self.size += entry.size;
            self.entries.push_front(entry);
        }
    }

    pub(super) fn get(&self, index: usize) -> Option<&Entry> {
        self.entries.get(index)
    }

    /// The sizes that are counted are those of what is there, for the fuzz target.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn check(&self) {
        let sizes = self.entries.iter().map(|entry| entry.size);
        assert_eq!(self.size, sizes.sum::<usize>());
        assert!(self.size <= self.most && self.most <= TABLE_SIZE);
    }

    /// Makes room for so many bytes.
    fn evict(&mut self, room: usize) {
        while self.size.saturating_add(room) > self.most {
            let Some(last) = self.entries.pop_back() else {
                return;
            };
            self.size -= last.size;
        }
    }
}

/// An entry of the fixed table; indexes begin with 1.
pub(crate) fn fixed(index: usize) -> Option<(&'static str, &'static str)> {
    FIXED.get(index.checked_sub(1)?).copied()
}

/// The entries of the fixed table, read.
pub(super) static FIXED_READ: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let read = FIXED.iter().map(|(name, value)| Entry::read(name, value));
    read.collect()
});

/// How many indexes the fixed table takes.
pub(crate) const FIXED_ENTRIES: usize = FIXED.len();

/// The index of a name in the fixed table, of names that messages have. By its length first, which leaves few to compare with.
pub(super) fn index_of(name: &str) -> Option<u8> {
    Some(match name.len() {
        3 => match name {
            "age" => 21,
            "via" => 60,
            _ => return None,
        },
        4 => match name {
            "date" => 33,
            "etag" => 34,
            "from" => 37,
            "host" => 38,
            "link" => 45,
            "vary" => 59,
            _ => return None,
        },
        5 => match name {
            "allow" => 22,
            "range" => 50,
            _ => return None,
        },
        6 => match name {
            "accept" => 19,
            "cookie" => 32,
            "expect" => 35,
            "server" => 54,
            _ => return None,
        },
        7 => match name {
            "expires" => 36,
            "referer" => 51,
            "refresh" => 52,
            _ => return None,
        },
        8 => match name {
            "if-match" => 39,
            "if-range" => 42,
            "location" => 46,
            _ => return None,
        },
        10 => match name {
            "set-cookie" => 55,
            "user-agent" => 58,
            _ => return None,
        },
        11 => match name {
            "retry-after" => 53,
            _ => return None,
        },
        12 => match name {
            "content-type" => 31,
            "max-forwards" => 47,
            _ => return None,
        },
        13 => match name {
            "accept-ranges" => 18,
            "authorization" => 23,
            "cache-control" => 24,
            "content-range" => 30,
            "if-none-match" => 41,
            "last-modified" => 44,
            _ => return None,
        },
        14 => match name {
            "accept-charset" => 15,
            "content-length" => 28,
            _ => return None,
        },
        15 => match name {
            "accept-encoding" => 16,
            "accept-language" => 17,
            _ => return None,
        },
        16 => match name {
            "content-encoding" => 26,
            "content-language" => 27,
            "content-location" => 29,
            "www-authenticate" => 61,
            _ => return None,
        },
        17 => match name {
            "if-modified-since" => 40,
            "transfer-encoding" => 57,
            _ => return None,
        },
        18 => match name {
            "proxy-authenticate" => 48,
            _ => return None,
        },
        19 => match name {
            "content-disposition" => 25,
            "if-unmodified-since" => 43,
            "proxy-authorization" => 49,
            _ => return None,
        },
        25 => match name {
            "strict-transport-security" => 56,
            _ => return None,
        },
        27 => match name {
            "access-control-allow-origin" => 20,
            _ => return None,
        },
        _ => return None,
    })
}

const FIXED: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_of_a_name_leads_to_it() {
        for index in 1..=FIXED_ENTRIES {
            let (name, _) = fixed(index).unwrap();
            let expected = (!name.starts_with(':')).then_some(index as u8);
            assert_eq!(index_of(name), expected, "{name}");
        }
        assert_eq!(index_of("x-remote-user"), None);
        assert!(fixed(0).is_none() && fixed(62).is_none());
    }

    #[test]
    fn the_oldest_leave_and_what_is_too_large_empties_the_table() {
        let mut table = Dynamic::new(3 * 34);
        for value in ["1", "2", "3", "4"] {
            table.insert(Entry::read("a", value));
        }
        let values = |table: &Dynamic| -> Vec<String> {
            (0..)
                .map_while(|index| table.get(index))
                .map(|entry| match &entry.value {
                    Value::Field(value) => value.to_str().unwrap().to_owned(),
                    other => panic!("{other:?}"),
                })
                .collect()
        };
        assert_eq!(values(&table), ["4", "3", "2"]);
        table.resize(40);
        assert_eq!(values(&table), ["4"]);
        table.insert(Entry::read("a", "nine bytes"));
        assert_eq!(values(&table), [""; 0]);
        table.resize(100);
        table.insert(Entry::read("a", "5"));
        assert_eq!(values(&table), ["5"]);
    }

    #[test]
    fn names_that_no_message_may_have() {
        for wrong in ["Date", ":Path", ":protocol", "a b", "", ":", "a\x7f"] {
            assert_eq!(Name::read(wrong.as_bytes()), Name::Wrong, "{wrong:?}");
        }
        for name in [
            "connection",
            "proxy-connection",
            "keep-alive",
            "transfer-encoding",
            "upgrade",
        ] {
            assert_eq!(Name::read(name.as_bytes()), Name::OfConnection, "{name:?}");
        }
        assert_eq!(Name::read(b":status"), Name::Status);
        assert_eq!(Name::read(b"te"), Name::Te);
    }

    #[test]
    fn values_that_a_field_may_not_have() {
        for (name, value) in [
            (":status", "ok"),
            (":method", "G T"),
            (":scheme", "ht tp"),
            (":authority", "a b"),
            (":path", ""),
            ("a", "\n"),
            ("te", "\0"),
        ] {
            let read = Name::read(name.as_bytes()).value(value.as_bytes(), false);
            assert!(
                matches!(read, Value::Wrong),
                "{name}: {value:?} is {read:?}"
            );
        }
        let refused = Name::Path.value(b"/a#b", false);
        assert!(matches!(refused, Value::Refused(Refusal::Malformed, path) if path == "/a_b"));
        let path = Name::Path.value(b"/a?b", false);
        assert!(matches!(path, Value::Path(path) if path == "/a?b"));
    }
}
