//! The program's table of contents: flags in, one function per command, exit codes out.

mod cli;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use cli::{Cli, Command};
use splitway::admin::explain::{question, to_target};
use splitway::config::{self, Config, Flags, LogFormat, Problems};
use splitway::route::{Generation, Identity, Snapshot};
use splitway::source::{self, file};
use splitway::{admin, control, demo};

// The default allocator of the static image's C library is several times slower.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let Some(command) = Cli::parse().command else {
        print!("{}", cli::WAYS_TO_BEGIN);
        return ExitCode::SUCCESS;
    };
    let outcome = match command {
        Command::Demo(demo) => show(demo),
        Command::Run(run) => serve(*run),
        Command::Validate(validate) => check(&validate.file),
        Command::Explain(explain) => explain_one(explain),
        Command::Schema => {
            print!("{}", config::schema());
            eprintln!("Next: put `# yaml-language-server: $schema=FILE` at the top of splitway.yaml");
            Ok(ExitCode::SUCCESS)
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "splitway", &mut io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    };
    outcome.unwrap_or_else(|stop| {
        stop.show();
        ExitCode::FAILURE
    })
}

/// Why a command could not do its work.
enum Stop {
    Problems(Box<Problems>),
    Other(String),
}

impl Stop {
    fn show(&self) {
        match self {
            // anstream takes the colours out where nobody could see them.
            Stop::Problems(problems) => anstream::eprint!("{}", problems.render(true)),
            Stop::Other(text) => eprintln!("splitway: {text}"),
        }
    }
}

impl From<Problems> for Stop {
    fn from(problems: Problems) -> Self {
        Stop::Problems(Box::new(problems))
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Other(error.to_string())
    }
}

fn show(options: cli::Demo) -> Result<ExitCode, Stop> {
    log("warn", LogFormat::Auto);
    let kept = cold_runtime()?.block_on(async {
        let mut end = End::new()?;
        demo::run(
            demo::Options {
                once: options.once,
                fail_canary: options.fail_canary,
                step: options.step,
                rate: options.rate,
                listen: options.listen,
                admin: options.admin,
            },
            end.recv(),
        )
        .await
    })?;
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn serve(run: cli::Run) -> Result<ExitCode, Stop> {
    let flags = Flags::from(run.settings);
    let file = run.config.as_deref();
    if run.print_config {
        print!("{}", config::to_yaml(file, &flags)?);
        eprintln!("Next: save it as splitway.yaml, then: splitway run --config splitway.yaml");
        return Ok(ExitCode::SUCCESS);
    }
    let text = file.map(config::text).transpose()?;
    let config = match (file, &text) {
        (Some(path), Some(text)) => config::parse(text, &path.display().to_string(), &flags)?,
        _ => config::from_flags(&flags)?,
    };
    log(&config.log.level, config.log.format);
    let watch = file.zip(text).map(|(path, text)| watch(path, text, flags, &config));
    let origin = file.map_or_else(|| "flags".to_owned(), |path| path.display().to_string());
    cold_runtime()?.block_on(serve_until_told(config, origin, watch, run.print_addresses))
}

/// Reads the file again when it changes. What only a restart can change is noted, not obeyed.
fn watch(path: &Path, text: String, flags: Flags, started: &Config) -> file::Watch {
    let name = path.display().to_string();
    let started = started.clone();
    let parse = move |text: &str| match config::parse(text, &name, &flags) {
        Ok(config) => Ok(file::Loaded { notes: started.needs_restart(&config), declared: config.declared }),
        Err(problems) => Err(problems.one_line()),
    };
    file::Watch::new(path, text, Box::new(parse))
}

async fn serve_until_told(
    config: Config,
    origin: String,
    watch: Option<file::Watch>,
    print_addresses: bool,
) -> Result<ExitCode, Stop> {
    let workers = config.proxy.workers;
    let drain = config.proxy.drain.clone();
    let bound = splitway::bind(splitway::Settings {
        proxy: config.proxy,
        admin: config.admin,
        identity: match config.replica {
            None => Identity::random(),
            Some(replica) => Identity::replica(replica.turn(), &replica.seed),
        },
    })?;
    let mut end = End::new()?;
    let (observations, receiver) = control::channel();
    let (again, asked_again) = mpsc::channel(1);
    let running = bound.start(receiver)?;
    tokio::spawn(source::follow(config.declared, origin, watch, asked_again, observations));
    running.reached(Generation(1)).await;
    announce(&running, workers, print_addresses)?;

    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = hangup.recv() => {
                // Full: it is going to look anyway.
                let _ = again.try_send(());
            }
            () = end.recv() => break,
        }
    }
    tracing::info!(delay = ?drain.delay, timeout = ?drain.timeout, "draining; a second signal stops at once");
    tokio::select! {
        cut = running.drain() => {
            if cut > 0 {
                tracing::warn!(cut, "drained; connections that did not finish in time were cut");
            } else {
                tracing::info!("drained");
            }
            Ok(ExitCode::SUCCESS)
        }
        () = end.recv() => {
            tracing::warn!("stopped by a second signal");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn announce(running: &splitway::Running, workers: usize, print_addresses: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if print_addresses {
        let addresses = serde_json::json!({ "listeners": running.listeners(), "admin": running.admin() });
        return writeln!(out, "{addresses}");
    }
    for address in running.listeners() {
        writeln!(out, "proxy   http://{address}/    {workers} workers")?;
    }
    match running.admin() {
        Some(admin) => writeln!(out, "admin   http://{admin}/\nNext: curl -s http://{admin}/config"),
        None => writeln!(out, "Next: add --admin 127.0.0.1:9090 to see metrics and the live configuration"),
    }
}

fn check(path: &Path) -> Result<ExitCode, Stop> {
    let config = config::load(path, &Flags::default())?;
    println!(
        "{}: ok. {} backends, split {}, {} routes.",
        path.display(),
        config.declared.backends.len(),
        config.declared.split,
        config.declared.routes.len()
    );
    println!("Next: splitway run --config {}", path.display());
    Ok(ExitCode::SUCCESS)
}

fn explain_one(asked: cli::Explain) -> Result<ExitCode, Stop> {
    let mut headers = Vec::new();
    for header in &asked.headers {
        let (name, value) = header
            .split_once(':')
            .ok_or_else(|| Stop::Other(format!("--header {header:?}: expected NAME: VALUE, as in 'x-user: 42'")))?;
        headers.push((name.trim().to_owned(), value.trim().to_owned()));
    }
    if !asked.cookies.is_empty() {
        headers.push(("cookie".to_owned(), asked.cookies.join("; ")));
    }
    let question = question(&asked.method, &asked.target, headers, asked.client).map_err(Stop::Other)?;
    if let Some(admin) = asked.admin {
        let accept = if asked.json { "application/json" } else { "text/plain" };
        let answer = cold_runtime()?.block_on(admin::ask::ask(admin, &to_target(&question), accept));
        println!("{}", answer.map_err(Stop::Other)?.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let path = asked.config.ok_or_else(|| Stop::Other("expected --config FILE or --admin ADDRESS".to_owned()))?;
    let declared = config::load(&path, &Flags::default())?.declared;
    let routing = source::without_names(&declared);
    let snapshot =
        Snapshot::build(routing, &Identity::random(), None).map_err(|error| Stop::Other(error.to_string()))?;
    let explanation = snapshot.explain(&question);
    if asked.json {
        println!("{}", serde_json::to_string_pretty(&explanation).map_err(|error| Stop::Other(error.to_string()))?);
    } else {
        println!("{explanation}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The runtime of everything but the workers.
fn cold_runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// The two signals that ask for the end.
struct End {
    interrupt: Signal,
    terminate: Signal,
}

impl End {
    fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Logs go to stderr: what was asked for goes to stdout.
fn log(level: &str, format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    let json = match format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    if json {
        subscriber.json().init();
    } else {
        let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        subscriber.with_ansi(colour).init();
    }
}
