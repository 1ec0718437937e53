//! The program's table of contents: flags in, one function per command, exit codes out.

mod cli;
mod cluster;
mod proxies;
mod top;

use std::io::{self, IsTerminal, Write};
use std::iter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use clap::{CommandFactory, Parser};
use clap_complete::Shell;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};

use cli::{Cli, Command};
use splitway::admin::explain::{Asked, question, to_target};
use splitway::config::{self, Beside, Config, Flags, LogFormat, Problems, What};
use splitway::record::export::Tracing;
use splitway::route::picker::Turn;
use splitway::route::{Explanation, Generation, Identity, Snapshot};
use splitway::source::{self, file};
use splitway::tls::Contents;
use splitway::{admin, control, demo, lint, record};

// The default allocator of the static image's C library is several times slower.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        None => say(cli::WAYS_TO_BEGIN),
        Some(Command::Demo(demo)) => show(demo),
        Some(Command::Run(run)) => serve(*run),
        Some(Command::Validate(validate)) => check(&validate.file),
        Some(Command::Status(asked)) => proxies::status(asked),
        Some(Command::Top(asked)) => top::top(asked),
        Some(Command::Report(asked)) => proxies::report(asked),
        Some(Command::Man { out }) => man(&out),
        Some(Command::Explain(explain)) => explain_one(explain),
        Some(Command::Lint(lint)) => look_at(&lint),
        Some(Command::Check(asked)) => look(asked),
        Some(Command::App(app)) => app_alone(app),
        Some(Command::Schema) => say(config::schema() + "\n").inspect(|_| {
            hint("Next: save it as splitway.json, and on top of splitway.yaml: # yaml-language-server: $schema=splitway.json");
        }),
        Some(Command::Completions { shell }) => complete(shell),
    };
    outcome.unwrap_or_else(|stop| stop.show())
}

/// Why a command ends before its time.
enum Stop {
    /// Something is wrong with the settings; then what to try next.
    Problems(Box<Problems>, String),
    Other(String),
    /// Whoever read our output has seen enough, as `head` does. No failure.
    Unheard,
}

impl Stop {
    fn show(self) -> ExitCode {
        // Nobody reads stderr either: the exit code tells it.
        let _ = match self {
            Stop::Unheard => return ExitCode::SUCCESS,
            // anstream takes the colours out where nobody could see them.
            Stop::Problems(problems, next) => writeln!(anstream::stderr(), "{}\n{next}", problems.render(true)),
            Stop::Other(text) => writeln!(io::stderr(), "splitway: {text}"),
        };
        ExitCode::FAILURE
    }

    /// Problems, and what to do about them.
    fn problems(problems: Problems, next: impl Into<String>) -> Self {
        Stop::Problems(Box::new(problems), next.into())
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Stop::Unheard,
            io::ErrorKind::AddrInUse => Stop::Other(format!(
                "{error}\nAnother process has that port: end it, or choose another port (0 is any free one).\n\
                 To take over from another splitway, start both with --reuse-port (docs/drain.md)."
            )),
            io::ErrorKind::AddrNotAvailable => Stop::Other(format!(
                "{error}\nThis machine has no such address: use one of its own, or 0.0.0.0 for all."
            )),
            _ => Stop::Other(error.to_string()),
        }
    }
}

/// To stdout: what was asked for.
fn say(text: impl AsRef<str>) -> Result<ExitCode, Stop> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref().as_bytes())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// To stderr: what may help, so that stdout can be piped into something.
fn hint(text: &str) {
    // Nobody reads it: then it helps nobody.
    let _ = writeln!(io::stderr(), "{text}");
}

fn show(options: cli::Demo) -> Result<ExitCode, Stop> {
    let _log = log("warn", LogFormat::Auto);
    let kept = run_cold(async {
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
    })??;
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn app_alone(options: cli::App) -> Result<ExitCode, Stop> {
    run_cold(async {
        let mut end = End::new()?;
        let mut apps = Vec::new();
        for address in options.listen {
            apps.push(demo::app::App::start(&options.name, address, options.fail_one_in).await?);
        }
        let address = apps[0].address;
        let next = if options.name == "canary" {
            format!("splitway run --listen :8080 --stable :9001 --canary {address}=5.5%")
        } else {
            format!("splitway run --listen :8080 --stable {address}")
        };
        for app in &apps {
            say(format!("{}   http://{}/\n", options.name, app.address))?;
        }
        say(format!("Next: {next}\n"))?;
        end.recv().await;
        let received: u64 = apps.iter().map(demo::app::App::received).sum();
        say(format!("{} has received {received} requests.\n", options.name))
    })?
}

fn serve(run: cli::Run) -> Result<ExitCode, Stop> {
    let flags = Flags::from(run.settings);
    let file = run.config.as_deref().filter(|path| !path.is_empty()).map(Path::new);
    let problems = |problems| match file {
        Some(path) => Stop::problems(problems, format!("Next: mend that, then: splitway validate {}", path.display())),
        None => Stop::problems(problems, "Next: splitway run --help, or splitway demo, which needs no settings"),
    };
    if run.print_config {
        let yaml = config::to_yaml(file, &flags).map_err(problems)?;
        return say(yaml)
            .inspect(|_| hint("Next: save it as splitway.yaml, then: splitway run --config splitway.yaml"));
    }
    let text = file.map(config::text).transpose().map_err(problems)?;
    let mut beside = Beside::default();
    let config = match (file, &text) {
        (Some(path), Some(text)) => config::parse_beside(text, &path.display().to_string(), &flags, &mut beside),
        _ => config::from_flags(&flags),
    }
    .map_err(problems)?;
    beside.started(&config);
    let _log = log(&config.log.level, config.log.format);
    let origin = file.map_or_else(|| "flags".to_owned(), |path| path.display().to_string());
    let file = file.zip(text).map(|(path, text)| File { path: path.to_owned(), text, flags, beside });
    run_cold(serve_until_told(config, origin, file, run.cluster, run.print_addresses))?
}

/// A file that settings were read from.
struct File {
    path: PathBuf,
    text: String,
    /// What was said over it.
    flags: Flags,
    /// What it names.
    beside: Beside,
}

/// What settings are made of: two that are equal mean the same.
#[derive(PartialEq)]
struct Texts {
    text: String,
    /// What it names.
    files: Vec<(PathBuf, Contents)>,
}

/// Reads the file again when it, or a file that it names, changes. What only a restart can change is noted, not obeyed. `take` finds the part that
/// is followed.
fn watch<T: Send + 'static>(
    file: File,
    started: &Config,
    take: impl Fn(What) -> Option<T> + Send + 'static,
) -> io::Result<Option<file::Watch<T>>> {
    let File { path, text, flags, beside } = file;
    if !path.is_file() {
        // A pipe, as in `--config <(command)`, can be read once only.
        tracing::warn!("{} is not a regular file: it is not read again", path.display());
        return Ok(None);
    }
    let name = path.display().to_string();
    let started = started.clone();
    let read_from = path.clone();
    let texts = Texts { text, files: beside.files.clone() };
    let paths: Vec<PathBuf> = iter::once(&path).chain(texts.files.iter().map(|(path, _)| path)).cloned().collect();
    let beside = Arc::new(Mutex::new(beside));
    let named = beside.clone();
    let reader = file::Reader {
        read: Box::new(move || {
            let text = config::text(&read_from).map_err(|problems| problems.one_line())?;
            let named = named.lock().expect("no holder of this lock panics");
            let files = named.files.iter().map(|(path, _)| (path.clone(), Contents::read(path))).collect();
            Ok(Texts { text, files })
        }),
        parse: Box::new(move |texts: &mut Texts| {
            let mut beside = beside.lock().expect("no holder of this lock panics");
            let parsed = config::parse_beside(&texts.text, &name, &flags, &mut beside);
            texts.files.clone_from(&beside.files);
            match parsed {
                Ok(config) => {
                    let notes = started.needs_restart(&config);
                    match take(config.what) {
                        Some(declared) => Ok(file::Loaded { declared, notes }),
                        None => Err(notes.join("; ")),
                    }
                }
                Err(problems) => Err(problems.one_line()),
            }
        }),
        // Files that belong together are not always written together.
        patience: if paths.len() > 1 { file::PAIRS } else { file::SECOND_LOOK },
    };
    file::Watch::start(&paths, texts, reader).map(Some)
}

async fn serve_until_told(
    config: Config,
    origin: String,
    file: Option<File>,
    cluster: cli::Cluster,
    print_addresses: bool,
) -> Result<ExitCode, Stop> {
    let workers = config.proxy.workers;
    let has_access_log = config.access_log.is_some();
    let drain = config.proxy.drain.clone();
    // What is wrong with the way to the API server is told before anything has started.
    let rollout = match &config.what {
        What::Declared(_) => None,
        What::Rollout(name, _) => {
            Some(cluster::Rollout::reach(name, &config.ports, cluster).await.map_err(Stop::Other)?)
        }
    };
    let identity = match (&config.replica, &rollout) {
        (Some(replica), _) => Identity::replica(replica.turn(), &replica.seed),
        (None, Some(rollout)) if rollout.has_replicas() => Identity::replica(Turn::default(), &rollout.to_string()),
        (None, _) => Identity::random(),
    };
    let tracing = Tracing::from_env().map_err(Stop::Other)?;
    let bound = splitway::bind(splitway::Settings {
        proxy: config.proxy.clone(),
        admin: config.admin.clone(),
        identity,
        ports: config.ports.clone(),
        following: rollout.as_ref().map(cluster::Rollout::following),
        aliases: config.aliases.clone(),
        record: record::Settings { access_log: config.access_log.clone(), tracing },
    })?;
    // Before anybody can know that we run: from here on no signal ends us unawares.
    let mut end = End::new()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (observations, receiver) = control::channel();
    let (again, asked_again) = mpsc::channel(1);
    let mut running = bound.start(receiver)?;
    match (config.what.clone(), rollout) {
        (What::Rollout(_, overlay), Some(rollout)) => {
            let overlays = |what| match what {
                What::Rollout(_, overlay) => Some(overlay),
                What::Declared(_) => None,
            };
            let watch = file.map(|file| watch(file, &config, overlays)).transpose()?.flatten();
            rollout.follow(overlay, origin, watch, asked_again, observations, running.metrics().clone());
            // There may be nothing to serve for long: `/readyz` tells.
        }
        (What::Declared(declared), _) => {
            let all = |what| match what {
                What::Declared(declared) => Some(declared),
                What::Rollout(..) => None,
            };
            let watch = file.map(|file| watch(file, &config, all)).transpose()?.flatten();
            tokio::spawn(source::follow(declared, origin, watch, asked_again, observations));
            tokio::select! {
                first = first_snapshot(running.status()) => first?,
                () = end.recv() => return Ok(ExitCode::SUCCESS),
            }
        }
        (What::Rollout(..), None) => unreachable!("a Rollout was reached above"),
    }
    tokio::select! {
        opened = running.open() => opened?,
        () = end.recv() => return Ok(ExitCode::SUCCESS),
    }
    match announce(&running, workers, print_addresses, has_access_log) {
        // Nobody wants to know our addresses: that is no reason not to serve.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        announced => announced?,
    }

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

/// Waits until there is something to serve with. What is wrong at start is an error; later it would be refused.
async fn first_snapshot(mut status: control::StatusView) -> Result<(), Stop> {
    let decided = status.wait_for(|status| status.generation > Generation(0) || status.refused.is_some()).await;
    let status = decided.map_err(|_| Stop::Other("the loop that follows the settings has ended".to_owned()))?;
    match &status.refused {
        Some((_, refused)) if status.generation == Generation(0) => {
            Err(Stop::Other(format!("{}: {}", refused.origin, refused.message)))
        }
        _ => Ok(()),
    }
}

/// `to_log`: stdout has lines for programs.
fn announce(running: &splitway::Running, workers: usize, print_addresses: bool, to_log: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if print_addresses {
        let addresses = serde_json::json!({ "listeners": running.listeners(), "admin": running.admin() });
        return writeln!(out, "{addresses}");
    }
    if to_log {
        tracing::info!(listeners = ?running.listeners(), admin = ?running.admin(), "serves with {}", counted(workers, "worker"));
        return Ok(());
    }
    for address in running.listeners() {
        writeln!(out, "proxy   http://{address}/    {}", counted(workers, "worker"))?;
    }
    match running.admin() {
        Some(admin) => writeln!(out, "admin   http://{admin}/\nNext: curl -s http://{admin}/config"),
        None => writeln!(out, "Next: add --admin 127.0.0.1:9090 to see metrics and the live configuration"),
    }
}

/// `1 route`, `2 routes`.
fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn check(path: &Path) -> Result<ExitCode, Stop> {
    let file = path.display();
    let again = |problems| Stop::problems(problems, format!("Next: mend that, then: splitway validate {file}"));
    let what = match config::load(path, &Flags::default()).map_err(again)?.what {
        What::Declared(declared) => format!(
            "{}, split {}, {}",
            counted(declared.backends.len(), "backend"),
            declared.split,
            counted(declared.routes.len(), "route")
        ),
        What::Rollout(name, overlay) => format!("Rollout {name}, {}", counted(overlay.routes.len(), "route")),
    };
    say(format!("{file}: ok: {what}\nNext: splitway run --config {file}\n"))
}

fn look_at(asked: &cli::Lint) -> Result<ExitCode, Stop> {
    let file = asked.file.display().to_string();
    let help = "check the name; - reads standard input";
    let again = |problems| Stop::problems(problems, format!("Next: mend that, then: splitway lint {file}"));
    let (name, text) = if file == "-" {
        ("stdin", splitway::text::read("stdin", Ok(io::stdin().lock()), lint::LARGEST, help))
    } else {
        (&*file, splitway::text::read(&file, std::fs::File::open(&asked.file), lint::LARGEST, help))
    };
    let traffic = asked
        .rps
        .map(|requests_per_second| lint::Traffic { requests_per_second, baseline_error_rate: asked.baseline_error });
    let report = text.and_then(|text| lint::lint(name, &text, traffic)).map_err(again)?;
    let failed = report.counts.errors > 0 || asked.strict && report.counts.warnings > 0;
    let next = match traffic {
        _ if failed => format!("Next: mend that, then: splitway lint {file}"),
        None if !report.tables.is_empty() => {
            format!("Next: splitway lint {file} --rps R")
        }
        _ => format!("Next: kubectl apply -f {file}"),
    };
    match asked.output {
        cli::Output::Json => {
            say(format!("{:#}\n", report.json()))?;
            hint(&next);
        }
        cli::Output::Text => {
            // anstream takes the colours out where nobody could see them.
            let mut out = anstream::stdout().lock();
            writeln!(out, "{}{next}", report.render(true))?;
            out.flush()?;
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
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
    let target = asked.path.as_deref().unwrap_or(&asked.target);
    let question = question(&asked.method, target, headers, asked.client).map_err(Stop::Other)?;
    let question = Asked { port: asked.port, key: asked.key, says_client: asked.client.is_some(), question };
    let (explanation, next) = match asked.config {
        None => run_cold(async {
            let proxies = proxies::Asked::of(asked.proxies, "explain").await?;
            let answer = proxies.first(&to_target(&question)).await.map_err(Stop::Other)?;
            Ok::<_, Stop>((answer, format!("Next: splitway status {}", proxies.flag())))
        })??,
        Some(path) => {
            // Where it would listen is of no importance here, so a file without listeners will do.
            let flags = Flags { listen: vec!["127.0.0.1:0".to_owned()], ..Flags::default() };
            let again = |problems| {
                Stop::problems(problems, format!("Next: mend that, then: splitway validate {}", path.display()))
            };
            let declared = match config::load(&path, &flags).map_err(again)?.what {
                What::Declared(declared) => declared,
                What::Rollout(name, _) => {
                    let why =
                        "whose versions and weights only a proxy knows that runs: ask it, with --rollout or --admin";
                    return Err(Stop::Other(format!("{} follows the Rollout {name}, {why}", path.display())));
                }
            };
            let routing = source::without_names(&declared);
            let snapshot =
                Snapshot::build(routing, &Identity::random(), None).map_err(|error| Stop::Other(error.to_string()))?;
            let explanation = question.explain(&snapshot).map_err(|refusal| Stop::Other(refusal.to_string()))?;
            (explanation, format!("Next: splitway run --config {}", path.display()))
        }
    };
    let text = proxies::write(&explanation, asked.output, |explanation: &Explanation| format!("{explanation}\n"))?;
    say(text).inspect(|_| hint(&next))
}

/// What an admin listener asks for, if it does.
fn token(file: Option<&Path>) -> Result<Option<admin::Token>, Stop> {
    file.map(admin::Token::read).transpose().map_err(|error| Stop::Other(format!("--admin-token-file: {error}")))
}

/// Read as `run` would.
fn rollout_name(text: &str, command: &str) -> Result<config::RolloutName, Stop> {
    let flags = Flags {
        rollout: Some(text.to_owned()),
        // Nothing listens; without an address the settings would not be whole.
        listen: vec!["127.0.0.1:0".to_owned()],
        ..Flags::default()
    };
    let help = format!("Next: splitway {command} --help");
    let config = config::from_flags(&flags).map_err(|problems| Stop::problems(problems, help))?;
    config.rollout().cloned().ok_or_else(|| Stop::Other("expected --rollout NS/NAME".to_owned()))
}

fn look(asked: cli::Check) -> Result<ExitCode, Stop> {
    let name = rollout_name(&asked.rollout, "check")?;
    let output = asked.output;
    let token = token(asked.admin_token_file.as_deref())?;
    let report = run_cold(async {
        let (client, settings) = cluster::look_at(&name, asked, token).await?;
        Ok(splitway::check::check(&client, &settings).await)
    })?
    .map_err(Stop::Other)?;
    let said = match output {
        cli::Output::Json => {
            say(serde_json::to_string_pretty(&report).map_err(|error| Stop::Other(error.to_string()))? + "\n")
        }
        cli::Output::Text => say(report.text(io::stdout().is_terminal() && wants_colour())),
    };
    match said {
        // What nobody reads is wrong all the same.
        Ok(_) | Err(Stop::Unheard) => hint(&report.next()),
        Err(stop) => return Err(stop),
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn complete(shell: Shell) -> Result<ExitCode, Stop> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "splitway", &mut script);
    let next = match shell {
        Shell::Bash => "Next: source <(splitway completions bash)",
        Shell::Fish => "Next: splitway completions fish | source",
        Shell::Zsh => "Next: source <(splitway completions zsh)",
        _ => "Next: load it where your shell starts",
    };
    say(String::from_utf8_lossy(&script)).inspect(|_| hint(next))
}

/// A page for each command, as `man` finds them.
fn man(out: &Path) -> Result<ExitCode, Stop> {
    std::fs::create_dir_all(out)?;
    clap_mangen::generate_to(Cli::command(), out)?;
    hint(&format!("written to {}\nNext: man -l {}", out.display(), out.join("splitway.1").display()));
    Ok(ExitCode::SUCCESS)
}

/// Runs everything but the workers. A look-up of a name that hangs does not keep the process from ending.
fn run_cold<T>(future: impl Future<Output = T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let output = runtime.block_on(future);
    runtime.shutdown_background();
    Ok(output)
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

/// Lines of the log that wait for whoever reads it.
const LINES: usize = 4096;

/// Logs go to stderr: what was asked for goes to stdout. A thread of its own writes them, because a pipe that nobody reads
/// must not keep weights, probes or the end of the process waiting; what finds no room is dropped. Keep what is returned: the
/// last lines are written when it goes, which takes a second at most.
fn log(level: &str, format: LogFormat) -> WorkerGuard {
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES).thread_name("log").finish(io::stderr());
    let subscriber = tracing_subscriber::fmt()
        // The client's own lines say what our watches say, in other words and for each try. Whoever names it hears it.
        .with_env_filter(tracing_subscriber::EnvFilter::new(format!("kube_client=off,{level}")))
        .with_writer(writer)
        .with_target(false)
        // It would report a closed stderr on stderr, and panic.
        .log_internal_errors(false);
    let json = match format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    log_panics();
    if json {
        subscriber.json().init();
    } else {
        subscriber.with_ansi(io::stderr().is_terminal() && wants_colour()).init();
    }
    guard
}

/// A panic costs the connection that it happens in, and is a line of the log like any other.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let said = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(place, thread = std::thread::current().name(), "panicked: {said}");
    }));
}

/// See no-color.org.
fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
