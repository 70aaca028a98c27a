//! RFC 7541, which section 4.3 of RFC 9113 makes a part of it: what a header block may be, and the table of both ends (§4).

use mvp_tests::fixtures::CONFIG_MAPS;
use mvp_tests::raw::{HEADERS, block, frame};

use super::{Answered, COMPRESSION_ERROR, Connection, PROTOCOL_ERROR, Row, WHOLE, row, usual};

/// The name `x` with a value of one byte: 34 bytes of a table (§4.1). The first goes into the table (§6.2.1).
const ENTRY: &[u8] = &[0x40, 1, b'x', 1, b'1'];
/// The latest entry of the dynamic table (§2.3.3).
const LATEST: &[u8] = &[0xbe];
const BEFORE: &[u8] = &[0xbf];

pub(super) fn rows() -> Vec<Row> {
    let error = Connection(&[COMPRESSION_ERROR, PROTOCOL_ERROR]);
    // A header block by itself, and one that begins or ends with a good request.
    let alone = |fields: &[u8]| frame(HEADERS, WHOLE, 1, fields);
    let good = block(&usual("GET", CONFIG_MAPS));
    let with = |more: &[u8]| alone(&[&good, more].concat());
    let after = |first: &[u8], more: &[u8]| alone(&[first, &good, more].concat());
    let size = |size: u8| [0x20 | size];
    // Sizes above 30 need a second byte (§5.1).
    let sized = |size: u8| [0x3f, size - 31];
    let rows = [
        (
            "4.3",
            "a header block that ends in the middle of a number",
            alone(&[0xff; 6]),
            error,
        ),
        (
            "4.3, 7541 2.3.3",
            "a field with an index that no table has",
            with(&[0xff, 0x7f]),
            error,
        ),
        (
            "4.3, 7541 4.1",
            "an entry that is as large as the table, by its index",
            after(&sized(34), &[ENTRY, LATEST].concat()),
            Answered,
        ),
        (
            "4.3, 7541 4.1",
            "an entry that is one byte larger than the table, by its index",
            after(&sized(33), &[ENTRY, LATEST].concat()),
            error,
        ),
        (
            "4.3, 7541 4.2",
            "a table's size behind a field",
            with(&size(0)),
            error,
        ),
        (
            "4.3, 7541 4.2",
            "two sizes of a table before all fields",
            after(
                &[&size(0)[..], &sized(100)].concat(),
                &[ENTRY, LATEST].concat(),
            ),
            Answered,
        ),
        (
            "4.3, 7541 4.3",
            "an entry that left when the table became smaller, by its index",
            [
                with(ENTRY),
                frame(HEADERS, WHOLE, 3, &[&size(0)[..], &good, LATEST].concat()),
            ]
            .concat(),
            error,
        ),
        (
            "4.3, 7541 4.4",
            "an entry that left for another, by its index",
            after(&sized(67), &[ENTRY, ENTRY, BEFORE].concat()),
            error,
        ),
        (
            "4.3, 7541 4.4",
            "two entries that are as large as the table, by their indexes",
            after(&sized(68), &[ENTRY, ENTRY, BEFORE, LATEST].concat()),
            Answered,
        ),
        (
            "4.3, 7541 4.4",
            "an entry that is larger than the whole table",
            after(&size(30), ENTRY),
            Answered,
        ),
        (
            "4.3, 7541 5.1",
            "a number of more bytes than anything needs",
            with(&[
                0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0,
            ]),
            error,
        ),
        (
            "4.3, 7541 5.1",
            "a number above 2^32",
            with(&[0xff, 0xff, 0xff, 0xff, 0xff, 0x1f]),
            error,
        ),
        (
            "4.3, 7541 5.2",
            "a text that is longer than the header block",
            with(&[0, 1, b'x', 5, b'v']),
            error,
        ),
        (
            "4.3, 7541 5.2",
            "a Huffman code with 7 bits of padding",
            // `00:` is 00000, 00000 and 1011100.
            with(&[0, 1, b'x', 0x83, 0x00, 0x2e, 0x7f]),
            Answered,
        ),
        (
            "4.3, 7541 5.2",
            "a Huffman code with 8 bits of padding",
            with(&[0, 1, b'a', 0x81, 0xff]),
            error,
        ),
        (
            "4.3, 7541 5.2",
            "a Huffman code that is padded with zeros",
            // `a` is 00011.
            with(&[0, 1, b'x', 0x81, 0b0001_1000]),
            error,
        ),
        (
            "4.3, 7541 5.2",
            "a Huffman code with the end of the string in it",
            with(&[0, 1, b'a', 0x84, 0xff, 0xff, 0xff, 0xff]),
            error,
        ),
        (
            "4.3, 7541 6.1",
            "a field with the index 0",
            with(&[0x80]),
            error,
        ),
        (
            "4.3, 7541 6.2.3",
            "a field that nobody may index, then one by its index",
            with(&[0x10, 1, b'x', 1, b'1', 0xbe]),
            error,
        ),
        (
            "4.3, 7541 6.3",
            "a table larger than the agent's",
            alone(&[0x3f, 0xe1, 0xff, 0x7f]),
            error,
        ),
    ];
    rows.into_iter()
        .map(|(section, what, bytes, end)| row(section, what, bytes, end))
        .collect()
}
