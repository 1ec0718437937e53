//! Signals: the polite end, its bound, and the end at once.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::process::{Folder, Serving, splitway};
use crate::support::{App, Client, eventually, raw, soon};

/// An endpoint that reads one request and answers when it is told to; a dropped teller is a word to never answer.
async fn slow() -> (std::net::SocketAddr, oneshot::Receiver<()>, oneshot::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let ((arrived, arrival), (tell, told)) = (oneshot::channel(), oneshot::channel());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await.unwrap();
        arrived.send(()).unwrap();
        if told.await.is_err() {
            return std::future::pending().await;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow").await.unwrap();
    });
    (address, arrival, tell)
}

/// A stable version that is fast, and a canary that only the path `/slow` reaches.
struct World {
    proxy: Serving,
    stable: App,
    /// The slow request has come.
    arrival: oneshot::Receiver<()>,
    /// Lets it be answered.
    tell: oneshot::Sender<()>,
    _folder: Folder,
}

async fn world(args: &[&str]) -> World {
    let stable = App::start("stable").await;
    let (canary, arrival, tell) = slow().await;
    let folder = Folder::new();
    let file = folder.write(
        "splitway.yaml",
        &format!(
            "backends:\n  stable: {{ endpoints: [\"{}\"] }}\n  canary: {{ endpoints: [\"{canary}\"] }}\n\
             routes: [{{ name: slow, match: [{{ path: {{ exact: /slow }} }}], backend: canary }}]\n",
            stable.address
        ),
    );
    World { proxy: Serving::from_file(&file, args).await, stable, arrival, tell, _folder: folder }
}

async fn ready(proxy: &Serving) -> u16 {
    Client::connect(proxy.admin).await.get("/readyz").await.status
}

async fn until_not_ready(proxy: &Serving) {
    proxy.until("draining", |config: &Value| config["state"] == "draining").await;
    assert_eq!(ready(proxy).await, 503);
}

/// All that comes back until the connection ends.
fn ask_slowly(proxy: &Serving) -> tokio::task::JoinHandle<String> {
    tokio::spawn(raw(proxy.proxy, "GET /slow HTTP/1.1\r\nhost: app\r\n\r\n"))
}

async fn ends_politely(signal: &str) {
    let World { proxy, stable, arrival, tell, _folder } =
        world(&["--drain-delay", "3s", "--drain-timeout", "1h"]).await;
    assert_eq!(ready(&proxy).await, 200);
    let mut idle = proxy.client().await;
    assert_eq!(idle.get("/").await.status, 200);
    let in_flight = ask_slowly(&proxy);
    soon("the slow request at its endpoint", arrival).await.unwrap();

    proxy.process.signal(signal);
    until_not_ready(&proxy).await;
    // Load balancers have not noticed yet: traffic still comes, and is served.
    assert_eq!(Client::connect(proxy.proxy).await.get("/").await.status, 200);
    assert_eq!(stable.received(), 2);

    let refuses = async { while TcpStream::connect(proxy.proxy).await.is_ok() {} };
    soon("the end of the delay", refuses).await;
    assert!(!in_flight.is_finished());
    tell.send(()).unwrap();
    let answer = in_flight.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nslow"), "{answer}");
    assert_eq!(proxy.process.exit().await.0, 0);
}

#[tokio::test]
async fn sigterm_lets_load_balancers_notice_and_requests_finish() {
    ends_politely("TERM").await;
}

#[tokio::test]
async fn ctrl_c_ends_as_politely_as_sigterm() {
    ends_politely("INT").await;
}

#[tokio::test]
async fn the_drain_is_bounded() {
    let World { mut proxy, arrival, tell: _tell, .. } =
        world(&["--drain-delay", "1ms", "--drain-timeout", "200ms"]).await;
    let in_flight = ask_slowly(&proxy);
    soon("the slow request at its endpoint", arrival).await.unwrap();
    proxy.process.signal("TERM");
    let logged = proxy.process.logged("did not finish in time").await;
    assert!(logged.contains("\"cut\":1"), "{logged}");
    assert_eq!(proxy.process.exit().await.0, 0);
    assert_eq!(in_flight.await.unwrap(), "");
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    for (delay, timeout) in [("1h", "1h"), ("1ms", "1h")] {
        let World { proxy, arrival, tell: _tell, .. } =
            world(&["--drain-delay", delay, "--drain-timeout", timeout]).await;
        let in_flight = ask_slowly(&proxy);
        soon("the slow request at its endpoint", arrival).await.unwrap();
        proxy.process.signal("TERM");
        until_not_ready(&proxy).await;
        proxy.process.signal("TERM");
        assert_eq!(proxy.process.exit().await.0, 1);
        assert_eq!(in_flight.await.unwrap(), "");
    }
}

/// Without a file there is nothing to read again, but names to look up; in any case it is no reason to end.
#[tokio::test]
async fn sighup_never_ends_a_proxy() {
    let stable = App::start("stable").await;
    let proxy = Serving::start(&["--stable", &stable.address.to_string()]).await;
    proxy.process.signal("HUP");
    let mut client = proxy.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status, 200);
    }
}

/// A process that does not outlive its test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the log says waits for its reader, and nothing else does: probes, an edited file, the end.
#[tokio::test]
async fn a_log_that_nobody_reads_holds_nothing_up() {
    let (stable, canary, folder) = (App::start("stable").await, App::start("canary").await, Folder::new());
    let text = |stable_share| {
        format!(
            "backends:\n  stable: {{ endpoints: ['{}'] }}\n  canary: {{ endpoints: ['{}'] }}\n\
             split: {{ stable: {stable_share}%, canary: {}% }}\n",
            stable.address,
            canary.address,
            100 - stable_share
        )
    };
    let file = folder.write("splitway.yaml", &text(100));
    // More than any pipe holds, so that it is full before the proxy says its first word.
    let (unread, full) = std::io::pipe().unwrap();
    let mut filler = full.try_clone().unwrap();
    let filled = std::thread::spawn(move || filler.write_all(&vec![b'.'; 4 << 20]));
    let mut child = splitway(&["run", "--print-addresses", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(["--log-level", "debug", "--drain-delay", "0s", "--config", file.to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(full)
        .spawn()
        .unwrap();
    // In a thread that may be left behind: a proxy that waits for its log says nothing.
    let (mut out, (tell, told)) = (BufReader::with_capacity(1, child.stdout.take().unwrap()), oneshot::channel());
    std::thread::spawn(move || {
        let mut first = String::new();
        let _ = out.read_line(&mut first);
        let _ = tell.send((first, out));
    });
    let mut child = Ends(child);
    let (first, _out) = soon("its addresses", told).await.unwrap();
    let addresses: Value = serde_json::from_str(&first).unwrap();
    let address = |value: &Value| value.as_str().unwrap().parse().unwrap();
    let (proxy, admin) = (address(&addresses["listeners"][0]), address(&addresses["admin"]));
    let mut client = Client::connect(proxy).await;
    assert_eq!(client.get("/").await.app(), "stable");
    assert_eq!(Client::connect(admin).await.get("/healthz").await.status, 200);
    folder.replace("splitway.yaml", &text(0));
    eventually("the edited file", async || client.get("/").await.app() == "canary").await;
    drop(client);
    Command::new("kill").arg(child.0.id().to_string()).status().unwrap();
    let ended = std::cell::RefCell::new(&mut child.0);
    eventually("the end", async || ended.borrow_mut().try_wait().unwrap().is_some()).await;
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
    assert!(!filled.is_finished(), "the pipe was full all the time");
    drop(unread);
    assert!(filled.join().unwrap().is_err(), "nobody has read it");
}
