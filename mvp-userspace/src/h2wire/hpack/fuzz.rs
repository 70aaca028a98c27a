//! Header blocks of any bytes, one behind the other on one connection.

use http::HeaderMap;

use super::plain::{Field, Plain};
use super::table::{Name, TABLE_SIZE, Value};
use super::{Decoded, Decoder, NO_TABLE, trailers};

/// Bytes of fields that are kept of a block: so few that an input gets above them.
const MOST: usize = 2000;

/// Takes `data` as blocks, each behind its length in one byte. The decoder must say what RFC 7541 says, keep the table that the RFC keeps, and
/// mark what breaks RFC 9113; and what it read comes back from the encoder as it was.
pub fn fuzz_hpack(data: &[u8]) {
    let mut decoder = Decoder::default();
    let mut plain = Plain::new(TABLE_SIZE);
    let mut rest = data;
    while let Some((&length, behind)) = rest.split_first() {
        let (block, behind) = behind.split_at(usize::from(length).min(behind.len()));
        rest = behind;
        let read = decoder.decode(block, MOST, usize::MAX);
        let expected = plain.decode(block);
        assert_eq!(read.is_ok(), expected.is_some(), "{read:?} {expected:?}");
        let (Ok(read), Some(expected)) = (read, expected) else {
            return;
        };
        same(&read, &expected);
        decoder.check(&plain);
        again(&read.fields);
    }
}

/// The fields that may be kept are kept in their order, with the mark of what nobody may index.
fn same(read: &Decoded, expected: &[Field]) {
    let (mut fields, mut size, mut wrong) = (HeaderMap::new(), 0, false);
    let mut control = 0;
    for Field { name, value, never } in expected {
        size += name.len() + value.len() + 32;
        if size > MOST {
            break;
        }
        let name = Name::read(name);
        match (name.value(value, *never), name) {
            (Value::Field(value), Name::Field(name)) => {
                fields.append(name, value);
            }
            (Value::Field(value), Name::Te) if value == "trailers" => {
                fields.append(http::header::TE, value);
            }
            (Value::Wrong | Value::Field(_), _) => wrong = true,
            _ => {
                control += 1;
                wrong |= !fields.is_empty();
            }
        }
    }
    assert_eq!(read.too_large, size > MOST);
    assert_eq!(read.fields, fields);
    for name in fields.keys() {
        let marks = |fields: &HeaderMap| -> Vec<bool> {
            let values = fields.get_all(name).iter();
            values.map(http::HeaderValue::is_sensitive).collect()
        };
        assert_eq!(marks(&read.fields), marks(&fields), "{name}");
    }
    let there = [
        read.control.status.is_some(),
        read.control.method.is_some(),
        read.control.scheme.is_some(),
        read.control.authority.is_some(),
        read.control.path.is_some(),
    ];
    let different = there.iter().filter(|there| **there).count();
    // One that comes twice is wrong.
    assert_eq!(read.malformed.is_some(), wrong || different < control);
}

fn again(fields: &HeaderMap) {
    let mut block = vec![NO_TABLE];
    trailers(fields, &mut block);
    let read = Decoder::default().decode(&block, usize::MAX, usize::MAX);
    let read = read.ok().filter(|read| read.malformed.is_none());
    assert_eq!(read.map(|read| read.fields).as_ref(), Some(fields));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// What the fuzzer begins with.
    #[test]
    fn the_seeds() {
        let folder = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/fuzz/seeds/h2wire_hpack"
        );
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().collect();
        assert!(files.len() > 3);
        for file in files {
            let seed = std::fs::read(file.unwrap().path()).unwrap();
            (0..=seed.len()).for_each(|end| super::fuzz_hpack(&seed[..end]));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn whatever_is_sent(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            super::fuzz_hpack(&data);
        }
    }
}
