//! What slow, silent, idle and flooding clients cost, and whether anybody else notices. `loadtest/malice` builds and
//! starts it; `loadtest/README.md` says what the figures mean.
//!
//! Files, in reading order:
//!
//! * this one: the plan, the targets and the table;
//! * `innocent`: who asks all the time, and must not notice;
//! * `crowd`: connections that are slow, silent, idle or not read from;
//! * `flood`: HTTP/2 frames that nobody should send; `frames` writes them;
//! * `proxy`: the program under attack, its CPU time, its memory and its counters; `app`: what is behind it.
#![forbid(unsafe_code)]

mod app;
#[path = "../clock.rs"]
mod clock;
mod crowd;
mod flood;
mod frames;
mod innocent;
mod proxy;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;

use crowd::{Crowd, Habit};
use flood::{FLOODS, Flood};
use innocent::{Heard, Innocent};
use proxy::Proxy;

/// Measures what hostile clients cost, and whether anybody else notices.
#[derive(Parser)]
pub struct Options {
    /// Seconds that each crowd and each flood lasts.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,

    /// Only scenarios whose name contains this text, e.g. `idle`.
    #[arg(long)]
    only: Option<String>,

    /// Frames a second of each of the two connections of a flood.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1000..))]
    frames: u32,

    /// The splitway binary.
    #[arg(long)]
    splitway: PathBuf,
}

/// How many connections at once are served at all (`limits.connections`).
const CONNECTIONS: usize = 10_000;

/// What an innocent request may wait more, at most.
const MORE_WAIT: Duration = Duration::from_millis(100);
/// Of one core, in per cent.
const MOST_CPU: f64 = 5.0;
const MIB: f64 = 1024.0 * 1024.0;
/// A flood is ended after so many frames, or costs less than so many MiB.
const MOST_FRAMES: usize = 1000;
const FLOOD_MEMORY: f64 = 8.0;
/// With descriptors again, a new client is served after so long.
const ACCEPTS_AGAIN: Duration = Duration::from_secs(1);

/// `None`: no target.
#[derive(Clone, Copy, Default)]
struct Targets {
    wait: Option<Duration>,
    cpu: Option<f64>,
    /// In MiB.
    memory: Option<f64>,
}

struct Scenario {
    name: &'static str,
    who: &'static [(Habit, usize)],
    /// How many descriptors the proxy may have.
    descriptors: Option<u32>,
    /// Whether there is room for new connections; else they are told so.
    room: bool,
    targets: Targets,
}

const TARGETS: Targets = Targets { wait: Some(MORE_WAIT), cpu: Some(MOST_CPU), memory: Some(32.0) };
/// 10,000 connections may cost somewhat more: the issue is that they cost no time.
const MANY: Targets = Targets { memory: None, ..TARGETS };

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "500 slow heads, 500 silent, 100 that do not read",
        who: &[
            (Habit::SlowHead, 500),
            (Habit::Silent, 500),
            (Habit::Unread, 50),
            (Habit::UnreadStream, 25),
            (Habit::NoWindow, 25),
        ],
        descriptors: None,
        room: true,
        targets: TARGETS,
    },
    Scenario {
        name: "500 slow bodies",
        who: &[(Habit::SlowBody, 500)],
        descriptors: None,
        room: true,
        targets: TARGETS,
    },
    // A few places are left for the innocent.
    Scenario {
        name: "10,000 idle, fresh",
        who: &[(Habit::Silent, CONNECTIONS - 10)],
        descriptors: None,
        room: true,
        targets: MANY,
    },
    Scenario {
        name: "10,000 idle after a request",
        who: &[(Habit::Idle, CONNECTIONS - 10)],
        descriptors: None,
        room: true,
        targets: MANY,
    },
    Scenario {
        name: "10,500, more than `limits.connections`",
        who: &[(Habit::Idle, CONNECTIONS + 500)],
        descriptors: None,
        room: false,
        targets: MANY,
    },
    Scenario {
        name: "descriptors used up (256)",
        who: &[(Habit::Silent, 600)],
        descriptors: Some(256),
        room: false,
        targets: TARGETS,
    },
];

/// A line of the table.
struct Row {
    name: String,
    before: Heard,
    heard: Heard,
    cpu: f64,
    /// In MiB.
    memory: f64,
    /// What else there is to say.
    notes: Vec<String>,
    /// Why a target is missed.
    missed: Vec<String>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let outcome = tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::select! {
            outcome = run(&options) => outcome,
            // Leaving this future ends the proxy.
            _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
        }
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("malice: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all targets are met.
async fn run(options: &Options) -> Result<bool, String> {
    let app = app::start().map_err(|error| format!("cannot start the application: {error}"))?;
    let chosen = |name: &str| options.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let mut rows = Vec::new();
    for scenario in SCENARIOS.iter().filter(|scenario| chosen(scenario.name)) {
        rows.push(suffer(scenario, app, options).await?);
        rows.last().inspect(|row| eprintln!("{}", row.line()));
    }
    for flood in FLOODS.iter().filter(|flood| chosen(flood.name)) {
        rows.push(suffer_flood(flood, app, options).await?);
        rows.last().inspect(|row| eprintln!("{}", row.line()));
    }
    if rows.is_empty() {
        return Err(format!("expected a scenario named like --only, found none: {:?}", options.only));
    }
    println!(
        "\n| scenario | wait before, p50 / p99 / max | meanwhile | CPU | memory | lost | also | target |\n\
         |---|---|---|---|---|---|---|---|"
    );
    for row in &rows {
        println!("{}", row.line());
    }
    Ok(rows.iter().all(|row| row.missed.is_empty()))
}

/// What is the same for all: a proxy, warm, with its innocent client and its figures before.
struct Scene {
    proxy: Proxy,
    innocent: Innocent,
    before: Heard,
    memory: u64,
}

impl Scene {
    async fn set(app: SocketAddr, descriptors: Option<u32>, fresh: bool, options: &Options) -> Result<Self, String> {
        let proxy = Proxy::start(&options.splitway, app, descriptors)?;
        let innocent = Innocent::start(proxy.address, fresh);
        tokio::time::sleep(Duration::from_millis(500)).await;
        innocent.take();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (before, memory) = (innocent.take(), proxy.memory()?);
        Ok(Self { proxy, innocent, before, memory })
    }

    /// The largest growth of memory until then, in MiB. It is looked at ten times a second.
    async fn peak(&self, until: Instant) -> Result<f64, String> {
        let mut most = self.memory;
        while Instant::now() < until {
            most = most.max(self.proxy.memory()?);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok((most - self.memory) as f64 / MIB)
    }

    fn row(&self, name: &str, heard: Heard, cpu: f64, memory: f64) -> Row {
        let (notes, missed) = Default::default();
        Row { name: name.to_owned(), before: self.before.clone(), heard, cpu, memory, notes, missed }
    }
}

async fn suffer(scenario: &Scenario, app: SocketAddr, options: &Options) -> Result<Row, String> {
    let scene = Scene::set(app, scenario.descriptors, scenario.room, options).await?;
    let crowd = Crowd::gather(scene.proxy.address, scenario.who);
    let wanted: usize = scenario.who.iter().map(|(_, count)| count).sum();
    // They are all there, or as many as get in.
    let gathered = Instant::now() + Duration::from_micros(250 * wanted as u64) + Duration::from_secs(1);
    let mut memory = scene.peak(gathered).await?;

    let (cpu, began) = (scene.proxy.cpu()?, Instant::now());
    memory = memory.max(scene.peak(began + Duration::from_secs_f64(options.seconds)).await?);
    let cpu = (scene.proxy.cpu()? - cpu).as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
    let (in_place, ended) = (crowd.counts.in_place.get(), crowd.counts.ended.get());
    let refused = scene.proxy.refused().await;
    let left = Instant::now();
    drop(crowd);

    let mut row = scene.row(scenario.name, scene.innocent.take(), cpu, memory);
    row.notes.push(format!("{in_place} of {wanted} in place, {ended} ended"));
    row.says(&refused.unwrap_or_default());
    if scenario.room && in_place < wanted * 95 / 100 {
        row.missed.push(format!("only {in_place} of {wanted} hostile clients were there at the end"));
    }
    if !scenario.room {
        let again = served_again(scene.proxy.address, left).await;
        row.notes.push(format!("serves new ones again after {} ms", again.as_millis()));
        if again > ACCEPTS_AGAIN {
            row.missed.push("takes new ones again too late".to_owned());
        }
    }
    row.judge(&scenario.targets);
    Ok(row)
}

/// How long after the crowd has left a new client is served.
async fn served_again(proxy: SocketAddr, left: Instant) -> Duration {
    while left.elapsed() < 10 * ACCEPTS_AGAIN {
        let newcomer = Innocent::start(proxy, false);
        tokio::time::sleep(Duration::from_millis(10)).await;
        if !newcomer.take().waits.is_empty() {
            break;
        }
    }
    left.elapsed()
}

async fn suffer_flood(flood: &Flood, app: SocketAddr, options: &Options) -> Result<Row, String> {
    let name = format!("flood: {}", flood.name);
    let scene = Scene::set(app, None, true, options).await?;
    let problem = |error: std::io::Error| format!("{name}: {error}");
    let frames = flood::frames_until_ended(flood, scene.proxy.address, 2 * MOST_FRAMES).await.map_err(problem)?;
    let memory_before = scene.proxy.memory()?;
    scene.innocent.take();

    let until = Instant::now() + Duration::from_secs_f64(options.seconds);
    let (cpu, began) = (scene.proxy.cpu()?, Instant::now());
    let rage = |reads| flood::rage(flood, scene.proxy.address, options.frames, reads, until);
    let (peak, (read, ends), (unread, more_ends)) = tokio::join!(scene.peak(until), rage(true), rage(false));
    let cpu = (scene.proxy.cpu()? - cpu).as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
    // What one connection of the flood did before belongs to it, if it stayed.
    let memory = peak?.max((memory_before - scene.memory.min(memory_before)) as f64 / MIB);
    let heard = scene.innocent.take();
    let refused = scene.proxy.refused().await?;

    let mut row = scene.row(&name, heard, cpu, memory);
    row.notes.push(match frames {
        Some(frames) => format!("ended after {frames} frames"),
        None => "not ended".to_owned(),
    });
    row.notes.push(format!("{} frames, {} connections ended", read + unread, ends + more_ends));
    row.says(&refused);
    let cheap = memory < FLOOD_MEMORY;
    if !cheap && frames.is_none_or(|frames| frames > MOST_FRAMES) {
        row.missed.push(format!("{memory:.1} MiB, and not ended after {MOST_FRAMES} frames"));
    }
    row.judge(&Targets::default());
    Ok(row)
}

impl Row {
    /// What the proxy has counted.
    fn says(&mut self, refused: &[(String, u64)]) {
        self.notes.extend(refused.iter().map(|(word, count)| format!("{word} {count}")));
    }

    fn judge(&mut self, targets: &Targets) {
        if self.heard.waits.is_empty() {
            self.missed.push("no innocent request was answered".to_owned());
        }
        if let Some(lost) = self.heard.lost.first() {
            self.missed.push(format!("{} innocent requests lost: {lost}", self.heard.lost.len()));
        }
        let more = self.heard.quantile(1.0).saturating_sub(self.before.quantile(0.5));
        if targets.wait.is_some_and(|most| more > most) {
            self.missed.push(format!("an innocent request waited {} ms more", more.as_millis()));
        }
        if targets.cpu.is_some_and(|most| self.cpu > most) {
            self.missed.push(format!("{:.1} % CPU", self.cpu));
        }
        if targets.memory.is_some_and(|most| self.memory > most) {
            self.missed.push(format!("{:.1} MiB more", self.memory));
        }
    }

    fn line(&self) -> String {
        let ms = |heard: &Heard| {
            [0.5, 0.99, 1.0].map(|q| format!("{:.1}", heard.quantile(q).as_secs_f64() * 1e3)).join(" / ") + " ms"
        };
        let verdict =
            if self.missed.is_empty() { "met".to_owned() } else { format!("MISSED: {}", self.missed.join(", ")) };
        format!(
            "| {} | {} | {} | {:.1} % | {:.1} MiB | {} of {} | {} | {verdict} |",
            self.name,
            ms(&self.before),
            ms(&self.heard),
            self.cpu,
            self.memory,
            self.heard.lost.len(),
            self.heard.waits.len() + self.heard.lost.len(),
            self.notes.join(", "),
        )
    }
}
