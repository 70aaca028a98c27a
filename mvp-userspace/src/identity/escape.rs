//! Escaping of extra keys in header names, as client-go sends and kube-apiserver receives them
//! (`client-go/transport/round_trippers.go`, `apiserver/…/headerrequest/requestheader.go`).

use std::fmt::Write;

/// The part of a header name that contains `key`: bytes illegal in a header name, and `%`, become `%XX`.
///
/// Upper-case letters are escaped as well, which client-go does not do: the receiver lower-cases the name before it unescapes,
/// so this alone lets every key arrive as it was.
pub(super) fn escape_key(key: &str) -> String {
    let mut escaped = String::with_capacity(key.len() + 8);
    for byte in key.bytes() {
        if is_token(byte) && byte != b'%' && !byte.is_ascii_uppercase() {
            escaped.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

/// The key that a header name's `suffix` contains. Malformed escapes leave the whole suffix as it is; `None` if the key is not
/// UTF-8.
pub(super) fn unescape_key(suffix: &str) -> Option<String> {
    let lower = suffix.to_ascii_lowercase();
    match decode(lower.as_bytes()) {
        Some(bytes) => String::from_utf8(bytes).ok(),
        None => Some(lower),
    }
}

fn decode(escaped: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'%' {
            let [high, low, tail @ ..] = tail else {
                return None;
            };
            bytes.push(digit(*high)? << 4 | digit(*low)?);
            rest = tail;
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    Some(bytes)
}

/// RFC 9110 `tchar`.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_keys() {
        assert_eq!(escape_key("scopes"), "scopes");
        assert_eq!(
            escape_key("authentication.kubernetes.io/credential-id"),
            "authentication.kubernetes.io%2Fcredential-id"
        );
        assert_eq!(escape_key("100%"), "100%25");
        assert_eq!(escape_key("Ab"), "%41b");
        assert_eq!(
            unescape_key("Example.com%2FFoo").as_deref(),
            Some("example.com/foo")
        );
        assert_eq!(unescape_key("a%2").as_deref(), Some("a%2"), "cut off: kept");
        assert_eq!(
            unescape_key("a%zzB%2f").as_deref(),
            Some("a%zzb%2f"),
            "malformed: kept whole"
        );
        assert_eq!(unescape_key("%ff"), None, "not UTF-8");
    }

    proptest! {
        #[test]
        fn every_key_arrives_as_it_was(key in ".{0,40}") {
            let escaped = escape_key(&key);
            prop_assert!(escaped.bytes().all(is_token));
            // HTTP/2 lower-cases header names, and so does the receiver.
            prop_assert_eq!(unescape_key(&escaped.to_ascii_lowercase()), Some(key));
        }
    }
}
