//! `splitway top`: how a rollout stands, live, on a whole screen. Asks the proxies once a second, and steers nothing.
//!
//! Files, in reading order:
//!
//! * this one: answers, keys and signals in, screens out;
//! * `view`: what is known, and what a key does to it; PURE;
//! * `draw`: a screen of that; PURE;
//! * `screen`: the terminal, taken and given back.

mod draw;
mod screen;
mod view;

use std::convert::Infallible;
use std::io::{self, IsTerminal};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Instant;

use ratatui::crossterm::event::Event;
use serde::Deserialize;
use splitway::admin::status::Status;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::proxies::{AGAIN, Asked, Heard, style};
use crate::{End, Stop, cli, run_cold};
use screen::Screen;
use view::{Failure, Then, Told, View};

pub fn top(flags: cli::Top) -> Result<ExitCode, Stop> {
    needs_a_terminal()?;
    let paint = style();
    run_cold(async {
        let asked = Asked::of(flags.proxies, "top").await?;
        let mut view = View::new(asked.flag());
        // From here on no signal ends us without giving the terminal back.
        let (mut end, mut hangup) = (End::new()?, signal(SignalKind::hangup())?);
        let (heard, mut hears) = mpsc::channel(1);
        let mut asking = pin!(ask(&asked, heard));
        let mut screen = Screen::take()?;
        let mut keys = screen::keys();
        let mut ticks = interval(AGAIN);
        loop {
            screen.draw(|frame| draw::draw(&view, Instant::now(), paint, frame))?;
            tokio::select! {
                () = end.recv() => break,
                _ = hangup.recv() => break,
                never = &mut asking => match never {},
                Some(told) = hears.recv() => view.hear(told, Instant::now()),
                event = keys.recv() => match event {
                    Some(Ok(Event::Key(key))) if view.press(key) == Then::Quit => break,
                    // Another size is another screen.
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error.into()),
                    None => return Err(Stop::Other("the terminal sends no more keys".to_owned())),
                },
                // What is shown grows older.
                _ = ticks.tick() => {}
            }
        }
        Ok(ExitCode::SUCCESS)
    })?
}

fn needs_a_terminal() -> Result<(), Stop> {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let what = match (io::stdin().is_terminal(), io::stdout().is_terminal()) {
        (true, true) if !dumb => return Ok(()),
        (true, true) => "TERM is dumb",
        (false, _) => "its input is none",
        (_, false) => "its output is none",
    };
    Err(Stop::Other(format!("top needs a whole terminal, and {what}: splitway status --watch says the same in lines")))
}

/// Once a second, for as long as it takes.
async fn ask(asked: &Asked, heard: mpsc::Sender<Result<Told, String>>) -> Infallible {
    let mut ticks = interval(AGAIN);
    // Who is slow to answer is not asked twice as soon.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let told = once(asked).await;
        // Whoever draws has the other end, and asks no more when that is gone.
        let _ = heard.send(told).await;
    }
}

async fn once(asked: &Asked) -> Result<Told, String> {
    #[derive(Deserialize)]
    struct Requests {
        requests: Vec<Failure>,
    }
    let Heard { answers, mut away } = asked.standing("/status?trend=true").await?;
    let (names, all): (Vec<String>, Vec<Status>) = answers.into_iter().unzip();
    let mut failures = Vec::new();
    let requests = names.iter().map(|name| asked.ask::<Requests>(name, "/requests"));
    for requests in futures_util::future::join_all(requests).await {
        match requests {
            Ok(Requests { requests }) => failures.extend(requests.into_iter().filter(Failure::is_one)),
            Err(error) => away.push(error),
        }
    }
    Ok(Told { status: Status::together(all).unwrap_or_default(), failures, away })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use splitway::admin::endpoints::{self, Endpoint};
    use splitway::admin::status::{Last, Part, Port, Rollout, Version};
    use splitway::control::rollout::{Fact, Progress, State};

    use super::draw::{Paint, SMALLEST};
    use super::*;

    const PLAIN: Paint = Paint { colour: false, unicode: true };

    /// A rollout at its second step, whose canary fails.
    pub fn told() -> Told {
        let ejected = || Endpoint {
            address: "10.0.0.2:5000".to_owned(),
            state: endpoints::State::Ejected,
            workers: 1,
            of: 2,
            detail: "connect refused; tried again in 8 s".to_owned(),
        };
        let version = |name: &str, role: &str, asked: f64, failed: f64| Version {
            version: name.to_owned(),
            role: role.to_owned(),
            asked,
            sent: Some(asked),
            error_in_requests: 0.25,
            requests_per_second: asked * 100.0,
            error_rate: Some(failed),
            p50: Some(0.001),
            p95: Some(0.01),
            p99: Some(0.0125),
            in_flight: 1,
            endpoints: vec!["10.0.0.1:5000".to_owned(), "10.0.0.2:5000".to_owned()],
            endpoint_states: (role == "canary").then(ejected).into_iter().collect(),
            ejected: 0,
            // Live for some of it, and asked for half of that in the beginning.
            trend: (0..50)
                .map(|i| Part { asked: if i < 35 { asked / 2.0 } else { asked }, sent: (i / 10) as u64, of: 10 })
                .collect(),
        };
        let fact = |text: &str| Fact::new(text, "spec.strategy.canary.steps[1].pause");
        let failure = |second: u32, path: &str, code: u16, word: Option<&str>| Failure {
            time: format!("2026-01-02T10:20:{second:02}.000Z"),
            method: Some("GET".to_owned()),
            path: Some(path.to_owned()),
            code,
            version: Some("7f9c".to_owned()),
            role: word.is_none().then(|| "canary".to_owned()),
            failure: word.map(str::to_owned),
            failed: None,
            duration_seconds: 0.0042,
        };
        let saved = view::Failed {
            version: "7f9c".to_owned(),
            role: "canary".to_owned(),
            failure: "connect_refused".to_owned(),
        };
        Told {
            status: Status {
                generation: 7,
                state: "ready".to_owned(),
                rollout: Some(Rollout {
                    name: "services/shop".to_owned(),
                    api: "connected".to_owned(),
                    progress: Some(Progress {
                        state: State::Paused,
                        steps: ["setWeight 33", "pause until a person resumes it", "setWeight 66", "setWeight 100"]
                            .map(fact)
                            .to_vec(),
                        step: 1,
                        why: vec![fact("paused at step 2 of 4 until a person resumes it")],
                        ..Progress::default()
                    }),
                }),
                seconds: 10.0,
                ports: vec![Port {
                    port: None,
                    versions: vec![version("7f9c", "canary", 0.33, 0.2), version("5fb4", "stable", 0.67, 0.0)],
                }],
                last: Some(Last {
                    number: 1,
                    canary: "7f9c".to_owned(),
                    outcome: "running".to_owned(),
                    why: String::new(),
                    requests: 312,
                    errors: 63,
                }),
                refused: None,
                notes: vec!["2 replicas, added up".to_owned()],
            },
            failures: vec![
                failure(30, "/old", 503, Some("connect_refused")),
                failure(31, "/new", 500, None),
                Failure { failed: Some(saved), ..failure(29, "/saved", 200, None) },
            ],
            away: Vec::new(),
        }
    }

    fn heard(now: Instant) -> View {
        let mut view = View::new("--admin 127.0.0.1:9090".to_owned());
        view.hear(Ok(told()), now);
        view
    }

    fn screen(view: &View, age: u64, paint: Paint, columns: u16, rows: u16) -> Terminal<TestBackend> {
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
        let now = view.heard.unwrap_or_else(Instant::now) + Duration::from_secs(age);
        terminal.draw(|frame| draw::draw(view, now, paint, frame)).unwrap();
        terminal
    }

    fn lines(terminal: &Terminal<TestBackend>) -> Vec<String> {
        let buffer = terminal.backend().buffer();
        let width = usize::from(buffer.area.width).max(1);
        let row = |cells: &[ratatui::buffer::Cell]| cells.iter().map(|cell| cell.symbol()).collect::<String>();
        buffer.content.chunks(width).map(|cells| row(cells).trim_end().to_owned()).collect()
    }

    /// Recorded screens; `UPDATE=1` records what has changed.
    #[track_caller]
    fn is_recorded(name: &str, view: &View, age: u64, paint: Paint, columns: u16, rows: u16) {
        let drawn = lines(&screen(view, age, paint, columns, rows)).join("\n") + "\n";
        let path = format!("{}/tests/data/top/{name}.txt", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(format!("{}/tests/data/top", env!("CARGO_MANIFEST_DIR"))).unwrap();
            std::fs::write(&path, &drawn).unwrap();
        }
        assert_eq!(drawn, std::fs::read_to_string(&path).unwrap_or_default(), "{path}");
    }

    #[test]
    fn screens_are_as_recorded() {
        let view = heard(Instant::now());
        is_recorded("80x24", &view, 0, PLAIN, 80, 24);
        is_recorded("120x40", &view, 0, PLAIN, 120, 40);
        is_recorded("60x12", &view, 0, PLAIN, 60, 12);
        is_recorded("ascii", &view, 0, Paint { colour: false, unicode: false }, 80, 24);
        let mut help = heard(Instant::now());
        help.help = true;
        is_recorded("help", &help, 0, PLAIN, 80, 24);
        let mut away = heard(Instant::now());
        away.hear(Err("asking http://127.0.0.1:9090: Connection refused".to_owned()), Instant::now());
        is_recorded("away", &away, 12, PLAIN, 80, 24);
        let mut filtered = heard(Instant::now());
        (filtered.filter, filtered.typing) = ("cana".to_owned(), true);
        is_recorded("filter", &filtered, 0, PLAIN, 80, 24);
        is_recorded("nothing", &View::new("--admin 127.0.0.1:9090".to_owned()), 0, PLAIN, 80, 24);
    }

    #[test]
    fn a_terminal_without_unicode_or_colours_is_served_too() {
        let view = heard(Instant::now());
        let plain = screen(&view, 0, Paint { colour: false, unicode: false }, 120, 40);
        assert!(lines(&plain).iter().all(|line| line.is_ascii()));
        let colours = |terminal: &Terminal<TestBackend>| {
            let cells = &terminal.backend().buffer().content;
            cells.iter().any(|cell| (cell.fg, cell.bg) != (ratatui::style::Color::Reset, ratatui::style::Color::Reset))
        };
        assert!(!colours(&plain));
        assert!(colours(&screen(&view, 0, Paint { colour: true, unicode: true }, 120, 40)));
    }

    /// A path is whatever a client has sent.
    #[test]
    fn what_clients_send_does_not_reach_the_terminal_as_a_command() {
        let mut told = told();
        told.failures[0].path = Some("/\x1b]0;owned\x07\n\r\u{9b}31m".to_owned());
        told.status.notes = vec!["\x1b[2J".to_owned()];
        let mut view = View::new(String::new());
        view.hear(Ok(told), Instant::now());
        for line in lines(&screen(&view, 0, PLAIN, 120, 40)) {
            assert!(!line.contains(char::is_control), "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn no_size_panics_and_all_of_them_say_something(
            columns in 0u16..140, rows in 0u16..50, versions in 0usize..40, steps in 0usize..60, step in 0usize..70,
            failures in 0usize..60, notes in 0usize..9, help: bool, typing: bool, age in 0u64..9, unicode: bool,
            name in "\\PC{0,60}",
        ) {
            let mut told = told();
            let port = &mut told.status.ports[0];
            port.port = (versions % 2 == 0).then(|| name.clone());
            port.versions = std::iter::repeat_n(port.versions[0].clone(), versions).collect();
            let progress = told.status.rollout.as_mut().and_then(|rollout| rollout.progress.as_mut()).unwrap();
            progress.steps = std::iter::repeat_n(Fact::new(name.clone(), ""), steps).collect();
            progress.step = step;
            told.failures = std::iter::repeat_n(Failure { time: name.clone(), path: Some(name.clone()), ..Failure::default() }, failures).collect();
            told.status.notes = vec![name.clone(); notes];
            let now = Instant::now();
            let mut view = View::new(name.clone());
            view.hear(Ok(told), now);
            (view.help, view.typing) = (help, typing);
            let drawn = lines(&screen(&view, age, Paint { colour: true, unicode }, columns, rows));
            if columns >= SMALLEST.0 && rows >= SMALLEST.1 && !help {
                prop_assert!(drawn[0].starts_with("services/shop"), "{drawn:#?}");
                prop_assert!(drawn.iter().any(|line| line.starts_with("SPLIT")), "{drawn:#?}");
                prop_assert!(drawn.iter().any(|line| line.starts_with("TRAFFIC")), "{drawn:#?}");
            } else if columns >= 20 && rows >= 5 && !help {
                prop_assert!(drawn.concat().contains("too"), "{drawn:#?}");
            }
        }
    }
}
