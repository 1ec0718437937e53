//! Compares the CPU time that proxies spend on one request: splitway, HAProxy and nginx in front of the same two
//! servers, with the same split. `loadtest/run` builds and starts it; `loadtest/README.md` says what the figures mean.
//!
//! Files, in reading order:
//!
//! * this one: the plan of rounds;
//! * `contestant`: the proxies, their configuration and their processes;
//! * `client`: the load, and the checks on every answer;
//! * `backend`: the two servers behind every proxy;
//! * `clock`: CPU time of processes;
//! * `report`: medians, ratios, Markdown and JSON.
#![forbid(unsafe_code)]

mod backend;
mod client;
mod clock;
mod contestant;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use client::{Load, Sample};
use contestant::{Contestant, Kind};

/// Compares the CPU time per request of splitway, HAProxy and nginx.
#[derive(Parser)]
pub struct Options {
    /// Rounds. In each, every proxy is measured once per scenario; the order rotates from round to round.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,

    /// Seconds of load per measurement.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,

    /// Three rounds of one second: shows that everything works; the figures are rough.
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,

    /// Keep-alive connections.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,

    /// Only scenarios whose name contains this text, e.g. `1 KiB`.
    #[arg(long)]
    only: Option<String>,

    /// Only these proxies besides splitway, e.g. `haproxy`. May be repeated.
    #[arg(long, value_enum)]
    with: Vec<Kind>,

    /// Another splitway binary that takes part, to compare before and after in one run.
    #[arg(long)]
    baseline: Option<PathBuf>,

    /// HAProxy and nginx write the same forwarding headers as splitway. Without it only X-Forwarded-For.
    #[arg(long)]
    equal_headers: bool,

    /// Let the system place all threads. Without it the proxies have one processor core to themselves.
    #[arg(long)]
    no_pin: bool,

    /// The splitway binary.
    #[arg(long)]
    splitway: PathBuf,

    /// One more argument for splitway (and the baseline). May be repeated.
    #[arg(long, allow_hyphen_values = true)]
    splitway_arg: Vec<String>,

    /// The build profile of the binary, for the report.
    #[arg(long, default_value = "not stated")]
    profile: String,

    /// Where report.md and report.json go.
    #[arg(long, default_value = "target/loadtest")]
    out: PathBuf,
}

/// One kind of request, the same for every proxy.
pub struct Scenario {
    pub name: &'static str,
    pub method: &'static str,
    pub path: &'static str,
    /// Bytes of the request's body.
    pub upload: usize,
    /// Bytes of the answer's body.
    pub download: usize,
    /// The most that splitway may cost, as a multiple of HAProxy.
    pub target: f64,
}

pub const SCENARIOS: [Scenario; 3] = [
    Scenario { name: "1 KiB GET", method: "GET", path: "/1k", upload: 0, download: 1024, target: 1.00 },
    Scenario { name: "64 KiB GET", method: "GET", path: "/64k", upload: 0, download: 65_536, target: 0.75 },
    Scenario { name: "16 KiB POST", method: "POST", path: "/upload", upload: 16_384, download: 6, target: 0.75 },
];

/// One measurement of one proxy.
pub struct Measured {
    pub round: u32,
    pub scenario: usize,
    pub contestant: usize,
    pub sample: Sample,
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    if options.quick {
        (options.rounds, options.seconds) = (3, 1.0);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let outcome = tokio::task::LocalSet::new().block_on(&runtime, async {
        let mut stop = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
        tokio::select! {
            outcome = run(&options) => outcome,
            // Leaving this future ends the proxies.
            _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
            _ = stop.recv() => Err("terminated".to_owned()),
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadtest: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<(), String> {
    let servers = backend::start().map_err(|error| format!("cannot start the servers behind the proxies: {error}"))?;
    let core = if options.no_pin { None } else { contestant::divide_cores() };
    let mut contestants = Vec::new();
    for kind in Kind::ALL {
        let binary = match kind {
            Kind::Splitway => Some(options.splitway.clone()),
            Kind::Baseline => options.baseline.clone(),
            rival => (options.with.is_empty() || options.with.contains(&rival)).then(|| PathBuf::from(rival.as_str())),
        };
        if let Some(binary) = binary {
            contestants.push(Contestant::start(kind, &binary, &servers, core, options).await?);
        }
    }
    let scenarios: Vec<usize> = (0..SCENARIOS.len())
        .filter(|i| options.only.as_ref().is_none_or(|only| SCENARIOS[*i].name.contains(only.as_str())))
        .collect();

    for contestant in &contestants {
        for scenario in &scenarios {
            client::verify(contestant, &SCENARIOS[*scenario]).await?;
        }
        eprintln!("{}: splits 90/10 and passes whole bodies ({})", contestant.kind.as_str(), contestant.version);
    }

    let mut measured = Vec::new();
    for round in 0..options.rounds {
        for scenario in &scenarios {
            for turn in 0..contestants.len() {
                let contestant = (turn + round as usize) % contestants.len();
                let load = Load {
                    connections: options.connections,
                    warm_up: Duration::from_millis(300),
                    window: Duration::from_secs_f64(options.seconds),
                };
                let one = &contestants[contestant];
                let sample = client::measure(one, &SCENARIOS[*scenario], &load).await?;
                eprintln!(
                    "round {}: {:<11} {:<9} {:6.2} us CPU per request, {:6.0} requests/s, {} errors",
                    round + 1,
                    SCENARIOS[*scenario].name,
                    one.kind.as_str(),
                    sample.cpu_us_per_request(),
                    sample.rate(),
                    sample.errors,
                );
                measured.push(Measured { round, scenario: *scenario, contestant, sample });
            }
        }
    }

    let report = report::Report::new(options, &contestants, &scenarios, &measured);
    let markdown = report.markdown();
    println!("{markdown}");
    let write = |name: &str, text: &str| {
        let path = options.out.join(name);
        std::fs::create_dir_all(&options.out)
            .and_then(|()| std::fs::write(&path, text))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    };
    write("report.md", &markdown)?;
    write("report.json", &report.json())?;
    eprintln!("written: {}/report.md and report.json", options.out.display());
    report.problem().map_or(Ok(()), Err)
}
