//! What became of lines of the access log and of spans. COLD, but for what workers could not send: that is in their cells.

use super::Cell;

/// Each has one writer.
#[derive(Default)]
pub struct Records {
    pub lines_written: Cell,
    /// Whoever reads them was behind.
    pub lines_dropped: Cell,
    /// They could not be written.
    pub lines_failed: Cell,
    pub spans_exported: Cell,
    /// The collector was behind.
    pub spans_dropped: Cell,
    /// The collector did not take them.
    pub spans_failed: Cell,
}
