//! Header blocks of SPDY/3: name and value pairs, compressed as one zlib stream for each direction of a connection, with a dictionary
//! that the protocol gives (draft-mbelshe-httpbis-spdy-00 §2.6.10).

use std::collections::HashMap;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// The dictionary begins with these, each behind its length as a `u32`.
const WORDS: &str = "options|head|post|put|delete|trace|accept|accept-charset|accept-encoding|accept-language|accept-ranges|age|\
    allow|authorization|cache-control|connection|content-base|content-encoding|content-language|content-length|content-location|\
    content-md5|content-range|content-type|date|etag|expect|expires|from|host|if-match|if-modified-since|if-none-match|if-range|\
    if-unmodified-since|last-modified|location|max-forwards|pragma|proxy-authenticate|proxy-authorization|range|referer|retry-after|\
    server|te|trailer|transfer-encoding|upgrade|user-agent|vary|via|warning|www-authenticate|method|get|status|200 OK|version|\
    HTTP/1.1|url|public|set-cookie|keep-alive|origin";
/// And ends with this.
const REST: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found\
    500 Internal Server Error501 Not Implemented503 Service Unavailable\
    Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
    chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,public\
    privatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
/// A stream that begins with another dictionary's checksum cannot be read.
const DICTIONARY_ID: [u8; 4] = [0xe3, 0xc6, 0xa7, 0xc2];
/// zlib's header says with this bit of its second byte that a dictionary's checksum follows (RFC 1950 §2.2).
const HAS_DICTIONARY: u8 = 0x20;
/// The farthest that deflate refers back (RFC 1951 §2).
const WINDOW: usize = 1 << 15;

/// The blocks of one direction, which must be read in their order.
pub(super) struct HeaderReader {
    inflate: DecompressorOxide,
    /// What was read, as a ring: it begins with the dictionary.
    window: Box<[u8]>,
    at: usize,
    begun: bool,
}

impl Default for HeaderReader {
    fn default() -> Self {
        let mut window = dictionary();
        let at = window.len();
        window.resize(WINDOW, 0);
        Self {
            inflate: DecompressorOxide::new(),
            window: window.into(),
            at,
            begun: false,
        }
    }
}

impl HeaderReader {
    /// `None`: this is no block.
    pub(super) fn read(&mut self, block: &[u8]) -> Option<HashMap<String, String>> {
        pairs(&self.inflate(block)?)
    }

    fn inflate(&mut self, block: &[u8]) -> Option<Vec<u8>> {
        let mut input = block;
        if !self.begun {
            self.begun = true;
            let (header, rest) = input.split_at_checked(2)?;
            let (id, rest) = rest.split_at_checked(4)?;
            if header[1] & HAS_DICTIONARY == 0 || id != DICTIONARY_ID {
                return None;
            }
            input = rest;
        }
        let mut out = Vec::new();
        loop {
            let (status, read, written) = decompress(
                &mut self.inflate,
                input,
                &mut self.window,
                self.at,
                TINFL_FLAG_HAS_MORE_INPUT,
            );
            out.extend(&self.window[self.at..self.at + written]);
            self.at = (self.at + written) % WINDOW;
            input = input.get(read..)?;
            match status {
                TINFLStatus::HasMoreOutput => {}
                TINFLStatus::NeedsMoreInput if input.is_empty() => return Some(out),
                _ => return None,
            }
        }
    }
}

/// The blocks of the other direction.
#[derive(Default)]
pub(super) struct HeaderWriter {
    begun: bool,
}

impl HeaderWriter {
    /// A block without pairs. It is stored, not compressed (RFC 1951 §3.2.4), so that no dictionary is needed. An empty block behind it makes
    /// readers give out what they have: Go's flate waits for more without.
    pub(super) fn none(&mut self) -> Vec<u8> {
        let mut block = Vec::new();
        if !std::mem::replace(&mut self.begun, true) {
            block.extend([0x78, 0x01]);
        }
        for stored in [&0u32.to_be_bytes()[..], &[]] {
            let length = stored.len() as u16;
            block.push(0);
            block.extend(length.to_le_bytes());
            block.extend((!length).to_le_bytes());
            block.extend(stored);
        }
        block
    }
}

fn dictionary() -> Vec<u8> {
    let mut dictionary = Vec::new();
    for word in WORDS.split('|') {
        dictionary.extend((word.len() as u32).to_be_bytes());
        dictionary.extend(word.as_bytes());
    }
    dictionary.extend(REST.as_bytes());
    dictionary
}

fn pairs(mut block: &[u8]) -> Option<HashMap<String, String>> {
    let count = number(&mut block)?;
    let mut pairs = HashMap::new();
    for _ in 0..count {
        let name = text(&mut block)?;
        pairs.insert(name, text(&mut block)?);
    }
    block.is_empty().then_some(pairs)
}

fn number(block: &mut &[u8]) -> Option<u32> {
    let (number, rest) = block.split_first_chunk()?;
    *block = rest;
    Some(u32::from_be_bytes(*number))
}

fn text(block: &mut &[u8]) -> Option<String> {
    let length = number(block)? as usize;
    let (text, rest) = block.split_at_checked(length)?;
    *block = rest;
    String::from_utf8(text.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_one_with_this_checksum() {
        let (mut low, mut high) = (1u32, 0u32);
        for byte in dictionary() {
            low = (low + u32::from(byte)) % 65_521;
            high = (high + low) % 65_521;
        }
        assert_eq!((high << 16 | low).to_be_bytes(), DICTIONARY_ID);
    }

    #[test]
    fn blocks_are_read_one_after_the_other() {
        // What zlib made, with the dictionary, of `streamtype: error` and then of `port: 80`, `streamtype: data`, each with a flush.
        let first = [
            0x78, 0xf9, 0xe3, 0xc6, 0xa7, 0xc2, 0x02, 0xa6, 0x23, 0x46, 0x70, 0x3a, 0x2b, 0x29,
            0x4a, 0x4d, 0xcc, 0x85, 0x16, 0x25, 0xac, 0xa9, 0xa0, 0x80, 0x06, 0x00, 0x00, 0x00,
            0xff, 0xff,
        ];
        let second = [
            0x02, 0x65, 0x1c, 0x48, 0xd1, 0x5c, 0x04, 0x4a, 0xc6, 0x4c, 0x16, 0x06, 0x18, 0x0a,
            0x41, 0x65, 0x4e, 0x22, 0x00, 0x00, 0x00, 0xff, 0xff,
        ];
        let mut reader = HeaderReader::default();
        let seen = reader.read(&first).unwrap();
        assert_eq!(seen, [("streamtype".into(), "error".into())].into());
        let seen = reader.read(&second).unwrap();
        let expected = [("port", "80"), ("streamtype", "data")];
        assert_eq!(seen, expected.map(|(n, v)| (n.into(), v.into())).into());
        assert_eq!(HeaderReader::default().read(&second), None, "no beginning");
        assert_eq!(HeaderReader::default().read(b""), None);
    }

    #[test]
    fn what_is_written_is_a_zlib_stream() {
        let mut writer = HeaderWriter::default();
        let mut stream = writer.none();
        stream.extend(writer.none());
        let mut zlib = flate2::Decompress::new(true);
        let mut out = Vec::with_capacity(64);
        zlib.decompress_vec(&stream, &mut out, flate2::FlushDecompress::Sync)
            .unwrap();
        assert_eq!(out, [0; 8]);
    }
}
