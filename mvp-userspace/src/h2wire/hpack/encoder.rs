//! Writes the fields of a message as a header block (RFC 7541 §6).
//!
//! Nothing is added to the other side's table. A connection to a server carries the requests of many callers, so that what one of them may guess must not
//! become shorter because another sent it (§7.1); and texts are written as they are, without the Huffman code, since what that saves on the
//! wire costs both sides more than it is worth within a cluster.

use http::{HeaderMap, Method, StatusCode};

use super::integer;
use super::table::index_of;

const GET: u8 = 2;
const POST: u8 = 3;
const METHOD: u8 = 2;
const AUTHORITY: u8 = 1;
const PATH: u8 = 4;
const HTTPS: u8 = 7;
const STATUS: u8 = 8;
/// A field that is in the fixed table as a whole (§6.1).
const INDEXED: u8 = 0x80;
/// A literal that stays out of all tables (§6.2.2), and one that every proxy has to keep out (§6.2.3).
const LITERAL: u8 = 0x00;
const NEVER_INDEXED: u8 = 0x10;

/// What a block begins with if it says that the other side's table has no room (§4.2). Who announces a smaller table than the default has
/// to hear of it.
pub(crate) const NO_TABLE: u8 = 0x20;

/// Appends the block of a request for an https resource. Fields that HTTP/2 forbids must not be in `fields`.
pub(crate) fn request(
    method: &Method,
    authority: &str,
    path: &str,
    fields: &HeaderMap,
    block: &mut Vec<u8>,
) {
    match *method {
        Method::GET => block.push(INDEXED | GET),
        Method::POST => block.push(INDEXED | POST),
        _ => literal(LITERAL, Some(METHOD), "", method.as_str().as_bytes(), block),
    }
    block.push(INDEXED | HTTPS);
    literal(LITERAL, Some(AUTHORITY), "", authority.as_bytes(), block);
    literal(LITERAL, Some(PATH), "", path.as_bytes(), block);
    trailers(fields, block);
}

/// Appends the block of an answer. Fields that HTTP/2 forbids must not be in `fields`.
pub(crate) fn response(status: StatusCode, fields: &HeaderMap, block: &mut Vec<u8>) {
    let indexed = match status.as_u16() {
        200 => Some(8),
        204 => Some(9),
        206 => Some(10),
        304 => Some(11),
        400 => Some(12),
        404 => Some(13),
        500 => Some(14),
        _ => None,
    };
    match indexed {
        Some(index) => block.push(INDEXED | index),
        None => literal(LITERAL, Some(STATUS), "", status.as_str().as_bytes(), block),
    }
    trailers(fields, block);
}

/// Appends fields alone.
pub(crate) fn trailers(fields: &HeaderMap, block: &mut Vec<u8>) {
    for (name, value) in fields {
        let kind = match value.is_sensitive() {
            true => NEVER_INDEXED,
            false => LITERAL,
        };
        let index = index_of(name.as_str());
        literal(kind, index, name.as_str(), value.as_bytes(), block);
    }
}

fn literal(kind: u8, index: Option<u8>, name: &str, value: &[u8], block: &mut Vec<u8>) {
    integer::write(kind, 4, usize::from(index.unwrap_or(0)), block);
    if index.is_none() {
        text(name.as_bytes(), block);
    }
    text(value, block);
}

fn text(text: &[u8], block: &mut Vec<u8>) {
    integer::write(0, 7, text.len(), block);
    block.extend_from_slice(text);
}
