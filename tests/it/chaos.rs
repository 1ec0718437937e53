//! Faults of every kind between the proxy and the endpoints, under load, by chance from a seed: every request is accounted
//! for.
//!
//! `CHAOS_SEED=1 CHAOS_SECONDS=600 cargo test --test it chaos` plays it again, and for longer.

use std::cell::Cell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use splitway::route::Role;
use tokio::net::TcpListener;

use crate::faulty::{Faults, Link};
use crate::random::Random;
use crate::support::*;

const CLIENTS: usize = 12;
/// The canary's share.
const WEIGHT: u32 = 30;
/// After a fault has ended the proxy may still find connections that it has broken.
const GRACE: Duration = Duration::from_secs(1);
/// Faults go on for so long, and then pause for so long beyond the grace.
const NOISE: Duration = Duration::from_secs(3);
const CALM: Duration = Duration::from_millis(500);

#[tokio::test]
async fn under_faults_every_request_is_accounted_for() {
    let seed = number("CHAOS_SEED").unwrap_or_else(|| RandomState::new().hash_one("seed") >> 32);
    let length = Duration::from_secs(number("CHAOS_SECONDS").unwrap_or(10));
    say(&format!("chaos: CHAOS_SEED={seed} for {length:?}"));

    let ledger = Arc::new(Ledger::default());
    let mut links = Vec::new();
    for name in ["v1", "v1", "v1", "v2", "v2"] {
        let application = application(name, ledger.clone()).await;
        links.push((name, Link::to(application, seed + links.len() as u64).await));
    }
    let of = |version: &str| -> Vec<SocketAddr> {
        links.iter().filter(|(name, _)| *name == version).map(|(_, link)| link.address).collect()
    };
    let mut routing =
        routing(&[("v1", Role::Stable, 100 - WEIGHT, &of("v1")), ("v2", Role::Canary, WEIGHT, &of("v2"))]);
    routing.policy.timeouts.connect = Duration::from_millis(300);
    routing.policy.timeouts.first_byte = Duration::from_millis(600);
    // An answer of which something was swallowed never ends by itself.
    routing.policy.timeouts.request = Some(Duration::from_secs(3));
    let proxy = Proxy::start(routing).await;
    // Every second client has a bad line, too, but only a slow one.
    let slow = Link::to(proxy.address, seed).await;
    let line = Faults { slice: Some(700), jitter: Duration::from_micros(300), ..Faults::default() };
    slow.set(line, line);

    let end = Instant::now() + length;
    let clients: Vec<_> = (0..CLIENTS as u64)
        .map(|client| {
            let address = if client.is_multiple_of(2) { proxy.address } else { slow.address };
            tokio::spawn(send(address, client, Random::new(seed, client), ledger.clone(), end))
        })
        .collect();
    let faults = misbehave(&links, Random::new(seed, u64::MAX), end).await;
    let mut outcomes = Vec::new();
    for client in clients {
        outcomes.extend(client.await.expect("a client does not panic"));
    }

    let (mut answered, mut failed) = (0, HashMap::<&str, u64>::new());
    for outcome in &outcomes {
        match &outcome.failure {
            None => answered += 1,
            Some(failure) => {
                *failed.entry(failure).or_default() += 1;
                let blamed = faults.iter().any(|(from, to)| outcome.begun <= *to + GRACE && *from <= outcome.ended);
                assert!(blamed, "seed {seed}: request {} failed ({failure}) without a fault", outcome.id);
            }
        }
    }
    say(&format!(
        "chaos: {answered} whole answers, failures by reason {failed:?}, {} faults that break, {} connections broken",
        faults.len(),
        links.iter().map(|(_, link)| link.broken()).sum::<u64>()
    ));
    // A connection carries one request at a time, so no more of them can have died with it.
    let broken: u64 = links.iter().map(|(_, link)| link.broken()).sum();
    let closed = failed.get("upstream_closed").copied().unwrap_or_default();
    assert!(closed <= broken, "seed {seed}: {closed} requests died with {broken} connections");
    let wrong = ledger.wrong.lock().unwrap().clone();
    assert!(wrong.is_empty(), "seed {seed}: {wrong:?}");
    {
        let arrivals = ledger.arrivals.lock().unwrap();
        let twice: Vec<_> = arrivals.iter().filter(|(_, arrival)| arrival.post && arrival.times > 1).collect();
        assert!(twice.is_empty(), "seed {seed}: sent twice: {twice:?}");
        let lost: Vec<_> = outcomes
            .iter()
            .filter(|outcome| outcome.failure.is_none() && !arrivals.contains_key(&outcome.id))
            .collect();
        assert!(lost.is_empty(), "seed {seed}: answered by nobody: {lost:?}");
    }
    // Otherwise nothing was tried.
    assert!(answered > 100 && !failed.is_empty() && !faults.is_empty(), "seed {seed}: {answered} {failed:?}");

    heals(&proxy, seed).await;
    proxy.running.stop();
}

/// Without faults everything is as it was: nobody fails, and the split is right.
async fn heals(proxy: &Proxy, seed: u64) {
    let mut client = proxy.client().await;
    let batch = async |client: &mut Client, requests: u64| {
        let (mut canary, mut failed) = (0u64, 0u64);
        for n in 0..requests {
            match client.get(&format!("/healed/{}/{}", u64::MAX - n, n % 5000)).await {
                answer if answer.status != 200 => failed += 1,
                answer if answer.app() == "v2" => canary += 1,
                _ => {}
            }
        }
        (canary, failed)
    };
    // What was broken may have to be found out first.
    let off = Cell::new((0u64, 0u64));
    eventually("a split as before", async || {
        off.set(batch(&mut client, 100).await);
        let (canary, failed) = off.get();
        failed == 0 && canary.abs_diff(u64::from(WEIGHT)) <= 1
    })
    .await;
    let (canary, failed) = batch(&mut client, 1000).await;
    assert_eq!(failed, 0, "seed {seed}");
    assert!(canary.abs_diff(u64::from(WEIGHT) * 10) <= 1, "seed {seed}: {canary} of 1000 to the canary");
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}: expected a number, found {text:?}")))
}

/// Past the test harness, which keeps what a passing test prints to itself.
fn say(text: &str) {
    use std::io::Write;
    // Nobody may be listening.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Sets and takes back faults until the end, and returns when there were any that break something.
async fn misbehave(links: &[(&str, Link)], mut random: Random, end: Instant) -> Vec<(Instant, Instant)> {
    let mut broken = Vec::new();
    let mut since: Vec<Option<Instant>> = vec![None; links.len()];
    let mut calm = Instant::now() + NOISE;
    while Instant::now() < end {
        if Instant::now() > calm {
            // All is well for a while, in which nobody may fail once what was broken has been found out.
            for (at, (_, link)) in links.iter().enumerate() {
                link.heal();
                broken.extend(since[at].take().map(|since| (since, Instant::now())));
            }
            tokio::time::sleep(GRACE + CALM).await;
            calm = Instant::now() + NOISE;
        }
        let at = random.below(links.len());
        let link = &links[at].1;
        if let Some(since) = since[at].take() {
            broken.push((since, Instant::now()));
        }
        link.heal();
        // Half of the time a link is well.
        let harmless = match random.below(12) {
            0 => {
                link.down();
                false
            }
            1..=6 => {
                let (there, back) = (by_chance(&mut random), by_chance(&mut random));
                link.set(there, back);
                there.is_harmless() && back.is_harmless()
            }
            _ => true,
        };
        if !harmless {
            since[at] = Some(Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(20 + random.below(150) as u64)).await;
    }
    for (at, (_, link)) in links.iter().enumerate() {
        link.heal();
        broken.extend(since[at].map(|since| (since, Instant::now())));
    }
    broken
}

fn by_chance(random: &mut Random) -> Faults {
    let mut faults = Faults::default();
    for _ in 0..=random.below(2) {
        match random.below(9) {
            0 => faults.latency = Duration::from_millis(random.below(40) as u64),
            1 => faults.jitter = Duration::from_millis(random.below(40) as u64),
            2 => faults.bandwidth = Some(200_000 + random.below(2_000_000) as u64),
            3 => faults.slice = Some(1 + random.below(200)),
            4 => faults.slow_close = Duration::from_millis(random.below(200) as u64),
            5 => faults.swallow = true,
            6 => faults.cut_after = Some(random.below(60_000) as u64),
            7 => faults.reset_after = Some(random.below(60_000) as u64),
            _ => {}
        }
    }
    faults
}

/// What the applications have seen.
#[derive(Default)]
struct Ledger {
    /// By the request's id.
    arrivals: Mutex<HashMap<u64, Arrival>>,
    /// What must never happen.
    wrong: Mutex<Vec<String>>,
}

#[derive(Debug)]
struct Arrival {
    times: u32,
    post: bool,
}

impl Ledger {
    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }
}

/// The bytes of a body: no two have the same.
fn pattern(id: u64, length: usize) -> Vec<u8> {
    let mut random = Random::new(id, length as u64);
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
    bytes.truncate(length);
    bytes
}

/// An endpoint. `/x/ID/LENGTH` is answered with so many bytes that only this request has; its body must be as unique.
async fn application(name: &'static str, ledger: Arc<Ledger>) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a loopback port");
    let address = listener.local_addr().expect("a bound socket");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let ledger = ledger.clone();
            let service = service_fn(move |request| answer(name, ledger.clone(), request));
            tokio::spawn(async move {
                // A link that breaks it is no failure of ours.
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

async fn answer(
    name: &'static str,
    ledger: Arc<Ledger>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut words = request.uri().path().split('/').skip(2).map(|word| word.parse::<u64>().ok());
    let (Some(Some(id)), Some(Some(length))) = (words.next(), words.next()) else {
        ledger.wrong(format!("a target that nobody sent: {}", request.uri()));
        return Ok(Response::new(Full::default()));
    };
    let post = request.method() == Method::POST;
    ledger.arrivals.lock().unwrap().entry(id).or_insert(Arrival { times: 0, post }).times += 1;
    let upload = request.headers().get("x-upload").and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
    // A body that is cut must be seen as cut.
    if let Ok(body) = request.into_body().collect().await
        && body.to_bytes() != pattern(id, upload)
    {
        ledger.wrong(format!("the body of {id} looked whole"));
    }
    let mut answer = Response::new(Full::from(pattern(id, length as usize)));
    answer.headers_mut().insert("x-app", http::HeaderValue::from_static(name));
    answer.headers_mut().insert("x-tag", id.into());
    Ok(answer)
}

#[derive(Debug)]
struct Outcome {
    id: u64,
    begun: Instant,
    ended: Instant,
    /// The proxy's reason, or `cut`.
    failure: Option<String>,
}

/// One client, request after request.
async fn send(address: SocketAddr, client: u64, mut random: Random, ledger: Arc<Ledger>, end: Instant) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let mut connection = Client::connect(address).await;
    while Instant::now() < end {
        let id = (client << 32) + outcomes.len() as u64;
        let length = [0, 10, 3000, 100_000][random.below(4)];
        let target = format!("/chaos/{id}/{length}");
        let upload = if random.once_in(2) { [0, 10, 5000, 100_000][random.below(4)] } else { 0 };
        let request = if random.once_in(2) { Request::post(target) } else { Request::get(target) };
        let begun = Instant::now();
        let request = request.header("x-upload", upload);
        let failure = match connection.try_send(request, pattern(id, upload)).await {
            Ok(answer) if answer.status == 200 => {
                let own = answer.header("x-tag") == id.to_string() && answer.body == pattern(id, length);
                if !own {
                    ledger.wrong(format!("{id} got {:?} with {} bytes", answer.header("x-tag"), answer.body.len()));
                }
                None
            }
            Ok(answer) if !answer.reason().is_empty() => Some(answer.reason().to_owned()),
            Ok(answer) => {
                ledger.wrong(format!("{id} was answered {} without a reason", answer.status));
                None
            }
            Err(_) => {
                connection = Client::connect(address).await;
                Some("cut".to_owned())
            }
        };
        outcomes.push(Outcome { id, begun, ended: Instant::now(), failure });
    }
    outcomes
}
