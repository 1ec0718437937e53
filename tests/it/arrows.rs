//! Keeps the arrows between the rooms as ARCHITECTURE.md draws them.

use std::fs;
use std::path::{Path, PathBuf};

/// A room and the rooms that it may name.
const ARROWS: [(&str, &[&str]); 15] = [
    ("route", &[]),
    ("text", &[]),
    ("metrics", &["route", "proxy::Failure", "tls::HandshakeFailure"]),
    ("tls", &["route"]),
    ("record", &["route", "metrics", "tls"]),
    ("proxy", &["route", "metrics", "record", "tls"]),
    ("control", &["route", "metrics"]),
    ("source", &["control", "metrics", "route", "tls"]),
    (
        "config",
        &[
            "source",
            "record::access_log",
            "route",
            "proxy",
            "metrics::Alias",
            "text",
            "tls",
            "admin::Settings",
            "admin::Token",
        ],
    ),
    ("lint", &["control", "route", "text"]),
    ("history", &["control", "metrics", "route"]),
    ("admin", &["control", "history", "metrics", "record", "route", "proxy::Failure"]),
    ("check", &["source", "control", "route", "admin::ask", "admin::token"]),
    ("demo", &["control", "history", "metrics", "route", "proxy", "tls", "bind", "Bound", "Running", "Settings"]),
    // Of the program, as what asks proxies for it.
    ("top", &["cli", "proxies", "End", "Stop", "run_cold"]),
];

#[test]
fn rooms_name_only_the_rooms_below_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (room, allowed) in ARROWS {
        for file in files(&src.join(room)) {
            let text = fs::read_to_string(&file).unwrap();
            for (number, line) in text.lines().enumerate() {
                for named in named(line) {
                    let own = named == room || named.starts_with(&format!("{room}::"));
                    let fine = own
                        || allowed.iter().any(|room| {
                            named == *room || named.starts_with(&format!("{room}::")) || room.starts_with(&named)
                        });
                    assert!(fine, "{}:{}: {room} must not name {named}", file.display(), number + 1);
                }
            }
        }
    }
}

/// What a line names of this crate: `a::b` for `crate::a::b`, and each of `crate::{a, b}`.
fn named(line: &str) -> Vec<String> {
    if line.trim_start().starts_with("//") {
        return Vec::new();
    }
    line.split("crate::")
        .skip(1)
        .flat_map(|rest| match rest.strip_prefix('{') {
            Some(list) => {
                list.split('}').next().unwrap_or_default().split(',').map(|one| one.trim().to_owned()).collect()
            }
            None => vec![rest.chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c)).collect::<String>()],
        })
        .collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            // Whatever is in there is of no other language than ours, but for the dashboard.
            found.extend(if path.ends_with("admin/page") { Vec::new() } else { files(&path) });
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    assert!(!found.is_empty(), "{} has no file", folder.display());
    found
}
