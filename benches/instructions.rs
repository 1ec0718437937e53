//! How many instructions routing takes: a figure that does not depend on what else the machine does.
//!
//! `cargo bench --bench instructions` runs itself under valgrind's callgrind, each case with two numbers of repetitions,
//! and prints the difference per repetition. Without `--bench` (as in `cargo test --benches`) each case runs a few times.

mod world;

use std::hint::black_box;
use std::process::{Command, ExitCode};

use world::{MadeUp, mirroring, snapshot, split};

/// A name, and what is repeated.
type Case = (&'static str, fn(u64));

const CASES: [Case; 10] = [
    ("pick, one version", |times| pick(&[100], times)),
    ("pick, 5 %", |times| pick(&[5, 95], times)),
    ("pick, 5.5 %", |times| pick(&[55, 945], times)),
    ("pick, 10 + 20 + 70 %", |times| pick(&[10, 20, 70], times)),
    ("decide, weighted, 0 routes", |times| decide(0, false, times)),
    ("decide, weighted, 10 routes", |times| decide(10, false, times)),
    ("decide, weighted, 100 routes", |times| decide(100, false, times)),
    ("decide, sticky, 0 routes", |times| decide(0, true, times)),
    ("decide, sticky, 10 routes", |times| decide(10, true, times)),
    ("decide, mirrored, 10 routes", mirrored),
];

fn pick(weights: &[u32], times: u64) {
    let split = split(weights);
    for _ in 0..times {
        black_box(split.pick());
    }
}

fn decide(routes: usize, sticky: bool, times: u64) {
    let (snapshot, browser) = (snapshot(routes, sticky), MadeUp::browser());
    for _ in 0..times {
        black_box(snapshot.decide(black_box(&browser)));
    }
}

/// The last of the routes is a mirror that matches.
fn mirrored(times: u64) {
    let (snapshot, browser) = (mirroring(9), MadeUp::browser());
    for _ in 0..times {
        black_box(snapshot.decide(black_box(&browser)));
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [case, times] = arguments.as_slice()
        && let (Ok(case), Ok(times)) = (case.parse::<usize>(), times.parse())
    {
        CASES[case].1(times);
        return ExitCode::SUCCESS;
    }
    if !arguments.iter().any(|argument| argument == "--bench") {
        CASES.iter().for_each(|(_, run)| run(10));
        return ExitCode::SUCCESS;
    }
    for (case, (name, _)) in CASES.iter().enumerate() {
        match (count(case, 1000), count(case, 3000)) {
            (Ok(few), Ok(many)) => println!("{name:<32}{:>8.1} instructions", (many - few) as f64 / 2000.0),
            (Err(error), _) | (_, Err(error)) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// All instructions of a run of this very program.
fn count(case: usize, times: u64) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([case.to_string(), times.to_string()])
        .output()
        .map_err(|error| {
            format!("valgrind cannot be started: {error}; it is in the distribution's package of that name")
        })?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    collected.ok_or_else(|| format!("valgrind said no count:\n{text}"))
}
