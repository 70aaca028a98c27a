//! Reads the fields of an answer, or its trailers, from a header block (RFC 7541 §3, §6).

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use super::integer;
use super::table::{Dynamic, Entry, FIXED_ENTRIES, Name, TABLE_SIZE, fixed};
use crate::h2wire::huffman;

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
}

/// What a block held.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    pub status: Option<u16>,
    pub fields: HeaderMap,
    /// Breaks a rule of RFC 9113 §8.2 or §8.3; says which. This is about the one stream.
    pub malformed: Option<&'static str>,
    /// More than the agent takes; what was above the limit is not in `fields`.
    pub too_large: bool,
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
    /// Reads a whole block. `most`: bytes of fields, measured as for SETTINGS_MAX_HEADER_LIST_SIZE, that are kept.
    ///
    /// # Errors
    /// The connection is of no further use.
    pub(crate) fn decode(&mut self, block: &[u8], most: usize) -> Result<Decoded, BlockError> {
        let mut rest = block;
        let mut size = 0_usize;
        let mut decoded = Decoded::default();
        let mut begun = false;
        while let Some(&first) = rest.first() {
            let entry = match first {
                0x80.. => {
                    let index = integer::read(&mut rest, 7)?;
                    self.entry(index)?
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
            if size > most {
                decoded.too_large = true;
            } else {
                decoded.add(entry);
            }
        }
        Ok(decoded)
    }

    fn entry(&self, index: usize) -> Result<Entry, BlockError> {
        if let Some((name, value)) = fixed(index) {
            return Ok(Entry {
                name: Name::read(name.as_bytes()),
                name_length: name.len(),
                value: Some(HeaderValue::from_static(value)),
                size: Entry::size_of(name.len(), value.len()),
            });
        }
        let entry = index
            .checked_sub(FIXED_ENTRIES + 1)
            .and_then(|index| self.table.get(index));
        entry.cloned().ok_or(BlockError::NoSuchIndex(index))
    }

    /// A literal, whose first byte has `bits` of the index of its name.
    fn literal(&mut self, rest: &mut &[u8], bits: u32, never: bool) -> Result<Entry, BlockError> {
        let index = integer::read(rest, bits)?;
        let (name, name_length) = if index == 0 {
            let name = self.text(rest)?;
            (Name::read(name), name.len())
        } else {
            let named = self.entry(index)?;
            (named.name, named.name_length)
        };
        let value = self.text(rest)?;
        let size = Entry::size_of(name_length, value.len());
        let mut value = HeaderValue::from_maybe_shared(Bytes::copy_from_slice(value)).ok();
        if let Some(value) = &mut value {
            value.set_sensitive(never);
        }
        Ok(Entry {
            name,
            name_length,
            value,
            size,
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

impl Decoded {
    fn add(&mut self, Entry { name, value, .. }: Entry) {
        match (name, value) {
            (Name::Status, Some(value)) => {
                if self.status.is_some() || !self.fields.is_empty() {
                    self.malformed = Some(":status twice, or behind fields");
                }
                self.status = value.to_str().ok().and_then(|text| text.parse().ok());
            }
            (Name::Field(name), Some(value)) => {
                if is_of_the_connection(name.as_str()) {
                    self.malformed = Some("a field that is about the connection");
                } else if self.fields.try_append(name, value).is_err() {
                    self.too_large = true;
                }
            }
            (Name::Wrong, _) | (_, None) => {
                self.malformed = Some("a name or value that no field may have");
            }
        }
    }
}

/// RFC 9113 §8.2.2.
fn is_of_the_connection(name: &str) -> bool {
    [
        "connection",
        "proxy-connection",
        "keep-alive",
        "transfer-encoding",
        "upgrade",
    ]
    .contains(&name)
}
