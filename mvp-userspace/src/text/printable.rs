//! Text that a client chose, on its way into the log: short, and without characters that a terminal or a reader would obey.

use std::borrow::Cow;

/// Bytes of a path, a user's name or an error.
pub(crate) const TEXT: usize = 256;
/// Bytes of an Audit-ID: kube-apiserver logs no more of it (`maxAuditIDLength` in k8s.io/apiserver/pkg/audit).
pub(crate) const AUDIT_ID: usize = 64;
/// Stands for what was cut off.
const CUT: char = '…';

/// At most `most` bytes of `text` and a sign that more is missing. What is no printable character of a line is escaped as Rust
/// escapes it: control characters, and those that turn the direction of writing or have no width.
pub(crate) fn printable(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most && text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    for char in text.chars() {
        let escaped = char.escape_debug();
        // Quotation marks and backslashes are harmless, and every format of the log escapes them as it must.
        let length = if is_plain(char) {
            char.len_utf8()
        } else {
            escaped.len()
        };
        if out.len() + length > most {
            out.push(CUT);
            break;
        }
        match is_plain(char) {
            true => out.push(char),
            false => out.extend(escaped),
        }
    }
    Cow::Owned(out)
}

fn is_plain(char: char) -> bool {
    matches!(char, '\'' | '"' | '\\') || char.escape_debug().len() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_text_stays_as_it_is() {
        for text in [
            "",
            "/api/v1/pods",
            "system:serviceaccount:a:b",
            "a \"b\" \\ c",
            "Zoë",
        ] {
            assert_eq!(printable(text, TEXT), text);
        }
    }

    #[test]
    fn hostile_text_is_short_and_plain() {
        assert_eq!(printable("a\nb\u{1b}[31m", TEXT), "a\\nb\\u{1b}[31m");
        assert_eq!(
            printable("a\u{202e}b\u{200b}", TEXT),
            "a\\u{202e}b\\u{200b}"
        );
        assert_eq!(printable("abcdef", 3), "abc…");
        assert_eq!(printable("ab\ncd", 3), "ab…");
        assert_eq!(printable("äöü", 4), "äö…");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_bounded_and_has_no_control_characters(text in "\\PC*|(?s).{0,200}", most in 0usize..100) {
            let printed = printable(&text, most);
            proptest::prop_assert!(printed.len() <= most + CUT.len_utf8());
            proptest::prop_assert!(!printed.chars().any(char::is_control));
        }
    }
}
