//! Aligned columns and readable ages.

use std::fmt::Write;

/// A heading and rows, columns two blanks apart, no blanks at line ends.
pub fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = heading.map(|cell| cell.chars().count());
    let rows: Vec<[String; N]> = rows
        .iter()
        .map(|row| row.clone().map(|cell| clean(&cell)))
        .collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(widths) {
            let _ = write!(text, "{cell:width$}  ");
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(&mut heading.into_iter());
    for row in &rows {
        line(&mut row.iter().map(String::as_str));
    }
    out
}

/// What servers and clients said must not steer the terminal, nor break lines.
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// `350ms`, `12s`, `3m20s`, `5h2m`, `3d4h`.
pub fn age(ms: u64) -> String {
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
