//! JSON and digests exactly as Go makes them.

use serde::Serialize;
use sha2::{Digest, Sha512};

/// `json.Marshal` of Go: no spaces, and `<`, `>`, `&` and the line separators of Unicode escaped.
pub(super) fn compact(value: &impl Serialize) -> Vec<u8> {
    escape(serde_json::to_string(value).unwrap_or_default())
}

/// `json.MarshalIndent` of Go with two spaces, which is what kube-apiserver gives a human; no newline at its end.
pub(super) fn pretty(value: &impl Serialize) -> Vec<u8> {
    escape(serde_json::to_string_pretty(value).unwrap_or_default())
}

/// The same document as YAML.
pub(super) fn to_yaml(json: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    serde_saphyr::to_string(&value).unwrap_or_default()
}

/// Upper-case hexadecimal SHA-512: the ETag of aggregated discovery (k8s.io/apiserver
/// pkg/endpoints/discovery/aggregated/etag.go) and the hash of OpenAPI documents (kube-openapi pkg/handler3).
pub(super) fn sha512(bytes: &[u8]) -> String {
    Sha512::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect()
}

/// These characters stand only inside of strings, so that a replacement in the text is one in the strings.
fn escape(text: String) -> Vec<u8> {
    if !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return text.into_bytes();
    }
    let mut escaped = String::with_capacity(text.len() + 64);
    for character in text.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                escaped.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            other => escaped.push(other),
        }
    }
    escaped.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_as_go() {
        assert_eq!(
            compact(&["a<b>&c\u{2028}é"]),
            "[\"a\\u003cb\\u003e\\u0026c\\u2028é\"]".as_bytes()
        );
        assert_eq!(pretty(&["a"]), b"[\n  \"a\"\n]");
    }

    #[test]
    fn sha512_of_nothing() {
        assert!(sha512(b"").starts_with("CF83E1357EEFB8BDF1542850D66D8007"));
    }
}
