//! Query strings of the admin port.

use std::fmt::Write;

/// The decoded value of a parameter; a parameter without a value is empty text. Broken escapes are kept as they are.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key) == name).then(|| decode(value))
    })
}

/// Escapes everything but unreserved characters (RFC 3986, 2.3).
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

pub(super) fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match (first, tail) {
            (b'%', [high, low, behind @ ..]) => hex(*high).zip(hex(*low)).zip(Some(behind)),
            _ => None,
        };
        match escaped {
            Some(((high, low), behind)) => {
                out.push(high << 4 | low);
                rest = behind;
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let path = "/api/v1/pods?labelSelector=a%3Db&watch=1 ü";
        let query = format!("method=GET&path={}", encode(path));
        assert_eq!(parameter(&query, "path").as_deref(), Some(path));
        assert_eq!(parameter(&query, "method").as_deref(), Some("GET"));
        assert_eq!(parameter(&query, "other"), None);
        assert_eq!(parameter("verbose", "verbose").as_deref(), Some(""));
        assert_eq!(decode("%"), "%");
        assert_eq!(decode("%4"), "%4");
        assert_eq!(decode("%zz"), "%zz");
        assert_eq!(decode("%ff"), "\u{fffd}");
    }
}
