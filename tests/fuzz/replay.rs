//! The kept inputs of `fuzz/`, and small changes of each, through the functions that `fuzz/run` runs for longer.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::mutate::{anywhere, escape};
use crate::random::Random;
use crate::targets;

/// Changes of each input. Always the same ones: a new seed is the business of `fuzz/run`.
const CHANGES: u64 = 300;

#[test]
fn kept_inputs_and_their_neighbours_break_no_parser() {
    for (name, target) in targets::ALL {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let mut files: Vec<_> =
            fs::read_dir(&folder).expect("a folder per target").map(|file| file.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{} is empty", folder.display());
        for file in files {
            let input = fs::read(&file).unwrap();
            for number in 0..=CHANGES {
                let mut random = Random::new(input.len() as u64, number);
                let mut changed = input.clone();
                for _ in 0..number.min(1 + number % 4) {
                    anywhere(&mut random, &mut changed);
                }
                let broken = std::panic::catch_unwind(|| target(&changed)).is_err();
                assert!(!broken, "{name}, change {number} of {}:\n{}", file.display(), escape(&changed));
            }
        }
    }
}

/// `fuzz/` is no part of the package's build, so nothing else notices when it has fallen behind.
#[test]
fn the_lock_file_of_the_fuzz_targets_has_every_dependency_of_the_package() {
    let read = |file| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let (manifest, lock) = (read("Cargo.toml"), read("fuzz/Cargo.lock"));
    let section =
        manifest.split("\n[").find_map(|section| section.strip_prefix("dependencies]\n")).expect("its section");
    let wanted: BTreeSet<_> = section
        .lines()
        // Nobody there asks for what is optional.
        .filter(|line| !line.starts_with('#') && !line.contains("optional = true"))
        .filter_map(|line| Some(line.split_once(" = ")?.0))
        .collect();
    let package = lock.split("\n\n").find(|package| package.contains("name = \"splitway\"\n")).expect("the package");
    let locked: BTreeSet<_> =
        package.lines().filter_map(|line| line.strip_prefix(" \"")?.split(['"', ' ']).next()).collect();
    assert_eq!(
        wanted, locked,
        "cargo metadata --manifest-path fuzz/Cargo.toml --format-version 1 brings it up to date"
    );
}
