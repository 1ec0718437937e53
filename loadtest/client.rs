//! The load: keep-alive connections in a closed loop, one request after the other on each, and the checks on every
//! answer.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Scenario;
use crate::contestant::Contestant;

pub struct Load {
    pub connections: u32,
    /// Load before the measurement, so that connections to the servers exist.
    pub warm_up: Duration,
    pub window: Duration,
}

/// What one measurement found.
#[derive(Clone, Debug)]
pub struct Sample {
    pub requests: u64,
    /// How many of them the canary answered.
    pub canary: u64,
    pub errors: u64,
    pub first_error: Option<String>,
    /// CPU time of the proxy, all its threads and children.
    pub cpu: Duration,
    pub elapsed: Duration,
}

impl Sample {
    pub fn cpu_us_per_request(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.requests as f64
    }
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }
    pub fn canary_share(&self) -> f64 {
        self.canary as f64 / self.requests as f64
    }
}

#[derive(Default)]
struct Counts {
    requests: Cell<u64>,
    canary: Cell<u64>,
    errors: Cell<u64>,
    first_error: RefCell<Option<String>>,
    stop: Cell<bool>,
}

fn add(cell: &Cell<u64>, amount: u64) {
    cell.set(cell.get() + amount);
}

/// Loads one proxy and reads its CPU clock before and after.
pub async fn measure(contestant: &Contestant, scenario: &'static Scenario, load: &Load) -> Result<Sample, String> {
    let counts = Rc::new(Counts::default());
    let tasks: Vec<_> = (0..load.connections)
        .map(|_| tokio::task::spawn_local(work(contestant.address, scenario, counts.clone())))
        .collect();
    tokio::time::sleep(load.warm_up).await;

    let (cpu, started) = (contestant.cpu()?, Instant::now());
    let (requests, canary) = (counts.requests.get(), counts.canary.get());
    tokio::time::sleep(load.window).await;
    let (cpu, elapsed) = (contestant.cpu()? - cpu, started.elapsed());
    let (requests, canary) = (counts.requests.get() - requests, counts.canary.get() - canary);

    counts.stop.set(true);
    for task in tasks {
        if tokio::time::timeout(Duration::from_secs(5), task).await.is_err() {
            return Err(format!("{}: a request did not end within 5 seconds", contestant.kind.as_str()));
        }
    }
    if requests == 0 {
        let why = counts.first_error.borrow().clone().unwrap_or_default();
        return Err(format!("{}: no request was answered. {why}", contestant.kind.as_str()));
    }
    let first_error = counts.first_error.borrow().clone();
    Ok(Sample { requests, canary, errors: counts.errors.get(), first_error, cpu, elapsed })
}

/// Before anything is measured: 1000 requests, of which the canary must get about 100, all of them answered in full.
pub async fn verify(contestant: &Contestant, scenario: &'static Scenario) -> Result<(), String> {
    let problem = |text: String| format!("{}, {}: {text}", contestant.kind.as_str(), scenario.name);
    let mut canary = 0;
    let check = async {
        let mut connection = Connection::open(contestant.address, scenario).await?;
        for _ in 0..1000 {
            canary += u32::from(connection.exchange().await? == b'c');
        }
        Ok::<_, io::Error>(())
    };
    tokio::time::timeout(Duration::from_secs(30), check)
        .await
        .map_err(|_| problem("1000 requests took more than 30 seconds".to_owned()))?
        .map_err(|error| problem(error.to_string()))?;
    // Far outside of what even a random split would do (5 standard deviations).
    if (53..=147).contains(&canary) {
        Ok(())
    } else {
        Err(problem(format!("expected about 100 of 1000 requests at the canary, found {canary}")))
    }
}

async fn work(address: SocketAddr, scenario: &'static Scenario, counts: Rc<Counts>) {
    while !counts.stop.get() {
        let outcome = async {
            let mut connection = Connection::open(address, scenario).await?;
            while !counts.stop.get() {
                let letter = connection.exchange().await?;
                add(&counts.requests, 1);
                add(&counts.canary, u64::from(letter == b'c'));
            }
            Ok::<_, io::Error>(())
        };
        if let Err(error) = outcome.await {
            add(&counts.errors, 1);
            counts.first_error.borrow_mut().get_or_insert_with(|| error.to_string());
            // So that a proxy that refuses everything is not stormed.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

struct Connection {
    stream: TcpStream,
    scenario: &'static Scenario,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr, scenario: &'static Scenario) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut request = format!(
            "{} {} HTTP/1.1\r\nhost: app.example\r\nuser-agent: loadtest\r\naccept: */*\r\n",
            scenario.method, scenario.path
        )
        .into_bytes();
        if scenario.upload > 0 {
            request.extend_from_slice(format!("content-length: {}\r\n", scenario.upload).as_bytes());
        }
        request.extend_from_slice(b"\r\n");
        request.resize(request.len() + scenario.upload, b'u');
        Ok(Self { stream, scenario, request, buffer: vec![0; 128 * 1024] })
    }

    /// Sends the request and reads the whole answer. Returns the letter of the server that wrote it.
    async fn exchange(&mut self) -> io::Result<u8> {
        self.stream.write_all(&self.request).await?;
        let mut filled = 0;
        let head = loop {
            if let Some(end) = self.buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            filled += self.read(filled).await?;
        };
        let text = std::str::from_utf8(&self.buffer[..head]).map_err(io::Error::other)?;
        let length = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        let status = text.get(9..12).unwrap_or_default();
        if status != "200" || length != Some(self.scenario.download) {
            let (wanted, first) = (self.scenario.download, text.lines().next().unwrap_or_default());
            return Err(io::Error::other(format!(
                "expected 200 with {wanted} bytes, found {first:?} with content-length {length:?}"
            )));
        }
        let end = head + self.scenario.download;
        while filled < end {
            filled += self.read(filled).await?;
        }
        let body = &self.buffer[head..end];
        let letter = body[0];
        let whole = if self.scenario.upload > 0 {
            body[1..] == *self.scenario.upload.to_string().as_bytes()
        } else {
            body[body.len() - 1] == letter
        };
        if filled > end || !whole || !matches!(letter, b's' | b'c') {
            return Err(io::Error::other("the answer's body is not what the server wrote"));
        }
        Ok(letter)
    }

    async fn read(&mut self, filled: usize) -> io::Result<usize> {
        match self.stream.read(&mut self.buffer[filled..]).await? {
            0 => Err(io::Error::other("the connection ended in the middle of an answer")),
            read => Ok(read),
        }
    }
}
