//! The proxies: how each is configured, started, clocked and ended.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use tokio::net::TcpStream;

use crate::Options;
use crate::backend::Servers;
use crate::clock;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Splitway,
    Baseline,
    Haproxy,
    Nginx,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Splitway, Kind::Baseline, Kind::Haproxy, Kind::Nginx];

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Splitway => "splitway",
            Kind::Baseline => "baseline",
            Kind::Haproxy => "haproxy",
            Kind::Nginx => "nginx",
        }
    }
}

/// A proxy at work. Dropping it ends its process and removes its files.
pub struct Contestant {
    pub kind: Kind,
    pub version: String,
    pub address: SocketAddr,
    child: Child,
    folder: PathBuf,
}

impl Contestant {
    /// `core`: the processor core that the proxy has to itself.
    pub async fn start(
        kind: Kind,
        binary: &Path,
        servers: &Servers,
        core: Option<usize>,
        options: &Options,
    ) -> Result<Self, String> {
        let problem = |text: String| format!("cannot start {} ({}): {text}", kind.as_str(), binary.display());
        let address = free_address().map_err(|error| problem(error.to_string()))?;
        let folder = std::env::temp_dir().join(format!("splitway-loadtest-{}-{}", std::process::id(), kind.as_str()));
        fs::create_dir_all(&folder).map_err(|error| problem(error.to_string()))?;
        let (arguments, configuration) = command_line(kind, address, servers, &folder, options);
        let log = fs::write(folder.join("conf"), configuration)
            .and_then(|()| fs::File::create(folder.join("log")))
            .and_then(|log| Ok((log.try_clone()?, log)))
            .map_err(|error| problem(error.to_string()))?;
        // Should this program be killed, the proxy goes, too. (`setpriv` and `taskset` are parts of util-linux; each
        // becomes the next program.)
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]);
        if let Some(core) = core {
            command.args(["taskset", "--cpu-list", &core.to_string()]);
        }
        let child = command
            .arg(binary)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.0)
            .stderr(log.1)
            .spawn()
            .map_err(|error| problem(format!("setpriv (package util-linux): {error}")))?;
        let mut contestant = Self { kind, version: version(kind, binary), address, child, folder };

        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if TcpStream::connect(address).await.is_ok() {
                return Ok(contestant);
            }
            let ended = contestant.child.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > deadline {
                let said = fs::read_to_string(contestant.folder.join("log")).unwrap_or_default();
                let how = ended.map_or("it did not listen within 10 seconds".to_owned(), |status| status.to_string());
                return Err(problem(format!("{how}\n{said}")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// User and system time of the process, all of its threads and children.
    pub fn cpu(&self) -> Result<Duration, String> {
        let pid = self.child.id();
        clock::spent(pid).map_err(|error| format!("{} (process {pid}) is gone: {error}", self.kind.as_str()))
    }
}

/// Gives the last core this program may use to the proxies, and the others to this program's own threads (those that
/// exist and those to come). `None`, and nothing changes, if there is only one, or `taskset` fails.
pub fn divide_cores() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim();
    let mut cores = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cores.extend(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?);
    }
    let last = cores.pop()?;
    let others: Vec<String> = cores.iter().map(usize::to_string).collect();
    let own = std::process::id().to_string();
    let arguments = ["--all-tasks", "--cpu-list", "--pid", &others.join(","), &own];
    let divided = !others.is_empty()
        && Command::new("taskset").args(arguments).stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    divided.then_some(last)
}

impl Drop for Contestant {
    fn drop(&mut self) {
        let running = |child: &mut Child| matches!(child.try_wait(), Ok(None));
        // TERM first: nginx passes it on to its worker, KILL would leave that behind.
        if running(&mut self.child) {
            let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        }
        let deadline = Instant::now() + Duration::from_secs(2);
        while running(&mut self.child) {
            if Instant::now() > deadline {
                for pid in clock::family(self.child.id()) {
                    let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
                }
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A port that nobody uses now. Somebody could take it before the proxy does; then the proxy fails to start, and says so.
fn free_address() -> io::Result<SocketAddr> {
    std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}

fn version(kind: Kind, binary: &Path) -> String {
    let flag = match kind {
        Kind::Haproxy | Kind::Nginx => "-v",
        // Two builds may have the same version; their names tell them apart.
        Kind::Splitway | Kind::Baseline => return binary.display().to_string(),
    };
    let output = Command::new(binary).arg(flag).stdin(Stdio::null()).output();
    let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next().unwrap_or("unknown version").to_owned()
}

fn command_line(
    kind: Kind,
    address: SocketAddr,
    servers: &Servers,
    folder: &Path,
    options: &Options,
) -> (Vec<String>, String) {
    let configuration = folder.join("conf").display().to_string();
    match kind {
        Kind::Splitway | Kind::Baseline => {
            let mut arguments = vec![
                "run".to_owned(),
                "--listen".to_owned(),
                address.to_string(),
                "--stable".to_owned(),
                servers.stable.to_string(),
                "--canary".to_owned(),
                format!("{}=10%", servers.canary),
                "--workers".to_owned(),
                "1".to_owned(),
            ];
            arguments.extend(options.splitway_arg.iter().cloned());
            (arguments, String::new())
        }
        Kind::Haproxy => (vec!["-db".to_owned(), "-f".to_owned(), configuration], haproxy(address, servers, options)),
        Kind::Nginx => (
            vec!["-p".to_owned(), folder.display().to_string(), "-c".to_owned(), configuration],
            nginx(address, servers, folder, options),
        ),
    }
}

/// One thread, weights 90 and 10, connections to the servers always reused. Everything else as it comes.
fn haproxy(address: SocketAddr, servers: &Servers, options: &Options) -> String {
    let headers = if options.equal_headers {
        "http-request set-header X-Forwarded-Proto http
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header X-Forwarded-Port %[dst_port]
    http-request set-header Forwarded for=%[src];host=\"%[req.hdr(host)]\";proto=http
    http-request set-header Via \"1.1 haproxy\"
    http-request set-header X-Request-Id %[uuid] unless { req.hdr(x-request-id) -m found }"
    } else {
        ""
    };
    format!(
        "global
    nbthread 1
    maxconn 4096
defaults
    mode http
    timeout connect 1s
    timeout client 75s
    timeout server 60s
    option forwardfor
    http-reuse always
frontend traffic
    bind {address}
    {headers}
    default_backend app
backend app
    balance roundrobin
    server stable {} weight 90
    server canary {} weight 10
",
        servers.stable, servers.canary
    )
}

/// One worker, weights 90 and 10, connections to the servers reused, no limit on requests per connection, no log, and
/// buffers in memory that hold the largest body used here.
fn nginx(address: SocketAddr, servers: &Servers, folder: &Path, options: &Options) -> String {
    let headers = if options.equal_headers {
        "proxy_set_header X-Forwarded-Proto http;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Port $server_port;
            proxy_set_header Forwarded 'for=$remote_addr;host=\"$http_host\";proto=http';
            proxy_set_header Via '1.1 nginx';
            proxy_set_header X-Request-Id $request_id;"
    } else {
        ""
    };
    let folder = folder.display();
    // Workers of a root master change to another user, who might not be able to read the folder.
    let user = if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
        "user root;"
    } else {
        ""
    };
    format!(
        "{user}
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_body_buffer_size 32k;
    proxy_buffers 16 8k;
    proxy_max_temp_file_size 0;
    keepalive_requests 1000000000;
    upstream app {{
        server {} weight=90;
        server {} weight=10;
        keepalive 256;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {address};
        location / {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection '';
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            {headers}
        }}
    }}
}}
",
        servers.stable, servers.canary
    )
}
