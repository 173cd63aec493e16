//! What people read: results on standard output, everything else on standard error.

use crate::error::Failure;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::{IsTerminal, Write};

/// Writes a line to standard output. A reader that went away is no error: `portolan … | head` ends quietly.
pub fn line(text: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", text.as_ref());
}

/// Writes a line to standard error.
pub fn note(text: impl AsRef<str>) {
    let mut err = std::io::stderr().lock();
    let _ = writeln!(err, "{}", text.as_ref());
}

/// Writes a value as indented JSON to standard output.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value);
    line(text.map_err(|e| Failure::new("the answer cannot be written as JSON").because(e))?);
    Ok(())
}

/// Whether a person looks at standard output.
pub fn on_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Marks text with colour where it goes to a terminal, unless `NO_COLOR` is set.
#[derive(Debug, Clone, Copy)]
pub struct Paint(bool);

impl Paint {
    /// For standard output.
    pub fn stdout() -> Self {
        Self(on_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()))
    }

    /// Strong.
    pub fn bold(self, text: &str) -> String {
        self.code("1", text)
    }

    /// Good.
    pub fn green(self, text: &str) -> String {
        self.code("32", text)
    }

    /// Bad.
    pub fn red(self, text: &str) -> String {
        self.code("31", text)
    }

    /// By the way.
    pub fn dim(self, text: &str) -> String {
        self.code("2", text)
    }

    fn code(self, code: &str, text: &str) -> String {
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// How many characters fit in a line of the terminal; nothing where standard output is none.
pub fn width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// A bar over bytes on standard error; nothing where that is no terminal.
pub fn bytes_bar(what: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, target());
    let style = ProgressStyle::with_template("{msg} [{bar:32}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta}");
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what.to_owned());
    bar
}

/// A bar over things that are counted.
pub fn count_bar(what: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, target());
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:32}] {pos} of {len}, {per_sec}, {eta}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what.to_owned());
    bar
}

/// A sign of life where nobody knows how long it takes.
pub fn spinner(what: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, target());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    bar
}

fn target() -> ProgressDrawTarget {
    if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() }
}

/// Bytes for people: `1.5 GiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A table: columns as wide as their widest cell, two blanks between them. The columns in `right` end flush.
pub fn table(head: &[&str], right: &[usize], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let render = |cells: Vec<&str>| {
        let mut text = String::new();
        for (n, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(width - cell.chars().count().min(*width));
            let gap = if n > 0 { "  " } else { "" };
            text.push_str(gap);
            text.push_str(&if right.contains(&n) { format!("{pad}{cell}") } else { format!("{cell}{pad}") });
        }
        text.trim_end().to_owned()
    };
    let mut lines = vec![render(head.to_vec())];
    lines.extend(rows.iter().map(|row| render(row.iter().map(String::as_str).collect())));
    lines.join("\n")
}

/// A column of a table that fits a terminal.
#[derive(Debug, Clone)]
pub struct Column {
    /// Its heading.
    pub title: &'static str,
    /// Whether its cells end flush.
    pub right: bool,
    /// How much it matters: the least is cut first.
    pub rank: u8,
    /// Its cells, one a row.
    pub cells: Vec<String>,
}

/// No column is cut to fewer characters.
const LEAST: usize = 8;

/// A table no wider than `width`: columns without any value are left out, then those that matter least are cut with
/// `…`, then left out. Without a width everything is shown.
pub fn fit(columns: &[Column], width: Option<usize>) -> String {
    let natural = |c: &Column| {
        let cells = c.cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
        cells.max(c.title.chars().count())
    };
    let has_values = |c: &&Column| width.is_none() || c.cells.is_empty() || c.cells.iter().any(|cell| !cell.is_empty());
    let mut shown: Vec<(&Column, usize)> = columns.iter().filter(has_values).map(|c| (c, natural(c))).collect();
    if let Some(width) = width {
        let over = |shown: &[(&Column, usize)]| {
            let all = shown.iter().map(|(_, w)| w + 2).sum::<usize>().saturating_sub(2);
            all.saturating_sub(width)
        };
        let mut ranks: Vec<usize> = (0..shown.len()).collect();
        // Of two that matter as little the last one goes first.
        ranks.sort_by_key(|&n| (shown[n].0.rank, usize::MAX - n));
        for n in ranks {
            let (column, wide) = shown[n];
            // Numbers that are cut would be other numbers.
            let least = if column.right { wide } else { LEAST.max(column.title.chars().count()).min(wide) };
            shown[n].1 = wide - over(&shown).min(wide - least);
        }
        while over(&shown) > 0 && shown.len() > 1 {
            let least = (0..shown.len()).min_by_key(|&n| (shown[n].0.rank, usize::MAX - n)).unwrap_or(0);
            shown.remove(least);
        }
    }
    let head: Vec<&str> = shown.iter().map(|(c, _)| c.title).collect();
    let right: Vec<usize> = (0..shown.len()).filter(|&n| shown[n].0.right).collect();
    let count = columns.iter().map(|c| c.cells.len()).max().unwrap_or(0);
    let rows: Vec<Vec<String>> = (0..count)
        .map(|row| shown.iter().map(|(c, w)| cut(c.cells.get(row).map_or("", String::as_str), *w)).collect())
        .collect();
    table(&head, &right, &rows)
}

/// The first characters of a text, with `…` where some are missing.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(title: &'static str, rank: u8, cells: &[&str]) -> Column {
        Column { title, right: false, rank, cells: cells.iter().map(|c| (*c).to_owned()).collect() }
    }

    #[test]
    fn tables_fit_the_terminal() {
        let long = "a sentence that is longer than all the others";
        let columns = [
            column("NAME", 9, &["web-server-one", "db"]),
            column("ERROR", 1, &[long, ""]),
            column("STATE", 5, &["running", "failed"]),
            column("NOTHING", 8, &["", ""]),
        ];
        for width in [10, 20, 30, 40, 60, 80, 200] {
            let table = fit(&columns, Some(width));
            let widest = table.lines().map(|line| line.chars().count()).max().unwrap();
            // One column always stays, as wide as it must be.
            assert!(widest <= width.max(14), "{width}:\n{table}");
            assert!(table.contains("NAME") && !table.contains("NOTHING"), "{table}");
        }
        let middle = fit(&columns, Some(40));
        assert!(middle.contains("web-server-one") && middle.contains("running") && middle.contains('…'), "{middle}");
        let whole = fit(&columns, None);
        assert!(whole.contains(long) && whole.contains("NOTHING"), "{whole}");
    }

    #[test]
    fn numbers_are_never_cut() {
        let mut size = column("SIZE", 1, &["123456789012 B"]);
        size.right = true;
        let table = fit(&[column("NAME", 9, &["a name that is rather long"]), size], Some(30));
        assert!(table.contains("123456789012 B") && table.contains('…'), "{table}");
        let table = fit(&[column("NAME", 9, &["a"]), column("X", 1, &[])], Some(80));
        assert_eq!(table, "NAME  X\na");
    }

    #[test]
    fn numbers_and_tables() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
        let rows = vec![vec!["web".to_owned(), "12".to_owned()], vec!["é".to_owned(), "3".to_owned()]];
        assert_eq!(table(&["NAME", "N"], &[1], &rows), "NAME   N\nweb   12\né      3");
    }
}
