//! Texts that people write: YAML as a tree that knows its places, and how to say what is wrong there.
//!
//! A neutral room below those that read such texts: it knows no field and no rule.
//!
//! * `node`: the tree;
//! * `problem`: places, problems, and how they are shown.

pub(crate) mod node;
pub mod problem;

use std::io::{self, Read};

use problem::{Complaint, Problems};

/// A text of at most `most` bytes and one more, which is enough for its reader to call it too long. `file` is opened by
/// the caller; `name` and `help` (when there is no such file) are for messages.
pub fn read(name: &str, file: io::Result<impl Read>, most: usize, help: &str) -> Result<String, Problems> {
    let cannot = |error: io::Error| {
        let complaint = Complaint::new(format!("cannot be read: {error}"));
        let help = match error.kind() {
            io::ErrorKind::NotFound => help,
            io::ErrorKind::PermissionDenied => "this process needs the right to read it",
            _ => "expected a YAML file",
        };
        Problems::unreadable(name, complaint.help(help))
    };
    let mut bytes = Vec::new();
    file.and_then(|file| file.take(most as u64 + 1).read_to_end(&mut bytes)).map_err(cannot)?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let complaint = Complaint::new(format!("expected UTF-8 text, found other bytes from byte {at} on"));
        Problems::unreadable(name, complaint.help("save the file as UTF-8"))
    })
}
