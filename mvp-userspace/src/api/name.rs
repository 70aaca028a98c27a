//! Names as they can stand in a request path.

/// Bytes of one name: the longest DNS subdomain.
pub const MAX_NAME: usize = 253;

/// True if a request path can contain `name` as one segment: not empty, not longer than [`MAX_NAME`], without '/', controls or
/// blanks, and not a relative segment that clients and proxies would fold away.
pub fn is_path_segment(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name != "."
        && name != ".."
        && !name
            .chars()
            .any(|c| c == '/' || c.is_control() || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_segments() {
        for good in ["v1", "pods", "apps", "a.b-c", "é"] {
            assert!(is_path_segment(good), "{good}");
        }
        let long = "x".repeat(MAX_NAME + 1);
        for bad in [
            "", "a/b", "/", ".", "..", "a\u{0}", "a\nb", "a b", "\u{85}", &long,
        ] {
            assert!(!is_path_segment(bad), "{bad:?}");
        }
    }
}
