//! Tells `--version` which commit and which profile the binary was built from.

use std::path::Path;
use std::process::Command;

fn main() {
    // An image is built without `.git`; its Dockerfile passes the commit.
    let commit = std::env::var("SPLITWAY_COMMIT").ok().filter(|commit| !commit.is_empty()).or_else(|| {
        let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    });
    println!("cargo::rustc-env=SPLITWAY_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
    // `PROFILE` knows only debug and release; the folder has the profile's own name: target/NAME/build/splitway-x/out.
    let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let profile = Path::new(&out).ancestors().nth(3).and_then(Path::file_name).map(|name| name.to_string_lossy());
    println!("cargo::rustc-env=SPLITWAY_PROFILE={}", profile.as_deref().unwrap_or("unknown"));
    println!("cargo::rerun-if-env-changed=SPLITWAY_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    if Path::new(".git/logs/HEAD").exists() {
        println!("cargo::rerun-if-changed=.git/logs/HEAD");
    }
}
