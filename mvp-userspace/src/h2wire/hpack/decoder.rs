//! Reads the fields of a message, or its trailers, from a header block (RFC 7541 §3, §6).

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, Method, header};

use super::integer;
use super::table::{Dynamic, Entry, FIXED_ENTRIES, FIXED_READ, Name, TABLE_SIZE, Value};
use crate::h2wire::huffman;
use crate::h2wire::target::Refusal;

/// Room for the fields of a usual message and those that the agent adds. `HeaderMap` has none between 12 and 24.
const FIELDS: usize = 12;

/// A header block that does not follow RFC 7541: the tables of both ends may differ from here on, so the connection has to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum BlockError {
    #[error("the block ends within a field")]
    CutOff,
    #[error("a number above 2^28")]
    NumberTooLarge,
    #[error("index {0} is in neither table")]
    NoSuchIndex(usize),
    #[error("not in the Huffman code")]
    Huffman,
    #[error("a table size that was not agreed on, or in the middle of a block")]
    TableSize,
    /// The block itself may be right.
    #[error("far more fields than the agent takes")]
    Bomb,
}

/// What a block held.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    pub control: Control,
    pub fields: HeaderMap,
    /// Breaks a rule of RFC 9113 §8.2 or §8.3; says which. This is about the one stream.
    pub malformed: Option<&'static str>,
    /// More than the agent takes; what was above the limit is not in `fields`.
    pub too_large: bool,
}

/// The pseudo-header fields (RFC 9113 §8.3).
#[derive(Debug, Default)]
pub(crate) struct Control {
    pub status: Option<u16>,
    pub method: Option<Method>,
    pub scheme: Option<Scheme>,
    pub authority: Option<Authority>,
    pub path: Option<PathAndQuery>,
    /// Why `path` stands for one that cannot be carried.
    pub refusal: Option<Refusal>,
}

/// The reading end of one connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: Dynamic,
    /// Room for a text in the Huffman code.
    text: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            table: Dynamic::new(TABLE_SIZE),
            text: Vec::new(),
        }
    }
}

impl Decoder {
    /// Reads a whole block. `most`: bytes of fields, measured as for SETTINGS_MAX_HEADER_LIST_SIZE, that are kept; above `bomb` none are
    /// read.
    ///
    /// # Errors
    /// The connection is of no further use.
    pub(crate) fn decode(
        &mut self,
        block: &[u8],
        most: usize,
        bomb: usize,
    ) -> Result<Decoded, BlockError> {
        let mut rest = block;
        let mut size = 0_usize;
        let mut decoded = Decoded::default();
        let mut begun = false;
        while let Some(&first) = rest.first() {
            let entry = match first {
                0x80.. => {
                    let index = integer::read(&mut rest, 7)?;
                    self.entry(index)?.clone()
                }
                0x40..0x80 => {
                    let entry = self.literal(&mut rest, 6, false)?;
                    self.table.insert(entry.clone());
                    entry
                }
                0x20..0x40 => {
                    let size = integer::read(&mut rest, 5)?;
                    if begun || size > TABLE_SIZE {
                        return Err(BlockError::TableSize);
                    }
                    self.table.resize(size);
                    continue;
                }
                0x10..0x20 => self.literal(&mut rest, 4, true)?,
                0x00..0x10 => self.literal(&mut rest, 4, false)?,
            };
            begun = true;
            size = size.saturating_add(entry.size);
            if size > bomb {
                return Err(BlockError::Bomb);
            }
            if size > most {
                decoded.too_large = true;
            } else {
                decoded.add(entry);
            }
        }
        Ok(decoded)
    }

    /// The table is the one that RFC 7541 has, for the fuzz target.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn check(&self, plain: &super::plain::Plain) {
        self.table.check();
        let sizes = plain.entries.iter().map(|(n, v)| n.len() + v.len() + 32);
        let read = (0..).map_while(|index| self.table.get(index));
        assert!(read.map(|entry| entry.size).eq(sizes));
        assert!(plain.size() <= plain.most);
    }

    fn entry(&self, index: usize) -> Result<&Entry, BlockError> {
        let entry = match index.checked_sub(FIXED_ENTRIES + 1) {
            Some(index) => self.table.get(index),
            None => index.checked_sub(1).and_then(|at| FIXED_READ.get(at)),
        };
        entry.ok_or(BlockError::NoSuchIndex(index))
    }

    /// A literal, whose first byte has `bits` of the index of its name.
    fn literal(&mut self, rest: &mut &[u8], bits: u32, never: bool) -> Result<Entry, BlockError> {
        let index = integer::read(rest, bits)?;
        let (name, name_length) = if index == 0 {
            let name = self.text(rest)?;
            (Name::read(name), name.len())
        } else {
            let named = self.entry(index)?;
            (named.name.clone(), named.name_length)
        };
        let value = self.text(rest)?;
        Ok(Entry {
            name_length,
            size: Entry::size_of(name_length, value.len()),
            value: name.value(value, never),
            name,
        })
    }

    fn text<'b, 'a: 'b>(&'b mut self, rest: &mut &'a [u8]) -> Result<&'b [u8], BlockError> {
        let coded = rest.first().ok_or(BlockError::CutOff)? & 0x80 != 0;
        let length = integer::read(rest, 7)?;
        let (text, behind) = rest.split_at_checked(length).ok_or(BlockError::CutOff)?;
        *rest = behind;
        if !coded {
            return Ok(text);
        }
        self.text.clear();
        huffman::decode(text, &mut self.text).ok_or(BlockError::Huffman)?;
        Ok(&self.text)
    }
}

impl Control {
    /// Whether there is a pseudo-header field that only requests have (RFC 9113 §8.3.1).
    pub(crate) fn is_of_request(&self) -> bool {
        self.method.is_some()
            || self.scheme.is_some()
            || self.authority.is_some()
            || self.path.is_some()
    }

    /// Whether the field was there already.
    fn set(&mut self, value: Value) -> bool {
        match value {
            Value::Status(status) => self.status.replace(status).is_some(),
            Value::Method(method) => self.method.replace(method).is_some(),
            Value::Scheme(scheme) => self.scheme.replace(scheme).is_some(),
            Value::Authority(authority) => self.authority.replace(authority).is_some(),
            Value::Path(path) => self.path.replace(path).is_some(),
            Value::Refused(refusal, path) => {
                self.refusal = Some(refusal);
                self.path.replace(path).is_some()
            }
            Value::Field(_) | Value::Wrong => false,
        }
    }
}

impl Decoded {
    fn add(&mut self, Entry { name, value, .. }: Entry) {
        match (name, value) {
            (Name::Field(name), Value::Field(value)) => self.append(name, value),
            (Name::Te, Value::Field(value)) => match value == "trailers" {
                true => self.append(header::TE, value),
                false => self.malformed = Some("TE other than trailers"),
            },
            (Name::OfConnection, _) => {
                self.malformed = Some("a field that is about the connection");
            }
            (Name::Wrong, _) | (_, Value::Wrong) => {
                self.malformed = Some("a name or value that no field may have");
            }
            (_, value) => {
                if self.control.set(value) {
                    self.malformed = Some("a pseudo-header field twice");
                } else if !self.fields.is_empty() {
                    self.malformed = Some("a pseudo-header field behind fields");
                }
            }
        }
    }

    fn append(&mut self, name: HeaderName, value: http::HeaderValue) {
        if self.fields.capacity() == 0 {
            self.fields.reserve(FIELDS);
        }
        if self.fields.try_append(name, value).is_err() {
            self.too_large = true;
        }
    }
}

/// RFC 9110 §8.6: a list of the same number is that number.
pub(crate) fn content_length(fields: &HeaderMap) -> Result<Option<u64>, ()> {
    let mut found = None;
    for value in fields.get_all(header::CONTENT_LENGTH) {
        let text = value.to_str().map_err(|_| ())?;
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits).ok_or(())?;
        if found.is_some_and(|found| found != number) {
            return Err(());
        }
        found = Some(number);
    }
    Ok(found)
}
