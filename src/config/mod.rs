//! Start-up settings and the configuration file: from what was written to what was meant.
//!
//! COLD: read at start and at every reload. Flags (or their environment variables) come first, then the file, then the
//! defaults. Whatever is wrong, all of it is reported at once, and nothing here can panic on any input.
//!
//! Files, in reading order:
//!
//! * this one: what was meant, and the ways to get it;
//! * `written`: the fields of the file with their documentation, which is also the schema;
//! * `check`: from written to meant, with every rule that concerns more than one value;
//! * `secure`: the part of that which is about TLS;
//! * `leaf`, with `amount`, `address` and `name`: the rules of single values;
//! * `flags`: what flags put over the file;
//! * `read`: from the tree to typed fields, noting problems without stopping at them.
//!
//! The tree itself and the problems live in [`crate::text`].

mod address;
mod amount;
mod check;
mod flags;
mod leaf;
mod name;
mod read;
mod secure;
mod written;

#[cfg(test)]
mod tests;

pub use crate::text::problem::{Problem, Problems};
pub use flags::Flags;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::metrics::Alias;
use crate::record::access_log;
use crate::route::PortName;
use crate::route::picker::Turn;
use crate::route::transport::Tls;
use crate::text::{node, problem};
use crate::tls::{Contents, Front, front};
use crate::{admin, proxy, source};
use problem::Complaint;
use read::Read as _;

/// What a hostile file may cost.
const LIMITS: node::Limits = node::Limits {
    // A ConfigMap cannot be larger either.
    bytes: 1 << 20,
    // The deepest field that means anything is at 7.
    depth: 32,
    nodes: 100_000,
};

/// What was meant: checked, complete, with every default filled in.
#[derive(Clone, Debug)]
pub struct Config {
    /// Takes effect at start only; a reload that changes it says so and leaves it.
    pub proxy: proxy::Settings,
    /// At start only.
    pub admin: Option<admin::Settings>,
    /// At start only.
    pub replica: Option<Replica>,
    /// At start only.
    pub log: Log,
    /// At start only.
    pub aliases: Vec<Alias>,
    /// At start only. `None`: no access log.
    pub access_log: Option<access_log::Settings>,
    /// The application's ports, which the listeners point at by number. At start only.
    pub ports: Vec<PortName>,
    pub what: What,
}

/// Where the versions and their weights come from. Which of the two it is, is settled at start.
#[derive(Clone, Debug)]
pub enum What {
    /// From here. Takes effect at start and at every reload.
    Declared(source::Declared),
    /// From a Rollout (at start only); the rest is from here and takes effect at start and at every reload.
    Rollout(RolloutName, source::Overlay),
}

/// Which Argo Rollout is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutName {
    /// `None`: it was not written with the name.
    pub namespace: Option<String>,
    pub name: String,
}

impl fmt::Display for RolloutName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// This process's place among several that share one split and take turns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Below `of`.
    pub index: u32,
    pub of: u32,
    /// The same for all of them.
    pub seed: String,
}

impl Replica {
    pub fn turn(&self) -> Turn {
        Turn::new(self.index, self.of).expect("an index that is too large was refused")
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A level, or directives such as `info,splitway=debug`.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    Text,
    Json,
}

/// What a reading of the settings finds beside their text, and leaves for the next one.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    /// Every other file that was read, with what it said: these decide what the settings mean. Those of listeners are not
    /// among them: they are followed by themselves.
    pub files: Vec<(PathBuf, Contents)>,
    /// Those that run. A listener that is still meant to be one of them is that one, and its files are not looked at.
    fronts: Vec<Front>,
    /// Those of the last good reading, and those of this one.
    backs: Vec<Tls>,
    made: Vec<Tls>,
}

impl Beside {
    fn read(&mut self, path: &Path) -> Result<Vec<u8>, String> {
        let read = crate::tls::pem::read(path);
        if !self.files.iter().any(|(known, _)| known == path) {
            self.files.push((path.to_owned(), Contents::of(read.clone())));
        }
        read
    }

    /// What runs and is meant to be the same.
    fn running(&self, settings: &front::Settings) -> Option<Front> {
        self.fronts.iter().find(|front| front.settings() == Some(settings)).cloned()
    }

    /// From now on that is what runs.
    pub fn started(&mut self, config: &Config) {
        self.fronts = config.proxy.listeners.iter().filter_map(|listener| listener.tls.clone()).collect();
    }
}

impl Config {
    /// The Rollout that is followed, if one is.
    pub fn rollout(&self) -> Option<&RolloutName> {
        match &self.what {
            What::Declared(_) => None,
            What::Rollout(name, _) => Some(name),
        }
    }

    /// What `newer` would change, and only a restart can: one sentence each.
    pub fn needs_restart(&self, newer: &Config) -> Vec<String> {
        let changes = [
            ("listeners", self.proxy.listeners != newer.proxy.listeners || self.ports != newer.ports),
            ("rollout", self.rollout() != newer.rollout()),
            ("admin", self.admin != newer.admin),
            ("workers", self.proxy.workers != newer.proxy.workers),
            ("reuse-port", self.proxy.reuse_port != newer.proxy.reuse_port),
            ("drain", self.proxy.drain != newer.proxy.drain),
            ("replica", self.replica != newer.replica),
            ("log", self.log != newer.log),
            ("metrics", self.aliases != newer.aliases),
            ("access-log", self.access_log != newer.access_log),
        ];
        let changed = changes.into_iter().filter(|(_, changed)| *changed);
        changed
            .map(|(field, _)| format!("{field} has changed in the file; it takes effect at the next start"))
            .collect()
    }
}

/// Reads a file, with what flags said over it.
pub fn load(path: &Path, flags: &Flags) -> Result<Config, Problems> {
    let name = path.display().to_string();
    parse(&text(path)?, &name, flags)
}

/// Does without a file.
pub fn from_flags(flags: &Flags) -> Result<Config, Problems> {
    read(None, flags, &mut Beside::default()).map(|(config, _)| config)
}

/// Reads the text of a file. `file_name` is for messages, and its folder is where relative names of files begin.
pub fn parse(text: &str, file_name: &str, flags: &Flags) -> Result<Config, Problems> {
    parse_beside(text, file_name, flags, &mut Beside::default())
}

/// The same, with what is beside it.
pub fn parse_beside(text: &str, file_name: &str, flags: &Flags, beside: &mut Beside) -> Result<Config, Problems> {
    read(Some((text, file_name)), flags, beside).map(|(config, _)| config)
}

/// A file that means the same as `path` (if there is one) and `flags` together. It is checked first.
pub fn to_yaml(path: Option<&Path>, flags: &Flags) -> Result<String, Problems> {
    let Some(path) = path else { return print(None, flags) };
    let name = path.display().to_string();
    print(Some((&text(path)?, &name)), flags)
}

/// The JSON Schema (draft 2020-12) of the file, for editors.
pub fn schema() -> String {
    let generator = schemars::generate::SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<written::File>();
    schema.insert("title".to_owned(), "splitway.yaml".into());
    format!("{:#}", schema.to_value())
}

fn print(file: Option<(&str, &str)>, flags: &Flags) -> Result<String, Problems> {
    let (_, written) = read(file, flags, &mut Beside::default())?;
    serde_saphyr::to_string(&written).map_err(|error| {
        let complaint = Complaint::new(format!("these settings cannot be printed as YAML: {error}"));
        Problems::unreadable(file.map_or("", |(_, name)| name), complaint)
    })
}

fn read(file: Option<(&str, &str)>, flags: &Flags, beside: &mut Beside) -> Result<(Config, written::File), Problems> {
    beside.files.clear();
    beside.made.clear();
    let (text, name) = file.unwrap_or_default();
    let mut problems = Problems::new(name, text);
    let written = match file {
        None => Some(written::File::default()),
        Some((text, _)) => {
            node::parse(text, &LIMITS, &mut problems).and_then(|node| written::File::read(&node, &mut problems))
        }
    };
    let result = written.and_then(|mut written| {
        flags.apply(&mut written, &mut problems);
        let folder = Path::new(name).parent().unwrap_or(Path::new(""));
        check::check(&written, folder, beside, &mut problems).map(|config| (config, written))
    });
    let result = problems.unless(result)?;
    beside.backs = std::mem::take(&mut beside.made);
    Ok(result)
}

/// A file's text, if it is one of bearable size.
pub fn text(path: &Path) -> Result<String, Problems> {
    let help = "check the name; `splitway run --help` shows how to begin without a file";
    crate::text::read(&path.display().to_string(), std::fs::File::open(path), LIMITS.bytes, help)
}
