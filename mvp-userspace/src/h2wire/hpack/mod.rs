//! HPACK (RFC 7541): what the agent says is written without a table, what others say is read once.

mod decoder;
mod encoder;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz;
pub(super) mod integer;
#[cfg(any(test, feature = "fuzzing"))]
mod plain;
mod table;

pub(super) use decoder::{BlockError, Control, Decoded, Decoder, content_length};
pub(super) use encoder::{NO_TABLE, request, response, trailers};
#[cfg(any(test, feature = "fuzzing"))]
pub use fuzz::fuzz_hpack;
pub(super) use table::{Entry, FIXED_ENTRIES, TABLE_SIZE, fixed};

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    const MOST: usize = 1 << 20;

    fn bytes(hex: &str) -> Vec<u8> {
        let hex: String = hex.split_whitespace().collect();
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    }

    fn fields(decoded: &Decoded) -> Vec<(&str, &str)> {
        decoded
            .fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect()
    }

    /// RFC 7541 appendix C.6: three answers of one connection in the Huffman code. There the table holds 256 bytes, which the first block
    /// says here.
    #[test]
    fn the_answers_of_the_rfc() {
        let mut decoder = Decoder::default();
        let first = bytes(
            "3fe101 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        );
        let second = bytes("4883 640e ffc1 c0bf");
        let third = bytes(
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
        );
        let cookie = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
        let location = ("location", "https://www.example.com");
        let date = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
        for (block, status, expected) in [
            (
                first,
                302,
                vec![("cache-control", "private"), date, location],
            ),
            (
                second,
                307,
                vec![("cache-control", "private"), date, location],
            ),
            (
                third,
                200,
                vec![
                    ("cache-control", "private"),
                    ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
                    location,
                    ("content-encoding", "gzip"),
                    ("set-cookie", cookie),
                ],
            ),
        ] {
            let decoded = decoder.decode(&block, MOST, MOST).unwrap();
            assert_eq!(decoded.control.status, Some(status));
            assert_eq!(fields(&decoded), expected);
            assert_eq!((decoded.malformed, decoded.too_large), (None, false));
        }
    }

    #[test]
    fn blocks_that_end_a_connection() {
        for (block, error) in [
            ("80", BlockError::NoSuchIndex(0)),
            ("be", BlockError::NoSuchIndex(62)),
            ("ff80808080808000", BlockError::NumberTooLarge),
            ("ff", BlockError::CutOff),
            ("4801", BlockError::CutOff),
            ("4884ffffffff", BlockError::Huffman),
            ("3fe21f", BlockError::TableSize),
            ("8820", BlockError::TableSize),
        ] {
            let decoded = Decoder::default().decode(&bytes(block), MOST, MOST);
            assert_eq!(decoded.unwrap_err(), error, "{block}");
        }
    }

    #[test]
    fn what_is_about_one_stream_alone() {
        for (block, why) in [
            ("8888", "a pseudo-header field twice"),
            ("8282", "a pseudo-header field twice"),
            ("0001610162 88", "behind fields"),
            ("88 0001410162", "a name or value"),
            ("88 0001610100", "a name or value"),
            ("88 00027465 03677a69", "TE"),
            ("88 000a636f6e6e656374696f6e0162", "about the connection"),
        ] {
            let decoded = Decoder::default()
                .decode(&bytes(block), MOST, MOST)
                .unwrap();
            assert!(
                decoded.malformed.unwrap().contains(why),
                "{block}: {decoded:?}"
            );
        }
    }

    #[test]
    fn the_control_data_of_a_request() {
        // GET, https, a path and an authority that are indexed; then all of it again by indexes.
        let mut decoder = Decoder::default();
        let first = bytes("82 87 4404 2f612362 4101 68");
        for block in [first, bytes("82 87 bf be")] {
            let control = decoder.decode(&block, MOST, MOST).unwrap().control;
            assert_eq!(control.method, Some(http::Method::GET));
            assert_eq!(control.scheme, Some(http::uri::Scheme::HTTPS));
            assert_eq!(control.authority.as_ref().unwrap(), "h");
            assert_eq!(control.path.as_ref().unwrap(), "/a_b", "what stands for it");
            assert_eq!(control.refusal, Some(crate::h2wire::Refusal::Malformed));
            assert!(control.is_of_request() && control.status.is_none());
        }
    }

    #[test]
    fn far_too_many_fields_are_not_read() {
        let block = [bytes("88 4001610162"), vec![0xbe; 100]].concat();
        let decoded = Decoder::default().decode(&block, 100, 10_000).unwrap();
        assert!(
            decoded.too_large && decoded.fields.len() == 1,
            "{decoded:?}"
        );
        let bomb = Decoder::default().decode(&block, 100, 3000);
        assert_eq!(bomb.unwrap_err(), BlockError::Bomb);
    }

    #[test]
    fn the_tables_stay_equal_where_an_answer_is_too_large_or_malformed() {
        let mut decoder = Decoder::default();
        // Two fields with indexing, the second with a value that none may have, then both by their index.
        let block = bytes("88 4001610162 4001630100");
        assert!(decoder.decode(&block, 50, MOST).unwrap().too_large);
        let again = decoder.decode(&bytes("88 bf"), MOST, MOST).unwrap();
        assert_eq!(fields(&again), [("a", "b")]);
        assert!(
            decoder
                .decode(&bytes("88 be"), MOST, MOST)
                .unwrap()
                .malformed
                .is_some()
        );
        assert_eq!(
            decoder.decode(&bytes("c0"), MOST, MOST).unwrap_err(),
            BlockError::NoSuchIndex(64)
        );
    }

    proptest! {
        /// What the encoder writes is read as it was, by a decoder for answers: of a request's pseudo-headers it knows none.
        #[test]
        fn fields_come_back_as_they_were(
            texts in proptest::collection::vec(("[a-z][a-z0-9-]{0,20}", "[ -~]{0,300}", any::<bool>()), 0..20),
        ) {
            let mut fields = HeaderMap::new();
            for (name, value, sensitive) in texts {
                let Ok(name) = http::HeaderName::from_bytes(name.as_bytes()) else { continue };
                if ["connection", "keep-alive", "te", "upgrade"].contains(&name.as_str()) {
                    continue;
                }
                let mut value = HeaderValue::from_str(&value).unwrap();
                value.set_sensitive(sensitive);
                fields.append(name, value);
            }
            let mut block = vec![NO_TABLE];
            trailers(&fields, &mut block);
            let decoded = Decoder::default().decode(&block, MOST, MOST).unwrap();
            prop_assert_eq!(decoded.malformed, None);
            for (name, value) in &fields {
                let all: Vec<_> = decoded.fields.get_all(name).iter().collect();
                prop_assert!(all.iter().any(|v| *v == value && v.is_sensitive() == value.is_sensitive()));
            }
            prop_assert_eq!(decoded.fields, fields);
        }

        #[test]
        fn no_bytes_are_too_strange(
            blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..6),
        ) {
            let mut decoder = Decoder::default();
            for block in blocks {
                if decoder.decode(&block, 200, MOST).is_err() {
                    break;
                }
            }
        }
    }
}
