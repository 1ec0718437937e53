//! A differential fuzz harness: mutated streams of requests into the real proxy, and behind it a parser of ours that
//! understands one thing or nothing. What arrives there is held against what the same parser reads in the bytes that
//! were sent. Four things must never happen; see [`application::Kind`].
//!
//! ```text
//! cargo test --test fuzz                              20,000 mutants with a new seed, which is printed
//! FUZZ_MUTANTS=1000000 cargo test --test fuzz         more
//! FUZZ_SEED=1 FUZZ_ONLY=4711 cargo test --test fuzz   one of them again
//! ```
//!
//! Files, in reading order:
//!
//! * this one: connections, neighbours, the report;
//! * `strict`: the parser;
//! * `application`: what arrives, and what is wrong with it;
//! * `http2`: the same with HTTP/2 in front;
//! * `mutate`, `words`: the streams; `corpus/requests.txt` is what they are made of, and `corpus/found` what was wrong once;
//! * `replay`: the inputs of `fuzz/`, which are no streams.

mod application;
mod http2;
mod mutate;
mod random;
mod replay;
mod strict;
#[path = "../../fuzz/targets.rs"]
mod targets;
mod words;

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use splitway::control::Observed;
use splitway::proxy::{Drain, Listener};
use splitway::route::policy::Policy;
use splitway::route::{Backend, Generation, Identity, PortName, Role, Routing, Shares, VersionHash};
use splitway::{Running, Settings, control, proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use application::{Kind, World};
use mutate::{Corpus, Mutant, escape};
use random::Random;
use strict::{Answer, End, Not};

/// Client connections at once.
const LANES: usize = 32;
/// Findings after which there is no point in going on.
const ENOUGH: usize = 20;
/// Beyond the numbers of mutants: the requests of their neighbours.
const NEIGHBOUR: u64 = 1 << 40;

/// What was wrong once: these are the first mutants of every run.
const FOUND: &[&str] = &[
    include_str!("corpus/found/another-scheme.txt"),
    include_str!("corpus/found/close-beside-another-alphabet.txt"),
    include_str!("corpus/found/empty-path.txt"),
    include_str!("corpus/found/host-of-a-port.txt"),
    include_str!("corpus/found/host-with-a-strange-port.txt"),
    include_str!("corpus/found/length-beside-chunked.txt"),
    include_str!("corpus/found/length-beyond-63-bits.txt"),
    include_str!("corpus/found/length-twice.txt"),
    include_str!("corpus/found/line-feed-alone.txt"),
    include_str!("corpus/found/line-feed-before-trailers.txt"),
    include_str!("corpus/found/nul-in-a-chunk-extension.txt"),
];

#[test]
fn no_stream_of_requests_means_something_else_behind_the_proxy() {
    fuzz(Front::Http1);
}

#[test]
fn no_list_of_fields_means_something_else_behind_the_proxy() {
    fuzz(Front::Http2);
}

/// What the clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Front {
    Http1,
    Http2,
}

fn fuzz(front: Front) {
    let seed = number("FUZZ_SEED").unwrap_or_else(|| RandomState::new().hash_one("seed") >> 32);
    let numbers = match number("FUZZ_ONLY") {
        Some(only) => only..only + 1,
        None => 0..number("FUZZ_MUTANTS").unwrap_or(20_000),
    };
    say(&format!("fuzz: {front:?}, FUZZ_SEED={seed}, mutants {} to {}", numbers.start, numbers.end - 1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, run(front, seed, numbers));
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}: expected a number, found {text:?}")))
}

/// Past the test harness, which keeps what a passing test prints to itself.
fn say(text: &str) {
    // Nobody may be listening.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Everything that the lanes share.
struct Run {
    front: Front,
    world: Rc<World>,
    corpus: Corpus,
    seed: u64,
    proxy: SocketAddr,
    next: Cell<u64>,
    end: u64,
    ends: std::cell::RefCell<BTreeMap<&'static str, u64>>,
}

async fn run(front: Front, seed: u64, numbers: std::ops::Range<u64>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a loopback port");
    let application = listener.local_addr().expect("a bound socket");
    let world = Rc::new(World::default());
    let serving = tokio::task::spawn_local(application::serve(world.clone(), listener));
    let (running, observations) = start(application).await;
    let run = Rc::new(Run {
        front,
        world: world.clone(),
        corpus: Corpus::new(include_str!("corpus/requests.txt"), FOUND),
        seed,
        proxy: running.listeners()[0],
        next: Cell::new(numbers.start),
        end: numbers.end,
        ends: Default::default(),
    });
    let begun = Instant::now();
    let lanes: Vec<_> = (0..LANES).map(|_| tokio::task::spawn_local(lane(run.clone()))).collect();
    for lane in lanes {
        lane.await.expect("a lane does not panic");
    }
    let (mutants, seconds) = (run.next.get() - numbers.start, begun.elapsed().as_secs_f64());
    let arrived = *world.arrived.borrow();
    say(&format!(
        "fuzz: {front:?}, {mutants} mutants in {seconds:.1} s ({:.0}/s), {arrived} requests upstream; how the strict parser saw the streams end: {:?}",
        mutants as f64 / seconds,
        run.ends.borrow()
    ));
    serving.abort();
    drop(observations);
    tokio::task::spawn_blocking(|| running.stop()).await.expect("the workers end");

    let findings = world.findings.borrow();
    let mut kinds = BTreeMap::<Kind, usize>::new();
    let mut told = HashSet::new();
    for finding in findings.iter() {
        *kinds.entry(finding.kind).or_default() += 1;
        let mutant = finding.mutant % NEIGHBOUR;
        // One thing that is wrong shows in several places.
        if !told.insert(mutant) {
            continue;
        }
        say(&format!(
            "\n{}: {} (seed {seed}, mutant {}{})\nsent:\n{}\narrived:\n{}\nagain: FUZZ_SEED={seed} FUZZ_ONLY={mutant} cargo test --test fuzz {}",
            finding.kind,
            finding.why,
            mutant,
            if finding.mutant >= NEIGHBOUR { "'s neighbour" } else { "" },
            escape(&match front {
                Front::Http1 => run.corpus.mutant(seed, mutant).bytes,
                Front::Http2 => http2::shown(&http2::mutant(seed, mutant)),
            }),
            escape(&finding.bytes[..finding.bytes.len().min(4000)]),
            if front == Front::Http1 { "no_stream" } else { "no_list" },
        ));
    }
    assert!(findings.is_empty(), "seed {seed}: {kinds:?}");
    // A harness that reaches nothing proves nothing.
    assert!(
        mutants < 1000 || arrived > mutants,
        "only {arrived} requests of {mutants} mutants and their neighbours arrived"
    );
}

/// The real proxy with one worker, so that all connections share what there is to share.
async fn start(application: SocketAddr) -> (Running, control::Sender) {
    let version = VersionHash::new("v1");
    let routing = Routing {
        backends: vec![Backend {
            version: version.clone(),
            role: Role::Stable,
            endpoints: [application].into(),
            transport: Default::default(),
        }],
        split: Shares::all(version),
        routes: Vec::new(),
        sticky: None,
        override_: None,
        policy: Policy::default(),
    };
    let settings = Settings {
        proxy: proxy::Settings {
            listeners: vec![Listener::plain(SocketAddr::from(([127, 0, 0, 1], 0)), 0)],
            workers: 1,
            reuse_port: false,
            drain: Drain { delay: Duration::ZERO, timeout: Duration::from_secs(10) },
        },
        admin: None,
        identity: Identity::random(),
        ports: vec![PortName::default()],
        following: None,
        aliases: Vec::new(),
        record: Default::default(),
    };
    let (observations, receiver) = control::channel();
    let running = splitway::bind(settings).expect("free ports").start(receiver).expect("threads");
    observations.send(Ok(Observed::plain(vec![routing], "fuzz"))).await.expect("the proxy runs");
    running.reached(Generation(1)).await;
    (running, observations)
}

/// One client after another, each with a mutant, and an innocent one beside them on a connection of its own.
async fn lane(run: Rc<Run>) {
    let mut neighbour = None;
    loop {
        let number = run.next.get();
        if number >= run.end || run.world.findings.borrow().len() >= ENOUGH {
            return;
        }
        run.next.set(number + 1);
        if number % 100_000 == 99_999 {
            say(&format!("fuzz: {:?}, {} mutants", run.front, number + 1));
        }
        match run.front {
            Front::Http1 => one(&run, number).await,
            Front::Http2 => two(&run, number).await,
        }
        if number.is_multiple_of(2) {
            greet(&run, &mut neighbour, NEIGHBOUR + number).await;
        }
        // By now nothing of an earlier one can be on its way.
        if let Some(old) = number.checked_sub(1000 * LANES as u64) {
            run.world.forget(old);
            run.world.forget(NEIGHBOUR + old);
        }
    }
}

async fn one(run: &Run, number: u64) {
    let mutant = run.corpus.mutant(run.seed, number);
    let (requests, end) = strict::stream(&mutant.bytes);
    *run.ends.borrow_mut().entry(word(end)).or_default() += 1;
    run.world.expect(number, requests.clone(), true);
    let received = exchange(run.proxy, &mutant, &requests, end).await;
    if let Err((kind, why)) = judge(&received, &requests) {
        run.world.find(kind, number, why, &received);
    }
}

async fn two(run: &Run, number: u64) {
    let streams = http2::mutant(run.seed, number);
    let requests: Vec<_> = streams.iter().filter_map(http2::Stream::read).collect();
    let end = if requests.len() == streams.len() { "clean" } else { "refused" };
    *run.ends.borrow_mut().entry(end).or_default() += 1;
    run.world.expect(number, requests, false);
    if let Err((kind, why)) = http2::exchange(run.proxy, &streams, &mut Random::new(run.seed ^ 3, number)).await {
        run.world.find(kind, number, why, &[]);
    }
}

fn word(end: End) -> &'static str {
    match end {
        End::Clean => "clean",
        End::Unfinished(_) => "unfinished",
        End::Refused(_) => "refused",
        End::Closed => "closed",
    }
}

/// Sends a mutant over a fresh connection, and returns everything that comes back.
async fn exchange(proxy: SocketAddr, mutant: &Mutant, requests: &[strict::Request], end: End) -> Vec<u8> {
    let mut stream = TcpStream::connect(proxy).await.expect("the proxy accepts");
    stream.set_nodelay(true).expect("a living socket");
    let mut from = 0;
    for cut in mutant.cuts.iter().copied().chain([mutant.bytes.len()]) {
        // A proxy that has refused already may be gone.
        if stream.write_all(&mutant.bytes[from..cut]).await.is_err() {
            break;
        }
        from = cut;
        // The proxy, on its own thread, reads in the meantime.
        tokio::task::yield_now().await;
    }
    let mut received = Vec::new();
    loop {
        // How long the proxy may be silent before the client concludes that it waits for more.
        let patience = match end {
            End::Closed => Duration::from_secs(10),
            // It need not refuse what a strict parser refuses.
            End::Refused(_) => Duration::from_millis(50),
            End::Clean | End::Unfinished(_) if answers(&received, requests).0.len() < requests.len() => {
                Duration::from_secs(10)
            }
            End::Clean | End::Unfinished(_) => Duration::from_millis(3),
        };
        match tokio::time::timeout(patience, stream.read_buf(&mut received)).await {
            Ok(Ok(read)) if read > 0 => {}
            _ => return received,
        }
    }
}

/// The final answers in what came back, and what is left of it.
fn answers<'a>(mut bytes: &'a [u8], requests: &[strict::Request]) -> (Vec<Answer>, &'a [u8], Option<&'static str>) {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let head = requests.get(answers.len()).is_some_and(|request| request.method == "HEAD");
        match strict::answer(bytes, head) {
            Ok((answer, length)) => {
                bytes = &bytes[length..];
                // What is refused before its method is known is refused with a body, and the connection ends with it.
                if head && answer.status >= 400 && answer.fields.iter().any(|field| field.0 == "connection") {
                    bytes = &[];
                }
                if answer.status >= 200 {
                    answers.push(answer);
                }
            }
            Err(Not::Ever(why)) => return (answers, bytes, Some(why)),
            Err(Not::Yet(_)) => break,
        }
    }
    (answers, bytes, None)
}

/// Answers come in the order of the requests, each with its own request's tag; all others are refusals.
fn judge(received: &[u8], requests: &[strict::Request]) -> Result<(), (Kind, String)> {
    let (answers, rest, garbled) = answers(received, requests);
    if let Some(why) = garbled {
        return Err((Kind::Harmed, format!("an answer that is none: {why}: {}", escape(rest))));
    }
    for (at, answer) in answers.iter().enumerate() {
        let tags: Vec<_> = answer.fields.iter().filter(|field| field.0 == "x-tag").collect();
        let sent =
            requests.get(at).and_then(mutate::tag).map(|(mutant, place)| format!("q{mutant}-{place}").into_bytes());
        let own = match tags.as_slice() {
            // The proxy's own.
            [] => answer.status >= 400 || answer.fields.iter().any(|field| field.0 == "x-splitway-reason"),
            [one] => sent.as_ref() == Some(&one.1) && (answer.body.is_empty() || answer.body.starts_with(&one.1)),
            _ => false,
        };
        if !own {
            return Err((Kind::Harmed, format!("answer {at} is another's")));
        }
    }
    Ok(())
}

/// An innocent request, which must arrive as it is and be answered with its own answer.
async fn greet(run: &Run, connection: &mut Option<TcpStream>, number: u64) {
    let body = if number.is_multiple_of(3) { "innocent" } else { "" };
    let text = if body.is_empty() {
        format!("GET /q{number}-0?a=b HTTP/1.1\r\nHost: innocent\r\nX-N: q{number}-0\r\n\r\n")
    } else {
        format!("POST /q{number}-0 HTTP/1.1\r\nHost: innocent\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let (requests, _) = strict::stream(text.as_bytes());
    run.world.expect(number, requests.clone(), true);
    let mut received = Vec::new();
    let asked = async {
        let stream = match connection {
            Some(stream) => stream,
            None => connection.insert(TcpStream::connect(run.proxy).await?),
        };
        stream.write_all(text.as_bytes()).await?;
        while answers(&received, &requests).0.is_empty() {
            if stream.read_buf(&mut received).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok::<_, std::io::Error>(())
    };
    let outcome = tokio::time::timeout(Duration::from_secs(10), asked).await;
    let why = match outcome {
        Err(_) => "no answer".to_owned(),
        Ok(Err(error)) => format!("no answer: {error}"),
        Ok(Ok(())) => match judge(&received, &requests) {
            Err((_, why)) => why,
            Ok(()) if answers(&received, &requests).0[0].status != 200 => "refused".to_owned(),
            Ok(()) => return,
        },
    };
    *connection = None;
    run.world.find(Kind::Harmed, number, why, &received);
}
