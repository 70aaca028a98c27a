//! Text in HTML.

/// As text, and as the value of an attribute in double or single quotes.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(letter),
        }
    }
    escaped
}

/// A value with its unit.
pub(super) fn with_unit(value: f64, unit: &str) -> String {
    let number = crate::bench::compare::figures::number(value);
    match unit {
        "" => number,
        "1/s" => format!("{number}/s"),
        unit => format!("{number} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_html_reads_is_left() {
        assert_eq!(
            escape("<a b='c\"'>&amp;"),
            "&lt;a b=&#39;c&quot;&#39;&gt;&amp;amp;"
        );
        assert_eq!(escape("plain, Grüße"), "plain, Grüße");
    }

    #[test]
    fn a_unit_stands_where_people_write_it() {
        assert_eq!(with_unit(1.234, "ms"), "1.23 ms");
        assert_eq!(with_unit(4500.0, "1/s"), "4500/s");
        assert_eq!(with_unit(0.0, ""), "0");
    }
}
