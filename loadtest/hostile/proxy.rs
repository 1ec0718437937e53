//! The proxy under attack: the real program with its defaults, and what it costs.

use std::io::BufRead;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::clock;

/// A proxy at work. Dropping it ends its process.
pub struct Proxy {
    pub address: SocketAddr,
    admin: SocketAddr,
    child: Child,
}

impl Proxy {
    /// `descriptors`: how many it may have.
    pub fn start(binary: &Path, app: SocketAddr, descriptors: Option<u32>) -> Result<Self, String> {
        let problem = |text: String| format!("cannot start {}: {text}", binary.display());
        // Should this program be killed, the proxy goes, too. (`setpriv`, of util-linux, becomes the next program.)
        let limit = descriptors.map_or(String::new(), |most| format!("ulimit -n {most}; "));
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--", "sh", "-c", &format!("{limit}exec \"$0\" \"$@\"")])
            .arg(binary)
            .args(["run", "--print-addresses", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--stable", &app.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| problem(format!("setpriv (package util-linux): {error}")))?;
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        std::io::BufReader::new(out).read_line(&mut line).map_err(|error| problem(error.to_string()))?;
        let said = serde_json::from_str::<serde_json::Value>(&line).unwrap_or_default();
        let address = |value: &serde_json::Value| value.as_str().and_then(|text| text.parse::<SocketAddr>().ok());
        match (address(&said["listeners"][0]), address(&said["admin"])) {
            (Some(address), Some(admin)) => Ok(Self { address, admin, child }),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                Err(problem(format!("expected its addresses as JSON, found {line:?}")))
            }
        }
    }

    /// CPU time so far, of all threads.
    pub fn cpu(&self) -> Result<Duration, String> {
        clock::spent(self.child.id()).map_err(|error| format!("the proxy is gone: {error}"))
    }

    /// Memory that is really there, in bytes.
    pub fn memory(&self) -> Result<u64, String> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(&path).map_err(|error| format!("the proxy is gone: {path}: {error}"))?;
        let kib =
            text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| format!("expected VmRSS in {path}, found none: the proxy has ended"))
    }

    /// The words of `splitway_refused_requests_total` that are not 0, each with its number.
    pub async fn refused(&self) -> Result<Vec<(String, u64)>, String> {
        let text = async {
            let mut stream = TcpStream::connect(self.admin).await?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            std::io::Result::Ok(text)
        };
        let text = text.await.map_err(|error| format!("cannot read /metrics: {error}"))?;
        let word = |line: &str| {
            let (word, count) = line.strip_prefix("splitway_refused_requests_total{failure=\"")?.split_once("\"} ")?;
            Some((word.to_owned(), count.parse::<f64>().ok()? as u64))
        };
        Ok(text.lines().filter_map(word).filter(|(_, count)| *count > 0).collect())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // An error: it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
