//! The command line as typed. What it means is settled in `config` (settings) and in `main` (commands).

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand};

const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit:   ",
    env!("SPLITWAY_COMMIT"),
    "\nprofile:  ",
    env!("SPLITWAY_PROFILE"),
    "\nfeatures: HTTP/1.1, HTTP/2, TLS; sources: Rollout, file, flags; allocator: mimalloc"
);

/// Twenty-four lines are a screen.
const TERSE: &str = "{before-help}{usage-heading} {usage}\n\n{options}{after-help}";

/// What `splitway` alone says.
pub const WAYS_TO_BEGIN: &str = "\
splitway: an exact HTTP traffic split in front of the versions of one application

Four ways to begin:

  splitway demo
      see it work: two small versions, a rollout from 5 % to 100 %, nothing to set up

  splitway run --listen :8080 --stable :9001 --canary :9002=5.5%
      an exact split in front of two versions that run already

  splitway run --config splitway.yaml
      the same from a file that can be edited while it runs: routes, users, limits

  splitway run --listen :8080 --rollout services/shop
      in front of an Argo Rollout: its weights and pods, as its controller moves them

Next: splitway demo        All commands: splitway --help
";

#[derive(Parser)]
#[command(
    name = "splitway",
    version,
    long_version = LONG_VERSION,
    about = "An exact HTTP traffic split in front of the versions of one application",
    before_help = "Examples:\n  splitway demo\n  splitway run --listen :8080 --stable :9001 --canary :9002=5.5%",
    after_help = "Of each: splitway COMMAND --help. Its own: splitway --version.\nNext: splitway demo",
    help_template = "{before-help}{about}\n\n{usage-heading} {usage}\n\n{subcommands}{after-help}",
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Show it at work: two versions, a scripted rollout, a steady load
    Demo(Demo),
    /// Serve: split traffic between the versions of an application
    Run(Box<Run>),
    /// Check a file and show everything that is wrong with it
    Validate(Validate),
    /// Show how a rollout stands, and why it waits
    Status(Status),
    /// Show it live on a whole screen, with latencies and failures
    Top(Top),
    /// Tell what became of the last rollouts
    Report(Report),
    /// Tell which version a request would get, and why
    Explain(Explain),
    /// Tell what is wrong with a Rollout, and what its steps can prove
    Lint(Lint),
    /// Find out why a Rollout cannot be followed, or is not
    Check(Check),
    /// Serve a tiny version of an application, to try things with
    App(App),
    /// Print the JSON Schema of the file, for editors
    #[command(
        before_help = "Example:\n  splitway schema > splitway.json",
        after_help = "Next, on top of splitway.yaml: # yaml-language-server: $schema=splitway.json"
    )]
    Schema,
    /// Write a manual page for each command
    #[command(
        before_help = "Example:\n  splitway man --out ~/.local/share/man/man1",
        after_help = "Next: man splitway"
    )]
    Man {
        /// The folder; it is made if it is not there
        #[arg(long, default_value = ".", value_name = "DIR")]
        out: PathBuf,
    },
    /// Print completions for a shell
    #[command(
        before_help = "Examples:\n  source <(splitway completions bash)\n  splitway completions fish | source",
        after_help = "Next: splitway, a space, and the tabulator"
    )]
    Completions {
        /// The shell to complete in
        shell: clap_complete::Shell,
    },
}

#[derive(Args)]
#[command(
    before_help = "Examples:\n  splitway demo\n  splitway demo --once --step 2s\n  splitway demo --fail-canary",
    after_help = "Next, while it runs: the curl lines that it prints"
)]
pub struct Demo {
    /// Walk the steps once, then end with exit code 0
    #[arg(long)]
    pub once: bool,
    /// Let the canary answer 500 for one request in five
    #[arg(long)]
    pub fail_canary: bool,
    /// Time per step
    #[arg(long, default_value = "5s", value_parser = duration, value_name = "DURATION")]
    pub step: Duration,
    /// Requests per second, 1 to 5000
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=5000), value_name = "N")]
    pub rate: u32,
    /// The proxy; if the port is in use, another
    #[arg(long, default_value = "127.0.0.1:8080", value_parser = loopback, value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// For metrics and more; likewise
    #[arg(long, default_value = "127.0.0.1:9090", value_parser = loopback, value_name = "ADDRESS")]
    pub admin: SocketAddr,
}

#[derive(Args)]
#[command(
    before_help = "Examples:\n  splitway app --name stable --listen :9001\n  splitway app --name canary --listen :9002 --fail-one-in 5",
    after_help = "Next: splitway run --listen :8080 --stable :9001 --canary :9002=5.5%"
)]
pub struct App {
    /// What it calls itself in its answers
    #[arg(long, default_value = "stable", value_name = "NAME")]
    pub name: String,
    /// Where it listens; may be repeated
    #[arg(long, default_value = "127.0.0.1:0", value_parser = loopback, value_name = "ADDRESS")]
    pub listen: Vec<SocketAddr>,
    /// Answer 500 to one request in so many
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    pub fail_one_in: Option<u64>,
}

/// An address of this machine's own. Unlike a listener of `run`, a port alone is not open to the network.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let expected = || "expected an IP address and a port such as 127.0.0.1:8080, or :8080 for the same".to_owned();
    match text.strip_prefix(':') {
        Some(port) => port.parse().map(|port: u16| ([127, 0, 0, 1], port).into()).map_err(|_| expected()),
        None => text.parse().map_err(|_| expected()),
    }
}

/// One that is asked: as [`loopback`], by its name, or as `run` and browsers show it.
fn listener(text: &str) -> Result<SocketAddr, String> {
    let address = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    if text.starts_with("https://") {
        return Err("an admin listener has no TLS; expected an address such as 127.0.0.1:9090".to_owned());
    }
    loopback(address).or_else(|error| {
        let named =
            address.rsplit_once(':').is_some_and(|(name, port)| !name.is_empty() && port.parse::<u16>().is_ok());
        if !named || address.contains('/') {
            return Err(format!("{error}, or a name and a port"));
        }
        let found = address.to_socket_addrs().map_err(|error| format!("the name is not known: {error}"))?;
        // `localhost` is both, and listeners of this machine's own are 127.0.0.1 as a rule.
        found.min_by_key(SocketAddr::is_ipv6).ok_or_else(|| "the name has no address".to_owned())
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration =
        humantime::parse_duration(text).map_err(|error| format!("{error}; expected for example 500ms, 2s or 1m"))?;
    if (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&duration) {
        Ok(duration)
    } else {
        Err("expected 100ms to 1h".to_owned())
    }
}

#[derive(Args)]
#[command(
    before_help = "Examples:\n  splitway run --config splitway.yaml\n  splitway run --listen :8080 --stable :9001 --canary :9002=5.5%\n  splitway run --listen :8080 --rollout services/shop",
    after_help = "Variables, as in SPLITWAY_LISTEN, win over the file, and flags over both.\nNext: splitway explain",
    help_template = TERSE
)]
pub struct Run {
    /// The YAML file; read again whenever it is edited
    #[arg(short, long, env = "SPLITWAY_CONFIG", hide_env = true, value_name = "FILE")]
    pub config: Option<OsString>,
    #[command(flatten)]
    pub settings: Settings,
    #[command(flatten)]
    pub cluster: Cluster,
    /// Print the settings as the same YAML file, and end
    #[arg(long)]
    pub print_config: bool,
    /// Print the addresses really bound, as a JSON line
    #[arg(long)]
    pub print_addresses: bool,
}

/// Where a Rollout is.
#[derive(Args, Default)]
pub struct Place {
    /// Which API server [default: the pod's or yours]
    #[arg(long, env = "SPLITWAY_KUBECONFIG", hide_env = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Which context of the kubeconfig
    #[arg(long, env = "SPLITWAY_CONTEXT", hide_env = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The Rollout's, if --rollout does not say it
    #[arg(short, long, env = "SPLITWAY_NAMESPACE", hide_env = true, value_name = "NAME")]
    pub namespace: Option<String>,
}

/// How a Rollout is followed. (`--port` has no variable: Kubernetes itself sets `SPLITWAY_PORT` in every pod of a namespace
/// with a Service named `splitway`.)
#[derive(Args, Default)]
pub struct Cluster {
    #[command(flatten)]
    pub place: Place,
    /// The application's [default: the stable Service's]
    #[arg(long, value_name = "PORT")]
    pub port: Option<String>,
    /// The proxy's own: replicas take turns, by $POD_IP
    #[arg(long, env = "SPLITWAY_SERVICE", hide_env = true, value_name = "NAME")]
    pub service: Option<String>,
    /// Keeps state for starts without the API server
    #[arg(long, env = "SPLITWAY_STATE_DIR", hide_env = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

#[derive(Args, Default)]
pub struct Settings {
    /// Follow this Argo Rollout, as in services/shop
    #[arg(short, long, env = "SPLITWAY_ROLLOUT", hide_env = true, value_name = "NS/NAME")]
    pub rollout: Option<String>,
    /// Where clients come in, as in :8080 or :8080=http
    #[arg(short, long, env = "SPLITWAY_LISTEN", hide_env = true, value_delimiter = ',', value_name = "ADDRESS")]
    pub listen: Vec<String>,
    /// Metrics, health and more, as in 127.0.0.1:9090
    #[arg(long, env = "SPLITWAY_ADMIN", hide_env = true, value_name = "ADDRESS")]
    pub admin: Option<String>,
    /// Ask for this file's token there
    #[arg(long, env = "SPLITWAY_ADMIN_TOKEN_FILE", hide_env = true, value_name = "F")]
    pub admin_token_file: Option<String>,
    /// Endpoints of the stable version: :9001,:9003
    #[arg(long, env = "SPLITWAY_STABLE", hide_env = true, value_name = "ENDPOINTS")]
    pub stable: Option<String>,
    /// The same of the canary, and its share: :9002=5.5%
    #[arg(long, env = "SPLITWAY_CANARY", hide_env = true, value_name = "ENDPOINTS")]
    pub canary: Option<String>,
    /// Threads [default: the cores it may use]
    #[arg(long, env = "SPLITWAY_WORKERS", hide_env = true, value_name = "N")]
    pub workers: Option<String>,
    /// Let a new process take over: both need it
    #[arg(
        long,
        env = "SPLITWAY_REUSE_PORT",
        hide_env = true,
        value_name = "BOOL",
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    pub reuse_port: Option<String>,
    /// Which of several proxies this one is, as in 0/3
    #[arg(long, env = "SPLITWAY_REPLICA", hide_env = true, value_name = "I/N")]
    pub replica: Option<String>,
    /// From "not ready" to not accepting [default: 5s]
    #[arg(long, env = "SPLITWAY_DRAIN_DELAY", hide_env = true, value_name = "TIME")]
    pub drain_delay: Option<String>,
    /// Then, for requests in flight [default: 30s]
    #[arg(long, env = "SPLITWAY_DRAIN_TIMEOUT", hide_env = true, value_name = "TIME")]
    pub drain_timeout: Option<String>,
    /// How often names are looked up again [default: 5s]
    #[arg(long, env = "SPLITWAY_DNS_INTERVAL", hide_env = true, value_name = "TIME")]
    pub dns_interval: Option<String>,
    /// error, warn, info, debug, trace [default: info]
    #[arg(long, env = "SPLITWAY_LOG_LEVEL", hide_env = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// auto, text or json [default: auto]
    #[arg(long, env = "SPLITWAY_LOG_FORMAT", hide_env = true, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Requests under others' names, too: istio, nginx
    #[arg(long, env = "SPLITWAY_METRICS_ALIAS", hide_env = true, value_delimiter = ',', value_name = "NAME")]
    pub metrics_alias: Vec<String>,
    /// json or text: a line per request, on stdout
    #[arg(long, env = "SPLITWAY_ACCESS_LOG", hide_env = true, value_name = "FORMAT")]
    pub access_log: Option<String>,
    /// How many of the requests that went well, as in 5%
    #[arg(long, env = "SPLITWAY_ACCESS_LOG_SAMPLE", hide_env = true, value_name = "P")]
    pub access_log_sample: Option<String>,
    /// Only those of stable, canary or experiment
    #[arg(long, env = "SPLITWAY_ACCESS_LOG_ONLY", hide_env = true, value_name = "R")]
    pub access_log_only: Option<String>,
}

#[derive(Args)]
#[command(before_help = "Example:\n  splitway validate splitway.yaml", after_help = "Next: splitway run --config FILE")]
pub struct Validate {
    /// The YAML file
    pub file: PathBuf,
}

#[derive(Args)]
#[command(
    before_help = "Examples:\n  splitway lint rollout.yaml\n  splitway lint rollout.yaml --rps 20 --baseline-error 0.5%\n  helm template chart | splitway lint - --strict",
    after_help = "Exit code 1 if there are errors. docs/lint.md has every rule.\nNext: kubectl apply -f FILE"
)]
pub struct Lint {
    /// YAML or JSON, with the Services and AnalysisTemplates if you like; - is stdin
    pub file: PathBuf,
    /// Requests per second of the whole application
    #[arg(long, value_parser = rate, value_name = "R")]
    pub rps: Option<f64>,
    /// The share of requests that fails anyway
    #[arg(long, default_value = "0.1%", value_parser = share, value_name = "E")]
    pub baseline_error: f64,
    /// Take warnings for errors
    #[arg(long)]
    pub strict: bool,
    /// For people or for programs
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    pub output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    Text,
    Json,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| *rate > 0.0 && *rate <= 1e9);
    rate.ok_or_else(|| "expected a number above 0, such as 0.2 or 500".to_owned())
}

/// `0.1%` or 0.001; a number without a percent sign that looks like one is refused.
fn share(text: &str) -> Result<f64, String> {
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.trim_end().parse().ok().map(|percent: f64| percent / 100.0),
        None => text.parse().ok(),
    };
    share.filter(|share| (0.0..=0.5).contains(share)).ok_or_else(|| "expected 0% to 50%, such as 0.1%".to_owned())
}

/// Which proxies are asked: one of [`BY`] has to be said.
#[derive(Args)]
pub struct Proxies {
    /// The admin listener of a proxy that runs
    #[arg(long, value_parser = listener, value_name = "ADDRESS")]
    pub admin: Option<SocketAddr>,
    /// With the token that it asks for
    #[arg(long, env = "SPLITWAY_ADMIN_TOKEN_FILE", hide_env = true, value_name = "F")]
    pub admin_token_file: Option<PathBuf>,
    /// Or the proxies of this Rollout, by the API server
    #[arg(short, long, env = "SPLITWAY_ROLLOUT", hide_env = true, value_name = "NS/NAME")]
    pub rollout: Option<String>,
    #[command(flatten)]
    pub place: Place,
    /// Where the pods listen for admin
    #[arg(long, default_value_t = 9090, value_name = "PORT")]
    pub admin_port: u16,
}

/// The two ways to the proxies that run.
const BY: [&str; 2] = ["admin", "rollout"];

fn one_of(flags: &[&'static str]) -> ArgGroup {
    ArgGroup::new("whom").args(flags.to_vec()).required(true)
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    Table,
    Json,
    Yaml,
}

#[derive(Args)]
#[command(
    before_help = "Examples:\n  splitway status --admin :9090\n  splitway status --rollout services/shop --watch",
    after_help = "Next: splitway top, splitway report, splitway explain",
    help_template = TERSE,
    group = one_of(&BY)
)]
pub struct Status {
    #[command(flatten)]
    pub proxies: Proxies,
    /// Show it anew each second, until Ctrl-C
    #[arg(short, long)]
    pub watch: bool,
    /// table, json or yaml
    #[arg(short, long, default_value = "table", value_name = "FORM", hide_possible_values = true)]
    pub output: Form,
}

#[derive(Args)]
#[command(
    before_help = "Examples:\n  splitway top --admin :9090\n  splitway top --rollout services/shop",
    after_help = "Needs 60 columns and 12 lines; ? has help. NO_COLOR takes the colours out.\nNext: splitway status, splitway explain",
    help_template = TERSE,
    group = one_of(&BY)
)]
pub struct Top {
    #[command(flatten)]
    pub proxies: Proxies,
}

#[derive(Args)]
#[command(
    before_help = "Examples:\n  splitway report --admin :9090\n  splitway report --rollout services/shop --number 3 -o yaml",
    after_help = "Next: docs/analysis.md says what the words mean",
    help_template = TERSE,
    group = one_of(&BY)
)]
pub struct Report {
    #[command(flatten)]
    pub proxies: Proxies,
    /// This one only; they count from 1
    #[arg(long, value_name = "N")]
    pub number: Option<u64>,
    /// table, json or yaml
    #[arg(short, long, default_value = "table", value_name = "FORM", hide_possible_values = true)]
    pub output: Form,
}

#[derive(Args)]
#[command(
    before_help = "Examples:\n  splitway explain --rollout services/shop --key alice\n  splitway explain --config splitway.yaml /cart --header 'x-team: qa'",
    after_help = "Next: splitway status",
    override_usage = "splitway explain [OPTIONS] [PATH]",
    help_template = TERSE,
    group = one_of(&["admin", "rollout", "config"])
)]
pub struct Explain {
    #[command(flatten)]
    pub proxies: Proxies,
    /// Or ask this file
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The user, sent as whatever users are known by
    #[arg(short, long, value_name = "USER")]
    pub key: Option<String>,
    /// The path, with its query
    #[arg(default_value = "/", value_name = "PATH")]
    pub target: String,
    /// The same
    #[arg(long, value_name = "PATH", conflicts_with = "target", hide = true)]
    pub path: Option<String>,
    /// The method
    #[arg(short, long, default_value = "GET")]
    pub method: String,
    /// A header, as in 'x-user: 42'; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// A cookie, as in uid=7; may be repeated
    #[arg(short = 'b', long = "cookie", value_name = "NAME=VALUE")]
    pub cookies: Vec<String>,
    /// The client's address [default: 127.0.0.1]
    #[arg(long, value_name = "IP")]
    pub client: Option<IpAddr>,
    /// Which of several ports, by name
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub port: Option<String>,
    /// table, json or yaml
    #[arg(short, long, default_value = "table", value_name = "FORM", hide_possible_values = true)]
    pub output: Form,
}

#[derive(Args)]
#[command(
    before_help = "Examples:\n  splitway check --rollout services/shop\n  splitway check --rollout services/shop --admin 127.0.0.1:9090\n  kubectl exec deploy/splitway -- splitway check -r services/shop --admin :9090",
    after_help = "Exit code 1 if something failed. Nothing is ever written.\nNext: docs/check.md has a section for every line",
    help_template = TERSE
)]
pub struct Check {
    /// The Argo Rollout, as in services/shop
    #[arg(short, long, env = "SPLITWAY_ROLLOUT", hide_env = true, value_name = "NS/NAME")]
    pub rollout: String,
    #[command(flatten)]
    pub place: Place,
    /// The application's; may be repeated [default: the stable Service's]
    #[arg(long = "port", value_name = "PORT")]
    pub ports: Vec<String>,
    /// Ask a proxy that runs, too, through its admin listener
    #[arg(long, value_parser = listener, value_name = "ADDRESS")]
    pub admin: Option<SocketAddr>,
    /// With the token that it asks for
    #[arg(long, env = "SPLITWAY_ADMIN_TOKEN_FILE", hide_env = true, value_name = "F")]
    pub admin_token_file: Option<PathBuf>,
    /// For people or programs
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    pub output: Output,
}

impl From<Settings> for splitway::config::Flags {
    /// An empty variable is as good as none.
    fn from(settings: Settings) -> Self {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        Self {
            rollout: given(settings.rollout),
            listen: settings.listen.into_iter().filter(|text| !text.is_empty()).collect(),
            admin: given(settings.admin),
            admin_token_file: given(settings.admin_token_file),
            stable: given(settings.stable),
            canary: given(settings.canary),
            workers: given(settings.workers),
            reuse_port: given(settings.reuse_port),
            replica: given(settings.replica),
            drain_delay: given(settings.drain_delay),
            drain_timeout: given(settings.drain_timeout),
            dns_interval: given(settings.dns_interval),
            log_level: given(settings.log_level).or_else(|| given(std::env::var("RUST_LOG").ok())),
            log_format: given(settings.log_format),
            metrics_alias: settings.metrics_alias.into_iter().filter(|text| !text.is_empty()).collect(),
            access_log: given(settings.access_log),
            access_log_sample: given(settings.access_log_sample),
            access_log_only: given(settings.access_log_only),
        }
    }
}
