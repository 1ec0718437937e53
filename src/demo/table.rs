//! The table in the terminal: the current row is rewritten in place; in a pipe each row is a line of its own.

use std::io::{self, IsTerminal, Write};

/// Everything that one row shows.
pub struct Row {
    pub step: usize,
    pub steps: usize,
    /// Per cent.
    pub asked: f64,
    /// Per cent of the requests in this step; `None` before the first.
    pub sent: Option<f64>,
    /// Requests that the canary got beyond what was asked, since the start.
    pub error: f64,
    /// Requests per second.
    pub stable_rate: f64,
    pub canary_rate: f64,
    /// Seconds; `None` before the first request.
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    pub failed: u64,
    pub lost: u64,
}

pub const LEGEND: &str = "\
error: requests that the canary got above (+) or below (-) its asked share, since the start;
failed: answered 5xx; lost: not answered";

const HEADING: &str = "step    asked      sent   error  stable/s  canary/s  p50 ms  p99 ms failed  lost";

pub struct Table {
    rewrites: bool,
    /// Whether the last line on the terminal is a row that may be rewritten.
    open: bool,
}

impl Table {
    pub fn new() -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { rewrites: io::stdout().is_terminal() && !dumb, open: false }
    }

    /// Whether rows between whole seconds are worth showing.
    pub fn rewrites(&self) -> bool {
        self.rewrites
    }

    pub fn heading(&mut self) -> io::Result<()> {
        writeln!(io::stdout(), "{HEADING}")
    }

    /// Shows a row; `last` of its step: the next row begins a new line.
    pub fn row(&mut self, row: &Row, last: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.open {
            // To the start of the line, and erase it (ECMA-48 EL).
            write!(out, "\r\x1b[K")?;
        }
        write!(out, "{row}")?;
        self.open = self.rewrites && !last;
        if !self.open {
            writeln!(out)?;
        }
        out.flush()
    }

    /// Leaves the last row as it is and begins a new line.
    pub fn close(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.open) {
            writeln!(io::stdout())?;
        }
        Ok(())
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sent = self.sent.map_or_else(|| "-".to_owned(), |sent| format!("{sent:.2} %"));
        let ms =
            |seconds: Option<f64>| seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{:.2}", seconds * 1e3));
        write!(
            f,
            "{:>2}/{} {:>6.1} % {:>9} {:>+7.2} {:>9.1} {:>9.1} {:>7} {:>7} {:>6} {:>5}",
            self.step,
            self.steps,
            self.asked,
            sent,
            self.error,
            self.stable_rate,
            self.canary_rate,
            ms(self.p50),
            ms(self.p99),
            self.failed,
            self.lost
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_lines_up_with_the_heading_and_fits_a_terminal() {
        let row = Row {
            step: 5,
            steps: 5,
            asked: 100.0,
            sent: Some(100.0),
            error: -0.25,
            stable_rate: 1000.0,
            canary_rate: 5000.0,
            p50: Some(0.000_31),
            p99: None,
            failed: 99_999,
            lost: 0,
        };
        assert_eq!(row.to_string().len(), HEADING.len());
        assert!(HEADING.len() <= 80 && LEGEND.lines().all(|line| line.len() <= 100));
    }
}
