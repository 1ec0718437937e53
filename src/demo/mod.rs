//! Splitway at work with nothing to set up: two versions of a tiny application, a scripted rollout, a steady load.
//!
//! It uses the crate as a stranger would: binds a proxy, sends what a source would send, reads the counters. The share
//! that it shows is what the proxy counted; at the end it is held against what the two versions have received. A canary that
//! fails is aborted, by what the proxy's own history says of it.
//!
//! * `app`: the two versions;
//! * `load`: the clients;
//! * `table`: what is seen.

pub mod app;
mod load;
mod table;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::header::HeaderName;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::control::cluster::{Contact, Following, FollowingView};
use crate::control::rollout::{Fact, Progress, State};
use crate::control::{Observed, Sender};
use crate::history::{Window, of_version};
use crate::metrics;
use crate::metrics::cells::QuantileCounts;
use crate::route::policy::Policy;
use crate::route::{Backend, Generation, Identity, PortName, Role, Routing, Shares, VersionHash};
use crate::{Bound, Running, Settings, control, proxy};

use app::App;
use load::Load;
use table::{LEGEND, Row, Table};

/// What a stranger may choose.
#[derive(Clone, Debug)]
pub struct Options {
    /// One walk, then the end; otherwise it begins again.
    pub once: bool,
    pub fail_canary: bool,
    /// Time per step.
    pub step: Duration,
    /// Requests per second.
    pub rate: u32,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
}

/// Shares of the canary, in per cent.
const STEPS: [u32; 5] = [5, 10, 25, 50, 100];

/// With `--fail-canary`, one request in so many is answered 500.
const FAIL_ONE_IN: u64 = 5;

/// The analysis of the demo: a canary that fails more of its requests than this, out of so many at least, is aborted.
const MOST_FAILED: f64 = 0.05;
const ENOUGH_REQUESTS: u64 = 50;

/// Runs until the last step, or until `interrupted` resolves. Returns whether it kept its promise: nothing lost, the
/// error below one request.
pub async fn run(options: Options, interrupted: impl Future<Output = ()>) -> io::Result<bool> {
    let stable = App::start("stable", loopback(), None).await?;
    let canary = App::start("canary", loopback(), options.fail_canary.then_some(FAIL_ONE_IN)).await?;
    let (observations, receiver) = control::channel();
    let (following, view) = watch::channel(Following::default());
    let (bound, moved) = bind(&options, view)?;
    let running = bound.start(receiver)?;
    let rollout = Rollout { stable: stable.address, canary: canary.address, observations, following };
    rollout.ask(STEPS[0], at_step(0)).await;
    running.reached(Generation(1)).await;
    announce(&options, &running, &moved)?;

    let load = Load::start(running.listeners()[0], options.rate)?;
    let mut table = Table::new();
    table.heading()?;
    let walk = walk(&options, &rollout, &running, &load, &mut table);
    let walked = tokio::select! {
        walked = walk => walked,
        () = interrupted => Ok(()),
    };
    // Also when nobody reads the table any more.
    let closed = table.close();
    // The versions that must still answer live on this thread, so it does not wait itself.
    let counts = tokio::task::spawn_blocking(|| load.stop()).await.map_err(io::Error::other)?;
    let (sent, failed, lost) = (
        counts.sent.load(Ordering::Relaxed),
        counts.failed.load(Ordering::Relaxed),
        counts.lost.load(Ordering::Relaxed),
    );
    let split = Account::take(&running);
    running.stop();
    walked.and(closed)?;

    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{sent} requests, {failed} failed, {lost} lost. Canary: asked {:.2}, sent {} (error {:+.2} requests).",
        split.asked,
        split.canary,
        split.error()
    )?;
    writeln!(out, "The versions have received {} (stable) and {} (canary).", stable.received(), canary.received())?;
    writeln!(out, "Next: splitway run --listen :8080 --stable :9001 --canary :9002=5.5%")?;
    Ok(lost == 0 && split.error().abs() < 1.0)
}

/// A free port of this machine's own.
fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// An address that could not be had.
struct Moved {
    what: &'static str,
    wished: SocketAddr,
    why: io::Error,
}

/// The wished addresses, or others where they cannot be had.
fn bind(options: &Options, following: FollowingView) -> io::Result<(Bound, Vec<Moved>)> {
    let mut moved = Vec::new();
    let mut free = |what, wished: SocketAddr| match std::net::TcpListener::bind(wished) {
        Ok(_) => wished,
        Err(why) => {
            moved.push(Moved { what, wished, why });
            SocketAddr::new(wished.ip(), 0)
        }
    };
    let bound = crate::bind(Settings {
        proxy: proxy::Settings {
            listeners: vec![proxy::Listener::plain(free("proxy", options.listen), 0)],
            workers: proxy::cores(),
            reuse_port: false,
            drain: proxy::Drain::default(),
        },
        admin: Some(free("admin listener", options.admin).into()),
        identity: Identity::random(),
        ports: vec![PortName::default()],
        following: Some(following),
        aliases: Vec::new(),
        record: Default::default(),
    })?;
    Ok((bound, moved))
}

fn announce(options: &Options, running: &Running, moved: &[Moved]) -> io::Result<()> {
    let proxy = running.listeners()[0];
    let admin = running.admin().map(|address| address.to_string()).unwrap_or_default();
    let mut out = io::stdout().lock();
    writeln!(out, "open    http://{admin}/")?;
    writeln!(out, "proxy   http://{proxy}/")?;
    for Moved { what, wished, why } in moved {
        writeln!(out, "        not {wished} for the {what}: {why}")?;
    }
    writeln!(out, "try     curl -i http://{proxy}/")?;
    writeln!(out, "        curl -s http://{admin}/metrics | grep ^splitway_requests")?;
    writeln!(out, "        splitway status --watch --admin {admin}")?;
    writeln!(
        out,
        "load    {} requests/s from {} clients{}; Ctrl-C ends",
        options.rate,
        load::CLIENTS.min(options.rate),
        if options.fail_canary { "; the canary fails one request in five" } else { "" }
    )?;
    writeln!(out, "\n{LEGEND}\n")
}

/// The scripted Rollout: two versions that run all the time, and a share.
struct Rollout {
    stable: SocketAddr,
    canary: SocketAddr,
    observations: Sender,
    following: watch::Sender<Following>,
}

/// The step that is being worked on, from 0; after the last one the canary is promoted.
fn at_step(step: usize) -> Progress {
    let fact =
        |i: usize| Fact::new(format!("setWeight {}", STEPS[i]), format!("spec.strategy.canary.steps[{i}].setWeight"));
    let promoted = step == STEPS.len();
    Progress {
        state: if promoted { State::Idle } else { State::Step },
        steps: (0..STEPS.len()).map(fact).collect(),
        step,
        stable: Some(if promoted { "canary" } else { "stable" }.to_owned()),
        canary: (!promoted).then(|| "canary".to_owned()),
        phase: Some(if promoted { "Healthy" } else { "Progressing" }.to_owned()),
        why: vec![match promoted {
            true => Fact::new("promoted; the demo begins again", "status.stableRS"),
            false => Fact::new(
                format!("works at step {} of {}: {}", step + 1, STEPS.len(), fact(step).text),
                fact(step).field,
            ),
        }],
        analyses: Vec::new(),
    }
}

/// After an abort, and why.
fn aborted(step: usize, why: &str) -> Progress {
    Progress {
        state: State::Aborted,
        phase: Some("Degraded".to_owned()),
        why: vec![Fact::new(format!("aborted: {why}"), "status.abort")],
        ..at_step(step)
    }
}

/// Why the rollout that goes on should end.
fn failing(running: &Running) -> Option<String> {
    let windowed = running.history().window(Window::Rollout).ok()?;
    let canary = of_version(&windowed.counts, &windowed.canary?);
    let rate = canary.error_rate()?;
    (canary.requests >= ENOUGH_REQUESTS && rate > MOST_FAILED).then(|| {
        format!(
            "the canary failed {} of {} requests ({:.1} %); at most {:.0} % may fail",
            canary.errors,
            canary.requests,
            rate * 100.0,
            MOST_FAILED * 100.0
        )
    })
}

impl Rollout {
    /// Asks for a share of the canary, in per cent, and says where the rollout stands.
    async fn ask(&self, percent: u32, progress: Progress) {
        self.following.send_replace(Following {
            rollout: "demo/rollout".to_owned(),
            contact: Contact::Connected,
            progress: Some(progress),
            ..Following::default()
        });
        let version = VersionHash::new;
        let backend = |name: &str, role, address| Backend {
            version: version(name),
            role,
            endpoints: [address].into(),
            transport: Default::default(),
        };
        let routing = Routing {
            backends: vec![backend("stable", Role::Stable, self.stable), backend("canary", Role::Canary, self.canary)],
            split: Shares::new(vec![(version("stable"), 100 - percent), (version("canary"), percent)])
                .expect("the steps are shares of 100"),
            routes: Vec::new(),
            sticky: None,
            override_: None,
            policy: Policy { version_header: Some(HeaderName::from_static("splitway-version")), ..Policy::default() },
        };
        let observed = Observed::plain(vec![routing], "demo");
        // Nobody listens any more: the demo ends.
        let _ = self.observations.send(Ok(observed)).await;
    }
}

async fn walk(
    options: &Options,
    rollout: &Rollout,
    running: &Running,
    load: &Load,
    table: &mut Table,
) -> io::Result<()> {
    loop {
        for (i, percent) in STEPS.into_iter().enumerate() {
            if let Some(why) = stay(options, rollout, running, load, table, At::Step(i, percent)).await? {
                table.close()?;
                writeln!(io::stdout(), "aborted at step {} of {}: {why}", i + 1, STEPS.len())?;
                stay(options, rollout, running, load, table, At::Aborted(i, &why)).await?;
                break;
            }
            if i + 1 == STEPS.len() {
                let next = Generation(running.live().generation().0 + 1);
                rollout.ask(percent, at_step(STEPS.len())).await;
                running.reached(next).await;
            }
        }
        if options.once {
            return Ok(());
        }
    }
}

/// Where the walk is.
enum At<'a> {
    /// The step, from 0, and its share in per cent.
    Step(usize, u32),
    Aborted(usize, &'a str),
}

/// Stays for the time of a step. Returns early, with the reason, if the canary fails too often.
async fn stay(
    options: &Options,
    rollout: &Rollout,
    running: &Running,
    load: &Load,
    table: &mut Table,
    at: At<'_>,
) -> io::Result<Option<String>> {
    let refresh = if table.rewrites() { Duration::from_millis(250) } else { Duration::from_secs(1) };
    let next = Generation(running.live().generation().0 + 1);
    let (number, percent) = match at {
        At::Step(step, percent) => {
            rollout.ask(percent, at_step(step)).await;
            (step + 1, percent)
        }
        At::Aborted(step, why) => {
            rollout.ask(0, aborted(step, why)).await;
            (0, 0)
        }
    };
    running.reached(next).await;
    let before = Reading::take(running);
    let begun = Instant::now();
    loop {
        let left = options.step.saturating_sub(begun.elapsed());
        tokio::time::sleep(refresh.min(left)).await;
        let why = matches!(at, At::Step(..)).then(|| failing(running)).flatten();
        let last = begun.elapsed() >= options.step || why.is_some();
        let now = Reading::take(running);
        table.row(&before.row_until(&now, number, percent, begun.elapsed(), load), last)?;
        if last {
            return Ok(why);
        }
    }
}

/// The canary's side of the split's account.
struct Account {
    requests: u64,
    asked: f64,
    canary: u64,
}

impl Account {
    /// Counters are read one after another while requests come in; a reading in which they agree is soon found.
    fn take(running: &Running) -> Self {
        let snapshot = running.live().current(0);
        let read = || metrics::Account::of(&running.metrics().totals(), 0, snapshot.as_deref());
        let agrees = |account: &metrics::Account| {
            account.versions.iter().map(|version| version.sent).sum::<u64>() == account.requests
        };
        let account = (0..100).map(|_| read()).find(agrees).unwrap_or_else(read);
        let canary = account.versions.iter().find(|version| version.version.as_str() == "canary");
        let (asked, canary) = canary.map_or((0.0, 0), |canary| (canary.asked_requests, canary.sent));
        Self { requests: account.requests, asked, canary }
    }

    fn error(&self) -> f64 {
        self.canary as f64 - self.asked
    }
}

/// The latencies of both versions together.
fn latency(running: &Running) -> QuantileCounts {
    let mut all = QuantileCounts::default();
    for version in &running.metrics().totals().versions {
        all.add(&version.quantiles);
    }
    all
}

/// The counters at one moment.
struct Reading {
    split: Account,
    latency: QuantileCounts,
}

impl Reading {
    fn take(running: &Running) -> Self {
        Self { split: Account::take(running), latency: latency(running) }
    }

    fn row_until(&self, now: &Self, step: usize, asked: u32, elapsed: Duration, load: &Load) -> Row {
        let requests = now.split.requests - self.split.requests;
        let canary = now.split.canary - self.split.canary;
        let per_second = |count: u64| count as f64 / elapsed.as_secs_f64();
        let latency = now.latency.since(&self.latency);
        Row {
            step,
            steps: STEPS.len(),
            asked: f64::from(asked),
            sent: (requests > 0).then(|| canary as f64 / requests as f64 * 100.0),
            error: now.split.error(),
            stable_rate: per_second(requests - canary),
            canary_rate: per_second(canary),
            p50: latency.quantile(0.5),
            p99: latency.quantile(0.99),
            failed: load.counts.failed.load(Ordering::Relaxed),
            lost: load.counts.lost.load(Ordering::Relaxed),
        }
    }
}
