//! The proxy's process: how it is started and ended, and what the system and its own metrics say about it.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub struct Proxy {
    child: Child,
    pub listeners: Vec<SocketAddr>,
    pub admin: SocketAddr,
}

impl Proxy {
    /// Starts it, and waits until it listens.
    pub fn start(program: &Path, file: &Path, log: &Path) -> Result<Self, String> {
        let log = fs::File::create(log).map_err(|error| format!("cannot write {}: {error}", log.display()))?;
        let mut child = Command::new(program)
            .args(["run", "--print-addresses", "--admin", "127.0.0.1:0", "--config"])
            .arg(file)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        let mut line = String::new();
        let read = BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line);
        let mut proxy = Self { child, listeners: Vec::new(), admin: SocketAddr::from(([0; 4], 0)) };
        read.map_err(|error| format!("the proxy says nothing: {error}"))?;
        let addresses: Value =
            serde_json::from_str(&line).map_err(|error| format!("expected its addresses, found {line:?}: {error}"))?;
        let address = |value: &Value| value.as_str().and_then(|text| text.parse().ok()).ok_or("it names no addresses");
        proxy.listeners = addresses["listeners"]
            .as_array()
            .ok_or("it names no listeners")?
            .iter()
            .map(address)
            .collect::<Result<_, _>>()?;
        proxy.admin = address(&addresses["admin"])?;
        Ok(proxy)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|status| status.to_string())
    }

    /// Asks it to end, and says how it did.
    pub async fn stop(mut self, within: Duration) -> Result<(), String> {
        // Not waited for before, so its number is still its own.
        let asked = Command::new("kill").args(["-TERM", &self.id().to_string()]).status();
        if !asked.is_ok_and(|status| status.success()) {
            return Err("cannot send SIGTERM to the proxy".to_owned());
        }
        for _ in 0..within.as_millis() / 20 {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("the proxy ended with {status} after SIGTERM")),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        Err(format!("the proxy has not ended within {within:?} of SIGTERM"))
    }

    pub async fn metrics(&self) -> io::Result<Metrics> {
        let exchange = async {
            let mut stream = TcpStream::connect(self.admin).await?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            Ok(Metrics(text))
        };
        tokio::time::timeout(Duration::from_secs(10), exchange)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // An error: it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Metrics(String);

impl Metrics {
    /// The sum of all series of this name whose labels contain the text.
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        self.0
            .lines()
            .filter_map(|line| line.strip_prefix(name))
            .filter(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
            .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

/// What the system says about a process. Memory in KiB.
#[derive(Clone, Copy, Debug)]
pub struct System {
    pub resident: u64,
    /// Of that, what is no file's: heaps and stacks.
    pub anonymous: u64,
    pub threads: u64,
    pub descriptors: u64,
}

impl System {
    pub fn of(id: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{id}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        Ok(Self {
            resident: field("VmRSS:"),
            anonymous: field("RssAnon:"),
            threads: field("Threads:"),
            descriptors: fs::read_dir(format!("/proc/{id}/fd"))?.count() as u64,
        })
    }
}

/// User and system time of a process so far. The kernel counts in hundredths of a second.
pub fn cpu(id: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name, in parentheses, may hold anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    Ok(Duration::from_millis((ticks(11) + ticks(12)) * 10))
}
