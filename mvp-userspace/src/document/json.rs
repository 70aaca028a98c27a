//! Bounded reading of JSON with serde: every string is cut to what a name may be, `null` is an empty value as in Go, lists are
//! handed on element by element, and nothing is built that the caller did not ask for.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::DecodeError;
use crate::api::MAX_NAME;

/// A name of at most [`MAX_NAME`] bytes. A longer one, which no path segment may be, reads as empty and is refused later.
pub(super) struct Name;

/// An object of the document: `read` takes its fields and leaves what it says in the sink.
pub(super) trait Object {
    type Sink;

    fn read<'de, A: MapAccess<'de>>(sink: &mut Self::Sink, map: A) -> Result<(), A::Error>;
}

/// Reads one object. `null` is an object without fields, of which there is nothing to say.
pub(super) struct One<'s, O: Object>(pub &'s mut O::Sink);

/// Reads a list of objects. `null` is an empty list.
pub(super) struct Many<'s, O: Object>(pub &'s mut O::Sink);

/// Text of `document`, refused if it is not UTF-8: serde_json does not look into the strings it skips.
pub(crate) fn text(document: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(document).map_err(|e| DecodeError::NotUtf8(e.valid_up_to()))
}

pub(super) fn over<E: Error>(message: &'static str) -> E {
    E::custom(message)
}

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: Error>(self, v: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(bounded(v)))
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(bounded(v).to_owned()))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(""))
    }
}

impl<'de, O: Object> DeserializeSeed<'de> for One<'_, O> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, O: Object> Visitor<'de> for One<'_, O> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        O::read(self.0, map)
    }
}

impl<'de, O: Object> DeserializeSeed<'de> for Many<'_, O> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, O: Object> Visitor<'de> for Many<'_, O> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(One::<O>(&mut *self.0))?.is_some() {}
        Ok(())
    }
}

/// Reads past a value.
pub(super) fn skip<'de, A: MapAccess<'de>>(map: &mut A) -> Result<(), A::Error> {
    map.next_value::<IgnoredAny>().map(drop)
}

fn bounded(name: &str) -> &str {
    if name.len() <= MAX_NAME { name } else { "" }
}
