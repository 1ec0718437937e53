//! Everything at once for an hour: the real program under half load, while weights, endpoints, certificates and faults
//! change; every request is accounted for, and in the end nothing may have grown. `loadtest/soak` builds and starts it;
//! `loadtest/README.md` says what it finds and what it does not.
//!
//! Files, in reading order:
//!
//! * this one: the plan of the run, and the verdict;
//! * `load`: the clients;
//! * `ledger`: the account of their requests;
//! * `apps`: the endpoints;
//! * `world`: what changes, and the proxy's file;
//! * `process`: the proxy's process, and what the system says about it;
//! * `slope`: whether memory grows.
#![forbid(unsafe_code)]

mod apps;
#[path = "../../tests/it/faulty.rs"]
mod faulty;
mod ledger;
mod load;
mod process;
#[path = "../../tests/fuzz/random.rs"]
mod random;
mod slope;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use ledger::{Kind, Ledger, Row};
use load::World;
use process::{Proxy, System};
use random::Random;
use world::{Authority, Versions};

/// Everything at once at half load, and nothing may grow or get lost.
#[derive(Parser)]
struct Options {
    /// Minutes of load, after a warm-up of half a minute.
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,

    /// Three and a half minutes of load: five in all. Memory's bound is wider, because its allocator is still warming up.
    #[arg(long, conflicts_with = "minutes")]
    quick: bool,

    /// Requests in a second, of all clients. Default: as many as keep half of all cores busy, load and endpoints included.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: Option<u64>,

    /// Cores that the whole is to keep busy when the rate is found out. Default: half of those that there are.
    #[arg(long)]
    cores: Option<f64>,

    /// What happens by chance follows from this. Default: another one each time.
    #[arg(long)]
    seed: Option<u64>,

    /// The splitway program.
    #[arg(long)]
    splitway: PathBuf,

    /// Where soak.json goes, the proxy's log, its file and its certificates.
    #[arg(long, default_value = "target/loadtest")]
    out: PathBuf,
}

const WARM_UP: Duration = Duration::from_secs(30);
/// Between samples; in a short run, so that there are enough of them to tell growth from going up and down.
const STEP: Duration = Duration::from_secs(5);
const SHORT_STEP: Duration = Duration::from_secs(1);
/// A run that is too short for what an hour can tell.
const SHORT: Duration = Duration::from_secs(30 * 60);
/// What memory may be more by than before the load, once all has ended: what an allocator keeps for the next time.
const KEPT_MEBIBYTES: f64 = 12.0;
/// And, in a run that is long enough for it, what the proxy remembers: half an hour of seconds, the last reports, and series of
/// versions that are gone. After an hour 19 MiB of both were seen, while the last half had fallen by 6.
const REMEMBERED_MEBIBYTES: f64 = 16.0;
/// Between lines about a run that goes on.
const TOLD_EVERY: Duration = Duration::from_secs(120);
/// Everything that ends by itself has ended so long after the load: the proxy's longest timeouts are shorter.
const SETTLE: Duration = Duration::from_secs(40);

/// One look at the proxy.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Seconds of load so far.
    at: f64,
    system: System,
    clients: f64,
    upstream: f64,
    in_flight: f64,
    /// Cores that the proxy kept busy since the last sample, and load and endpoints.
    proxy_cpu: f64,
    load_cpu: f64,
    requests: u64,
}

/// Looks at the proxy again and again.
struct Watcher {
    own: u32,
    begun: Instant,
    last: (Instant, Duration, Duration),
}

impl Watcher {
    fn new(proxy: &Proxy) -> Result<Self, String> {
        let own = std::process::id();
        let now = (Instant::now(), cpu(proxy.id())?, cpu(own)?);
        Ok(Self { own, begun: now.0, last: now })
    }

    async fn look(&mut self, proxy: &Proxy, ledger: &Ledger) -> Result<Sample, String> {
        let metrics = proxy.metrics().await.map_err(|error| format!("cannot read the proxy's metrics: {error}"))?;
        let system = System::of(proxy.id()).map_err(|error| format!("cannot look at the proxy's process: {error}"))?;
        let now = (Instant::now(), cpu(proxy.id())?, cpu(self.own)?);
        let seconds = (now.0 - self.last.0).as_secs_f64().max(0.001);
        let sample = Sample {
            at: (now.0 - self.begun).as_secs_f64(),
            system,
            clients: metrics.sum("splitway_downstream_connections", ""),
            upstream: metrics.sum("splitway_upstream_connections", ""),
            in_flight: metrics.sum("splitway_requests_in_flight", "") + metrics.sum("splitway_requests_queued", ""),
            proxy_cpu: (now.1 - self.last.1).as_secs_f64() / seconds,
            load_cpu: (now.2 - self.last.2).as_secs_f64() / seconds,
            requests: ledger.total(),
        };
        self.last = now;
        Ok(sample)
    }
}

fn cpu(id: u32) -> Result<Duration, String> {
    process::cpu(id).map_err(|error| format!("cannot read the CPU time of process {id}: {error}"))
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    if options.quick {
        options.minutes = 3.5;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let outcome = runtime.block_on(async {
        let mut stop = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
        tokio::select! {
            outcome = run(&options) => outcome,
            // Leaving this future ends the proxy.
            _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
            _ = stop.recv() => Err("terminated".to_owned()),
        }
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything was as it must be. An error: it could not be found out.
async fn run(options: &Options) -> Result<bool, String> {
    let seed = options.seed.unwrap_or_else(|| {
        use std::hash::{BuildHasher, RandomState};
        RandomState::new().hash_one("seed") >> 32
    });
    let half = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64 / 2.0);
    let cores = options.cores.unwrap_or(half);
    println!("soak: seed {seed}, {} minutes of load after {WARM_UP:?} of warm-up", options.minutes);
    let folder = options.out.join("soak-files");
    std::fs::create_dir_all(&folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    let folder = folder.canonicalize().map_err(|error| format!("{}: {error}", folder.display()))?;
    let authority = Authority::new().map_err(|error| format!("cannot make an authority: {error}"))?;
    authority.renew(&folder)?;
    let connector = |name| authority.client(name).map_err(|error| format!("cannot configure TLS: {error}"));
    let (http1, http2) = (connector(b"http/1.1")?, connector(b"h2")?);
    let mut versions = Versions::start(&folder, authority, seed)
        .await
        .map_err(|error| format!("cannot start the endpoints: {error}"))?;
    versions.write()?;
    let mut proxy = Proxy::start(&options.splitway, &versions.file(), &options.out.join("soak-proxy.log"))?;
    versions.live(&proxy).await?;
    let [clear, tls] = proxy.listeners[..] else { return Err("expected two listeners".to_owned()) };
    let world = Arc::new(World {
        clear,
        tls,
        http1,
        http2,
        ledger: Ledger::default(),
        rate: AtomicU64::new(options.rate.unwrap_or(200)),
        weight: Default::default(),
        users: Default::default(),
        ids: AtomicU64::new(1),
    });
    let mut random = Random::new(seed, u64::MAX);

    let (_, _) =
        phase(&world, &mut versions, &mut proxy, &mut random, seed, WARM_UP, options.rate.is_none().then_some(cores))
            .await?;
    let start = settled(&world, &mut versions, &proxy, None).await?;
    println!(
        "soak: {} requests/s{}; after the warm-up: {}",
        world.rate.load(Ordering::Relaxed),
        if options.rate.is_some() { " (stated, not found out)" } else { "" },
        words(&start)
    );
    let length = Duration::from_secs_f64(options.minutes * 60.0);
    let (samples, average) = phase(&world, &mut versions, &mut proxy, &mut random, seed + 1, length, None).await?;
    let end = settled(&world, &mut versions, &proxy, Some(&start)).await?;
    let metrics = proxy.metrics().await.map_err(|error| format!("cannot read the proxy's metrics: {error}"))?;
    let stopped = proxy.stop(Duration::from_secs(40)).await;

    let mut problems = Vec::new();
    let mut must = |holds: bool, what: String| {
        println!("  {} {what}", if holds { "ok    " } else { "FAILED" });
        if !holds {
            problems.push(what);
        }
    };
    println!("\n{:<24}{:>10}{:>10}{:>10}{:>8}", "requests", "answered", "failed", "cut", "lost");
    let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
    let (mut table, mut lost) = (Vec::new(), 0);
    for kind in Kind::ALL {
        let Row { answered, failed, cut, lost: gone } = &world.ledger.rows[kind as usize];
        let row = [load(answered), load(failed), load(cut), load(gone)];
        println!("{:<24}{:>10}{:>10}{:>10}{:>8}", kind.as_str(), row[0], row[1], row[2], row[3]);
        table.push(
            json!({ "kind": kind.as_str(), "answered": row[0], "failed": row[1], "cut": row[2], "lost": row[3] }),
        );
        lost += row[3];
    }
    let reasons = world.ledger.reasons.lock().expect("nobody panics").clone();
    let counts = &versions.counts;
    let (accepted, broken) = versions.broken();
    println!("failures with faulty endpoints: {reasons:?}");
    println!(
        "{} weights, {} endpoints and {} certificates changed; {} faults, which broke {broken} of {accepted} connections; \
         {} requests went over another connection, because theirs had not taken them",
        counts.weights,
        counts.endpoints,
        counts.certificates,
        counts.faults,
        load(&world.ledger.resent)
    );
    println!(
        "cores busy: {:.2} by the proxy, {:.2} by load and endpoints; {:.0} requests/s",
        average.0, average.1, average.2
    );

    println!("\nwhat must hold:");
    let told = world.ledger.told.lock().expect("nobody panics").clone();
    must(lost == 0 && told.is_empty(), format!("no innocent request is lost, no body is damaged: {lost} lost"));
    let idle: Vec<_> = Kind::ALL
        .iter()
        .filter(|kind| {
            let row = &world.ledger.rows[**kind as usize];
            load(&row.answered) + load(&row.cut) == 0
        })
        .map(|kind| kind.as_str())
        .collect();
    must(idle.is_empty(), format!("every kind of client got something done; not so: {idle:?}"));
    let back = |name: &str, from: u64, to: u64| (to <= from, format!("{name} are back: {from} before, {to} after"));
    // What the warm-up left behind would hide what the run left behind.
    let none = |name: &str, first: f64, last: f64| {
        (first + last == 0.0, format!("no {name} are left: {first} after the warm-up, {last} after the run"))
    };
    for (holds, what) in [
        back("descriptors", start.system.descriptors, end.system.descriptors),
        back("threads", start.system.threads, end.system.threads),
        none("client connections", start.clients, end.clients),
        none("connections to endpoints", start.upstream, end.upstream),
        none("requests in flight", start.in_flight, end.in_flight),
    ] {
        must(holds, what);
    }
    let panics = metrics.sum("splitway_panics_total", "");
    must(panics == 0.0, format!("no panic: {panics}"));
    let reloaded = metrics.sum("splitway_certificate_reloads_total", "outcome=\"good\"");
    must(reloaded >= 1.0, format!("certificates were reloaded: {reloaded} times"));
    must(stopped.is_ok(), format!("SIGTERM ends it: {stopped:?}"));

    let more = (end.system.anonymous as f64 - start.system.anonymous as f64) / 1024.0;
    let most = KEPT_MEBIBYTES + if length < SHORT { 0.0 } else { REMEMBERED_MEBIBYTES };
    must(more <= most, format!("memory is back: {more:+.2} MiB (bound: {most} MiB)"));

    let second: Vec<&Sample> = samples.iter().filter(|sample| sample.at >= length.as_secs_f64() / 2.0).collect();
    let points: Vec<(f64, f64)> = second.iter().map(|s| (s.at / 3600.0, s.system.anonymous as f64 / 1024.0)).collect();
    let fitted = slope::slope(&points);
    let mut levels: Vec<f64> = points.iter().map(|(_, y)| *y).collect();
    levels.sort_by(f64::total_cmp);
    let level = levels.get(levels.len() / 2).copied().unwrap_or(0.0);
    // A short run has too few samples for the middle of what its slope may be: under load memory goes up and down by a
    // third. There it fails when it is known to have grown.
    let short = length < SHORT;
    let (mebibytes, share) = if short { (4.0, 0.10) } else { (1.0, 0.02) };
    let bound = f64::max(mebibytes, share * level);
    let hours = options.minutes / 2.0 / 60.0;
    match fitted {
        Some(slope) => must(
            (if short { slope.least } else { slope.median }) * hours <= bound,
            format!(
                "memory does not grow in the last half: {:+.2} MiB in {:.0} s at {level:.1} MiB (bound: {bound:.2} MiB); \
                 {:+.2} MiB/h, 95 % from {:+.2} to {:+.2}",
                slope.median * hours,
                hours * 3600.0,
                slope.median,
                slope.least,
                slope.greatest
            ),
        ),
        None => must(false, "memory's slope: too few samples".to_owned()),
    }
    println!("before: {}\nafter:  {}", words(&start), words(&end));

    let sample = |s: &Sample| {
        json!({
            "seconds": (s.at * 10.0).round() / 10.0, "resident_kib": s.system.resident, "anonymous_kib": s.system.anonymous,
            "threads": s.system.threads, "descriptors": s.system.descriptors, "clients": s.clients, "upstream": s.upstream,
            "in_flight": s.in_flight, "proxy_cores": s.proxy_cpu, "load_cores": s.load_cpu, "requests": s.requests,
        })
    };
    let report = json!({
        "seed": seed, "minutes": options.minutes, "rate": load(&world.rate), "requests": table, "reasons": reasons,
        "weights": counts.weights, "endpoints": counts.endpoints, "certificates": counts.certificates,
        "before": sample(&start), "after": sample(&end), "problems": problems, "told": told,
        "memory": fitted.map(|slope| json!({
            "mib_per_hour": slope.median, "least": slope.least, "greatest": slope.greatest, "bound_mib": bound, "level_mib": level,
        })),
        "samples": samples.iter().map(sample).collect::<Vec<_>>(),
    });
    let path = options.out.join("soak.json");
    std::fs::write(&path, format!("{report:#}\n"))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    println!(
        "\n{}; every sample is in {}",
        if problems.is_empty() { "all of it holds" } else { "FAILED" },
        path.display()
    );
    Ok(problems.is_empty())
}

/// Load and changes for a while; with a goal, the rate comes to keep so many cores busy. Returns the samples, and the
/// average: cores busy by the proxy, by the load, and requests per second.
async fn phase(
    world: &Arc<World>,
    versions: &mut Versions,
    proxy: &mut Proxy,
    random: &mut Random,
    seed: u64,
    length: Duration,
    goal: Option<f64>,
) -> Result<(Vec<Sample>, (f64, f64, f64)), String> {
    let (stop, stopped) = watch::channel(false);
    let load = tokio::spawn({
        let (world, stopped) = (world.clone(), stopped.clone());
        async move { load::run(&world, seed, stopped).await }
    });
    let mut watcher = Watcher::new(proxy)?;
    let first = (watcher.last, world.ledger.total());
    let end = Instant::now() + length;
    let mut samples = Vec::new();
    let step = if length < SHORT { SHORT_STEP } else { STEP };
    if let Some(how) = proxy.ended() {
        return Err(format!("the proxy has ended: {how}"));
    }
    let proxy = &*proxy;
    let watching = async {
        while Instant::now() < end {
            tokio::time::sleep(step.min(end - Instant::now())).await;
            let sample = watcher.look(proxy, &world.ledger).await?;
            samples.push(sample);
            if samples.len().is_multiple_of(TOLD_EVERY.as_secs() as usize / step.as_secs() as usize) {
                println!("{:6.0} s: {} requests, {}", sample.at, sample.requests, words(&sample));
            }
            if let Some(goal) = goal {
                // Carefully: half of the way in each step.
                let off = (goal / (sample.proxy_cpu + sample.load_cpu).max(0.01)).clamp(0.25, 4.0).sqrt();
                let rate = (world.rate.load(Ordering::Relaxed) as f64 * off).clamp(20.0, 100_000.0);
                world.rate.store(rate as u64, Ordering::Relaxed);
            }
        }
        stop.send_replace(true);
        Ok::<(), String>(())
    };
    tokio::try_join!(watching, versions.change(world, proxy, random, stopped))?;
    let seconds = first.0.0.elapsed().as_secs_f64();
    let average = (
        (cpu(proxy.id())? - first.0.1).as_secs_f64() / seconds,
        (cpu(std::process::id())? - first.0.2).as_secs_f64() / seconds,
        (world.ledger.total() - first.1) as f64 / seconds,
    );
    tokio::time::timeout(SETTLE, load)
        .await
        .map_err(|_| format!("the clients have not ended within {SETTLE:?}"))?
        .map_err(|error| format!("the load failed: {error}"))?;
    Ok((samples, average))
}

/// The proxy once all that ends by itself has ended; what has not shows in the sample. With a first one, as soon as it is
/// no more than that.
async fn settled(
    world: &World,
    versions: &mut Versions,
    proxy: &Proxy,
    first: Option<&Sample>,
) -> Result<Sample, String> {
    versions.settle();
    let mut watcher = Watcher::new(proxy)?;
    let end = Instant::now() + SETTLE;
    // Threads for files and names end by themselves after ten seconds without work.
    tokio::time::sleep(Duration::from_secs(12)).await;
    loop {
        let sample = watcher.look(proxy, &world.ledger).await?;
        let quiet = sample.clients + sample.upstream + sample.in_flight == 0.0;
        let back = first.is_none_or(|first| {
            sample.system.descriptors <= first.system.descriptors && sample.system.threads <= first.system.threads
        });
        if quiet && back || Instant::now() > end {
            return Ok(sample);
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

fn words(sample: &Sample) -> String {
    format!(
        "{:.1} MiB ({:.1} of it no file's), {} descriptors, {} threads, {} clients, {} connections to endpoints, {} in flight",
        sample.system.resident as f64 / 1024.0,
        sample.system.anonymous as f64 / 1024.0,
        sample.system.descriptors,
        sample.system.threads,
        sample.clients,
        sample.upstream,
        sample.in_flight
    )
}
