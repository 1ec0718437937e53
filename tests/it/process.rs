//! The real binary as a child of the test. What the child says arrives as it says it; it ends with its guard, at the latest.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::support::{App, Client, soon};

/// The binary, with nothing in its environment but what the test says.
pub fn splitway(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_splitway"));
    command.args(args).env_clear().current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    command
}

/// What a command that ends by itself has said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Runs a command to its end.
pub fn said(command: &mut Command) -> Said {
    let output = command.output().expect("the binary starts");
    Said {
        code: output.status.code().expect("no signal has ended it"),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

pub fn run(args: &[&str]) -> Said {
    said(&mut splitway(args))
}

/// A child that runs until it is told to end.
pub struct Process {
    child: Child,
    out: mpsc::UnboundedReceiver<String>,
    /// Every line of stderr so far.
    log: watch::Receiver<Vec<String>>,
}

impl Process {
    pub fn start(args: &[&str]) -> Self {
        Self::spawn(&mut splitway(args))
    }

    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let (line, out) = mpsc::unbounded_channel();
        let (lines, log) = watch::channel(Vec::new());
        // Both threads end with the child's ends of the pipes.
        follow(child.stdout.take().expect("piped"), move |text| drop(line.send(text)));
        follow(child.stderr.take().expect("piped"), move |text| lines.send_modify(|lines| lines.push(text)));
        Self { child, out, log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line of stdout; `None` after the last.
    pub async fn line(&mut self) -> Option<String> {
        soon("a line of stdout", self.out.recv()).await
    }

    /// What stderr has said so far.
    pub fn log(&self) -> Vec<String> {
        self.log.borrow().clone()
    }

    /// Waits for a line of stderr, which may have come already.
    pub async fn logged(&mut self, part: &str) -> String {
        let found = |lines: &Vec<String>| lines.iter().find(|line| line.contains(part)).cloned();
        let wait = async { self.log.wait_for(|lines| found(lines).is_some()).await.ok().and_then(|l| found(&l)) };
        match soon(&format!("{part:?} on stderr"), wait).await {
            Some(line) => line,
            None => panic!("{part:?} is not in {:#?}", self.log()),
        }
    }

    /// Sends a signal by its name, as in `TERM`.
    pub fn signal(&self, name: &str) {
        // The child is not waited for before its end, so its id is still its own.
        let sent = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status();
        assert!(sent.expect("kill").success());
    }

    /// Waits for the end. Returns the exit code, and what was left of stdout.
    pub async fn exit(mut self) -> (i32, Vec<String>) {
        let mut rest = Vec::new();
        let ended = async {
            while let Some(line) = self.out.recv().await {
                rest.push(line);
            }
            while self.log.changed().await.is_ok() {}
        };
        soon("the end of the process", ended).await;
        let status = self.child.wait().expect("our own child");
        (status.code().unwrap_or_else(|| panic!("ended by {status}: {:#?}", self.log())), rest)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error: it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(pipe: impl Read + Send + 'static, mut take: impl FnMut(String) + Send + 'static) {
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            take(line.expect("UTF-8"));
        }
    });
}

/// A proxy in a process of its own, on free ports.
pub struct Serving {
    pub process: Process,
    pub proxy: SocketAddr,
    pub admin: SocketAddr,
}

impl Serving {
    /// `run` with these arguments.
    pub async fn start(args: &[&str]) -> Self {
        Self::spawn(&mut splitway(&["run", "--print-addresses"]), args).await
    }

    /// From a file, with arguments over it.
    pub async fn from_file(file: &Path, args: &[&str]) -> Self {
        Self::start(&[&["--config", file.to_str().expect("UTF-8")], args].concat()).await
    }

    pub async fn spawn(command: &mut Command, args: &[&str]) -> Self {
        let anywhere = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let mut process = Process::spawn(command.args(anywhere).args(args));
        let Some(line) = process.line().await else { panic!("it has not started: {:#?}", process.log()) };
        let addresses: Value = serde_json::from_str(&line).expect("one line of JSON");
        let address = |value: &Value| value.as_str().expect("an address").parse().expect("an address");
        Self { process, proxy: address(&addresses["listeners"][0]), admin: address(&addresses["admin"]) }
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.proxy).await
    }

    /// The live state.
    pub async fn config(&self) -> Value {
        serde_json::from_str(&Client::connect(self.admin).await.get("/config").await.text()).expect("JSON")
    }

    pub async fn generation(&self) -> u64 {
        self.config().await["generation"].as_u64().expect("a number")
    }

    /// Waits until the live state is as wished.
    pub async fn until(&self, what: &str, wished: impl Fn(&Value) -> bool) -> Value {
        let looks = async {
            loop {
                let config = self.config().await;
                if wished(&config) {
                    return config;
                }
                // Between two looks, so that looking does not take all of a core.
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        soon(what, looks).await
    }

    /// The sum of all samples of `/metrics` that begin like this and have this label.
    pub async fn metric(&self, sample: &str, label: &str) -> f64 {
        let text = Client::connect(self.admin).await.get("/metrics").await.text();
        let values = text.lines().filter(|line| line.starts_with(sample) && line.contains(label));
        values.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().expect("a number")).sum()
    }
}

/// Whether the live share of the canary is this one.
pub fn canary_is(percent: u32) -> impl Fn(&Value) -> bool {
    move |config| {
        let versions = config["ports"][0]["split"]["versions"].as_array().map_or(&[][..], Vec::as_slice);
        let canary = versions.iter().find(|version| version["version"] == "canary");
        canary.is_some_and(|canary| canary["asked_ratio"] == f64::from(percent) / 100.0)
    }
}

/// A folder with a configuration file in it.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file in place, and returns where it is.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("a temporary folder can be written");
        path
    }

    /// Replaces a file as careful programs do: written beside it, then renamed.
    pub fn replace(&self, name: &str, text: &str) {
        std::fs::rename(self.write(".new", text), self.path(name)).expect("a rename within a folder");
    }
}

/// A file that gives the canary this share.
pub fn yaml(stable: &App, canary: &App, percent: u32) -> String {
    format!(
        "listeners: [{{ address: 127.0.0.1:0 }}]\n\
         backends:\n  stable: {{ endpoints: [\"{}\"] }}\n  canary: {{ endpoints: [\"{}\"] }}\n\
         split: {{ stable: {}%, canary: {percent}% }}\n",
        stable.address,
        canary.address,
        100 - percent
    )
}
