//! RFC 7541 word for word, as slow as it is plain: what the decoder is compared with. Of the decoder it uses only the two tables of the
//! appendices.

use super::fixed;
use crate::h2wire::huffman::code_of;

/// The most further bytes of a number, as with the decoder.
const NUMBER: usize = 4;

/// A field as it came.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Field {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
    /// It must not be indexed by anybody (§6.2.3).
    pub never: bool,
}

/// The reading end, with the texts of the dynamic table: the latest first.
#[derive(Debug)]
pub(super) struct Plain {
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
    pub most: usize,
    agreed: usize,
}

impl Plain {
    /// `agreed`: what SETTINGS_HEADER_TABLE_SIZE says.
    pub(super) fn new(agreed: usize) -> Self {
        Self {
            entries: Vec::new(),
            most: agreed,
            agreed,
        }
    }

    /// All fields of a block, or `None` for one that is none (a decoding error).
    pub(super) fn decode(&mut self, mut block: &[u8]) -> Option<Vec<Field>> {
        let mut fields = Vec::new();
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                // §6.1.
                let index = number(&mut block, 7)?;
                let (name, value) = self.at(index)?;
                fields.push(Field {
                    name,
                    value,
                    never: false,
                });
            } else if first & 0x40 != 0 {
                // §6.2.1.
                let field = self.literal(&mut block, 6, false)?;
                self.entries
                    .insert(0, (field.name.clone(), field.value.clone()));
                self.evict();
                fields.push(field);
            } else if first & 0x20 != 0 {
                // §6.3, and §4.2: before all fields.
                let most = number(&mut block, 5)?;
                if !fields.is_empty() || most > self.agreed {
                    return None;
                }
                self.most = most;
                self.evict();
            } else {
                // §6.2.2 and §6.2.3.
                fields.push(self.literal(&mut block, 4, first & 0x10 != 0)?);
            }
        }
        Some(fields)
    }

    /// The size of all entries (§4.1).
    pub(super) fn size(&self) -> usize {
        let sizes = self.entries.iter().map(|(n, v)| n.len() + v.len() + 32);
        sizes.sum()
    }

    /// §2.3.3.
    fn at(&self, index: usize) -> Option<(Vec<u8>, Vec<u8>)> {
        if let Some((name, value)) = fixed(index) {
            return Some((name.into(), value.into()));
        }
        self.entries.get(index.checked_sub(62)?).cloned()
    }

    /// §4.3 and §4.4. An entry that is larger than the table leaves last.
    fn evict(&mut self) {
        while self.size() > self.most {
            self.entries.pop();
        }
    }

    fn literal(&self, block: &mut &[u8], bits: u32, never: bool) -> Option<Field> {
        let index = number(block, bits)?;
        let name = match index {
            0 => text(block)?,
            _ => self.at(index)?.0,
        };
        let value = text(block)?;
        Some(Field { name, value, never })
    }
}

/// §5.1.
fn number(block: &mut &[u8], bits: u32) -> Option<usize> {
    let most = (1 << bits) - 1;
    let number = usize::from(byte(block)?) & most;
    if number < most {
        return Some(number);
    }
    let mut number = most;
    for at in 0..NUMBER {
        let next = byte(block)?;
        number += (usize::from(next) & 127) << (7 * at);
        if next < 128 {
            return Some(number);
        }
    }
    None
}

/// §5.2.
fn text(block: &mut &[u8]) -> Option<Vec<u8>> {
    let coded = *block.first()? & 0x80 != 0;
    let length = number(block, 7)?;
    let (text, behind) = block.split_at_checked(length)?;
    *block = behind;
    match coded {
        false => Some(text.to_vec()),
        true => huffman(text),
    }
}

/// Appendix B, bit by bit: the padding is less than a byte of ones, and EOS is in no text.
fn huffman(coded: &[u8]) -> Option<Vec<u8>> {
    let (mut text, mut bits) = (Vec::new(), Vec::new());
    for at in 0..coded.len() * 8 {
        bits.push(coded.get(at / 8)? >> (7 - at % 8) & 1);
        if let Some(symbol) = code_of(&bits) {
            text.push(u8::try_from(symbol).ok()?);
            bits.clear();
        }
    }
    (bits.len() < 8 && bits.iter().all(|bit| *bit == 1)).then_some(text)
}

fn byte(block: &mut &[u8]) -> Option<u8> {
    let (&first, behind) = block.split_first()?;
    *block = behind;
    Some(first)
}
