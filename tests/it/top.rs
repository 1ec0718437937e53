//! `splitway top` in a real pseudo-terminal, in front of real proxies.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::follow::{ROLLOUT, World, proxy_pod};
use crate::process::{Folder, Process, Serving, run, yaml};
use crate::support::{App, eventually};

/// A terminal with a program in it, of which the test has the other end.
struct Terminal {
    ours: File,
    /// Held, so that what the program leaves behind can be looked at.
    theirs: File,
    before: Termios,
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Terminal {
    fn start(args: &[&str], environment: &[(&str, &str)]) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("the other end of it");
        let path = ptsname(&ours, Vec::new()).unwrap();
        let theirs = File::options().read(true).write(true).open(path.to_str().unwrap()).unwrap();
        resize(&theirs, 100, 30);
        let end = || Stdio::from(OwnedFd::from(theirs.try_clone().unwrap()));
        // So that this is the program's own terminal, whatever the test's is.
        let child = Command::new("setsid")
            .arg("--ctty")
            .arg(env!("CARGO_BIN_EXE_splitway"))
            .args(args)
            .env_clear()
            .envs([("LANG", "C.UTF-8"), ("TERM", "xterm-256color"), ("PATH", "/usr/bin:/bin")])
            .envs(environment.iter().copied())
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("setsid of util-linux");
        let said = Arc::<Mutex<String>>::default();
        let (mut from, into) = (File::from(ours.try_clone().unwrap()), said.clone());
        // Ends when the last other end is closed, at the latest with the test.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                into.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        });
        Self { ours: File::from(ours), before: tcgetattr(&theirs).unwrap(), theirs, child, said }
    }

    fn press(&mut self, keys: &str) {
        self.ours.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the screen has this on it.
    async fn until(&self, part: &str) {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let screen = screen(&self.said.lock().unwrap());
            if screen.contains(part) {
                return;
            }
            assert!(Instant::now() < until, "{part:?} is not on the screen:\n{screen}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The exit code, once the terminal is known to be as it was.
    async fn end(mut self) -> i32 {
        eventually("its end", async || self.child.try_wait().unwrap().is_some()).await;
        // Out of raw mode, back from the other screen, and with a cursor.
        assert_eq!(format!("{:?}", tcgetattr(&self.theirs).unwrap()), format!("{:?}", self.before));
        let back = |said: &str| {
            let (screen, cursor) = (said.rfind("\x1b[?1049l"), said.rfind("\x1b[?25h"));
            screen > said.rfind("\x1b[?1049h") && cursor > said.rfind("\x1b[?25l")
        };
        eventually("the screen is given back", async || back(&self.said.lock().unwrap())).await;
        self.child.wait().unwrap().code().expect("no signal has ended it")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a terminal shows after all of this, as far as `top` needs one (ECMA-48 CUP, ED): only cells that change are written.
fn screen(said: &str) -> String {
    let mut rows = vec![vec![' '; 200]; 60];
    let (mut row, mut column) = (0, 0);
    let mut rest = said.chars();
    while let Some(c) = rest.next() {
        match c {
            '\x1b' => {
                if rest.next() != Some('[') {
                    continue;
                }
                let mut numbers = String::new();
                let last = rest.by_ref().find(|c| {
                    let ends = c.is_ascii_alphabetic();
                    numbers.extend((!ends).then_some(*c));
                    ends
                });
                let number = |i: usize| numbers.split(';').nth(i).and_then(|n| n.parse().ok()).unwrap_or(1usize);
                match last {
                    Some('H') => (row, column) = (number(0) - 1, number(1) - 1),
                    Some('J') => rows.iter_mut().for_each(|row| row.fill(' ')),
                    _ => {}
                }
            }
            c if c.is_control() => {}
            c => {
                if let Some(cell) = rows.get_mut(row).and_then(|row| row.get_mut(column)) {
                    *cell = c;
                }
                column += 1;
            }
        }
    }
    rows.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned() + "\n").collect()
}

fn resize(terminal: &File, columns: u16, rows: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).unwrap();
}

#[tokio::test]
async fn it_shows_the_versions_has_help_and_quits() {
    let (stable, canary, folder) = (App::start("stable").await, App::start("canary").await, Folder::new());
    let proxy = Serving::from_file(&folder.write("splitway.yaml", &yaml(&stable, &canary, 25)), &[]).await;
    let admin = proxy.admin.to_string();
    let mut terminal = Terminal::start(&["top", "--admin", &admin], &[]);
    terminal.until("canary").await;
    let mut client = proxy.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("/status/503").await.status, 503);
    }
    terminal.until("LAST FAILURES").await;
    terminal.press("?");
    terminal.until("requests in flight").await;
    terminal.press("?/zzz\r");
    terminal.until("no version has this text in it").await;
    resize(&terminal.theirs, 40, 10);
    terminal.until("too small").await;
    terminal.press("q");
    assert_eq!(terminal.end().await, 0);
}

#[tokio::test]
async fn a_proxy_that_is_away_is_told_and_comes_back_by_itself() {
    let (stable, canary, folder) = (App::start("stable").await, App::start("canary").await, Folder::new());
    let file = folder.write("splitway.yaml", &yaml(&stable, &canary, 25));
    let proxy = Serving::from_file(&file, &[]).await;
    let admin = proxy.admin.to_string();
    let mut terminal = Terminal::start(&["top", "--admin", &admin], &[("NO_COLOR", "1")]);
    terminal.until("canary").await;
    proxy.process.signal("KILL");
    terminal.until("asking again").await;
    terminal.until("canary").await;
    drop(proxy);
    let again = ["run", "--listen=127.0.0.1:0", "--admin", &admin, "--config", file.to_str().unwrap()];
    let _again = Process::start(&again);
    terminal.until("q quit").await;
    // Ctrl-C.
    terminal.press("\x03");
    assert_eq!(terminal.end().await, 0);
}

#[tokio::test]
async fn a_signal_gives_the_terminal_back_and_the_proxies_of_a_rollout_are_found() {
    let world = World::new().await;
    let proxy = world.proxy(&[]).await;
    proxy.until("the Rollout", |config| config["generation"].as_u64() > Some(0)).await;
    world.api.put("pods", proxy_pod());
    let (kubeconfig, port) = (world.folder.path("kubeconfig"), proxy.admin.port().to_string());
    let args = ["top", "--rollout", ROLLOUT, "--kubeconfig", kubeconfig.to_str().unwrap(), "--admin-port", &port];
    let terminal = Terminal::start(&args, &[]);
    terminal.until("setWeight 60").await;
    let id = rustix::process::Pid::from_child(&terminal.child);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    assert_eq!(terminal.end().await, 0);
}

#[test]
fn without_a_terminal_it_names_the_command_that_needs_none() {
    let said = run(&["top", "--admin", ":1"]);
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    assert!(said.err.contains("top needs a whole terminal, and its input is none"), "{}", said.err);
    assert!(said.err.contains("splitway status --watch"), "{}", said.err);
}
