//! Aligned columns and readable ages.

use std::fmt::Write;

/// A heading and rows, columns two blanks apart, no blanks at line ends.
pub(crate) fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let heading = heading.map(str::to_owned);
    columns(&heading, rows)
}

/// The same where only the data determines how many columns there are.
pub(crate) fn columns<R: AsRef<[String]>>(heading: &[String], rows: &[R]) -> String {
    let clean = |row: &[String]| row.iter().map(|cell| clean(cell)).collect::<Vec<_>>();
    let lines: Vec<Vec<String>> = std::iter::once(clean(heading))
        .chain(rows.iter().map(|row| clean(row.as_ref())))
        .collect();
    let mut widths = vec![0; heading.len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for line in &lines {
        let mut text = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(text, "{cell:width$}  ");
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

/// What servers and clients said must not steer the terminal, nor break lines.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// `350ms`, `12s`, `3m20s`, `5h2m`, `3d4h`.
pub(crate) fn age(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms}ms"),
        1..60 => format!("{s}s"),
        60..3600 => format!("{}m{}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{}h", s / 86_400, s / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        for (ms, text) in [
            (0, "0ms"),
            (999, "999ms"),
            (1000, "1s"),
            (200_000, "3m20s"),
            (18_120_000, "5h2m"),
            (273_600_000, "3d4h"),
        ] {
            assert_eq!(age(ms), text);
        }
    }

    #[test]
    fn columns() {
        let rows = [
            ["a".into(), "long\u{1b}[31m".into(), "x".into()],
            ["bcd".into(), "".into(), "".into()],
        ];
        let expected = "A    B          C\na    long?[31m  x\nbcd\n";
        assert_eq!(table(["A", "B", "C"], &rows), expected);
    }
}
