//! What flags and environment variables said, put over what the file says.

use super::amount::WeightKind;
use super::leaf::Leaf;
use super::name::BackendName;
use super::node::Node;
use super::problem::{At, Complaint, Problems, quoted};
use super::read::{Field, List, Named, NonEmpty, Read};
use super::written::{AccessLog, Backend, File, Listener};
use crate::route::weight::{Weight, percentage};
use crate::route::{MAX_TOTAL, Role};

/// Settings from flags (or their environment variables), as they were typed.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--rollout`: `NAMESPACE/NAME`. Its versions and weights are followed, instead of `stable` and `canary`.
    pub rollout: Option<String>,
    /// `--listen`: takes the place of the file's `listeners`. With a Rollout a container port may follow: `:8080=http`.
    pub listen: Vec<String>,
    /// `--admin`.
    pub admin: Option<String>,
    /// `--admin-token-file`.
    pub admin_token_file: Option<String>,
    /// `--stable`: endpoints separated by commas, then perhaps `=` and a weight, as in `:9001,:9002=94.5%`.
    pub stable: Option<String>,
    /// `--canary`: the same for the canary.
    pub canary: Option<String>,
    pub workers: Option<String>,
    /// `--reuse-port`: `true` if nothing is said with it.
    pub reuse_port: Option<String>,
    pub drain_delay: Option<String>,
    pub drain_timeout: Option<String>,
    pub dns_interval: Option<String>,
    /// `--replica`: `0/3` is the first of three.
    pub replica: Option<String>,
    pub log_level: Option<String>,
    pub log_format: Option<String>,
    /// `--metrics-alias`: takes the place of the file's `metrics.aliases`.
    pub metrics_alias: Vec<String>,
    pub access_log: Option<String>,
    /// How many of the requests that went well.
    pub access_log_sample: Option<String>,
    /// Of which role.
    pub access_log_only: Option<String>,
}

impl Flags {
    /// Puts what the flags said over what the file said.
    pub(super) fn apply(&self, file: &mut File, problems: &mut Problems) {
        one("--rollout", &self.rollout, &mut file.rollout, problems);
        self.listeners(file, problems);
        self.backends(file, problems);
        if let Some(text) = &self.replica {
            replica(text, file, problems);
        }
        one("--workers", &self.workers, &mut file.workers, problems);
        one("--reuse-port", &self.reuse_port, &mut file.reuse_port, problems);
        if let Some(text) = &self.drain_delay {
            set("--drain-delay", text, &mut file.drain.get_mut_or_default().delay, problems);
        }
        if let Some(text) = &self.drain_timeout {
            set("--drain-timeout", text, &mut file.drain.get_mut_or_default().timeout, problems);
        }
        if let Some(text) = &self.dns_interval {
            set("--dns-interval", text, &mut file.dns.get_mut_or_default().interval, problems);
        }
        if let Some(text) = &self.log_level {
            set("--log-level", text, &mut file.log.get_mut_or_default().level, problems);
        }
        if let Some(text) = &self.log_format {
            set("--log-format", text, &mut file.log.get_mut_or_default().format, problems);
        }
        if !self.metrics_alias.is_empty() {
            let read = |text: &String| Leaf::read(&Node::text(problems.flag("--metrics-alias", text), text), problems);
            let aliases = self.metrics_alias.iter().filter_map(read).collect();
            file.metrics.get_mut_or_default().aliases = Field::Given(List(aliases));
        }
        if let Some(text) = &self.access_log {
            set("--access-log", text, &mut file.access_log.get_mut_or_default().format, problems);
        }
        if self.access_log_sample.is_some() || self.access_log_only.is_some() {
            self.access_log_parts(file.access_log.get_mut_or_default(), problems);
        }
    }

    /// What is said of the lines means nothing where none are written.
    fn access_log_parts(&self, log: &mut AccessLog, problems: &mut Problems) {
        let sample =
            self.access_log_sample.as_ref().map(|text| set("--access-log-sample", text, &mut log.sample, problems));
        let only = self.access_log_only.as_ref().map(|text| set("--access-log-only", text, &mut log.only, problems));
        let Some(at) = sample.or(only) else { return };
        if log.format.value().is_none_or(|format| format.is_none()) && !matches!(log.format, Field::Broken) {
            let complaint = Complaint::new("which requests have a line is said, and there is no access log");
            problems.add(&at, complaint.help("say --access-log json or --access-log text, too"));
        }
    }

    fn listeners(&self, file: &mut File, problems: &mut Problems) {
        if let Some(text) = &self.admin {
            let admin = file.admin.get_mut_or_default();
            admin.at = set("--admin", text, &mut admin.address, problems);
        }
        if let Some(text) = &self.admin_token_file {
            let admin = file.admin.get_mut_or_default();
            // Names in a file begin at its folder, and those of flags where we are.
            let path = std::path::absolute(text).unwrap_or_else(|_| text.into()).display().to_string();
            let at = set("--admin-token-file", &path, &mut admin.token_file, problems);
            if admin.address.is_absent() {
                admin.at = at;
            }
        }
        if self.listen.is_empty() {
            return;
        }
        let listeners = self.listen.iter().map(|text| {
            let at = problems.flag("--listen", text);
            let (address, port) = match text.split_once('=') {
                Some((address, port)) => (address, Some(port)),
                None => (text.as_str(), None),
            };
            let part = |span: std::ops::Range<usize>| Node::text(at.part(span.clone()), &text[span]);
            Listener {
                address: read(&part(0..address.len()), problems),
                port: port.map_or(Field::Absent, |_| read(&part(address.len() + 1..text.len()), problems)),
                at,
                ..Listener::default()
            }
        });
        file.listeners = Field::Given(NonEmpty(listeners.collect()));
    }

    fn backends(&self, file: &mut File, problems: &mut Problems) {
        if self.stable.is_none() && self.canary.is_none() {
            return;
        }
        let given = [("--stable", Role::Stable, &self.stable), ("--canary", Role::Canary, &self.canary)];
        let versions: Vec<Version> = given
            .into_iter()
            .filter_map(|(flag, role, text)| Version::read(flag, role, text.as_deref()?, problems))
            .collect();
        let at = versions[0].at.clone();
        if !file.rollout.is_absent() {
            let complaint = Complaint::new("a Rollout has the versions and their weights, so there are two answers");
            let complaint = match file.rollout.get() {
                Some(rollout) => complaint.also(&rollout.at, "the Rollout is named here"),
                None => complaint,
            };
            problems.add(&at, complaint.help("leave out --stable and --canary, or the Rollout"));
            return;
        }
        for (field, place) in [
            ("backends", file.backends.get().map(|backends| &backends.at)),
            ("split", file.split.get().map(|split| &split.at)),
        ] {
            if let Some(place) = place {
                let complaint = Complaint::new(format!("the file has its own `{field}`, so there are two answers"));
                problems.add(
                    &at,
                    complaint
                        .also(place, "the file says so here")
                        .help(format!("leave out --stable and --canary, or the file's `{field}`")),
                );
            }
        }
        if self.stable.is_none() {
            let complaint = Complaint::new("expected --stable as well, which is missing");
            problems.add(&at, complaint.help("a canary needs a stable version beside it: add --stable HOST:PORT"));
            (file.backends, file.split) = (Field::Broken, Field::Broken);
            return;
        }
        file.split = split(&versions, problems).map_or(Field::Broken, Field::Given);
        let complete = versions.iter().all(|version| version.backend.is_some());
        let entries = versions.into_iter().map(|version| (name(version.role, &version.at), version.backend)).collect();
        file.backends = Field::Given(Named { at, entries, complete });
    }
}

/// What `--stable` or `--canary` says.
struct Version {
    at: At,
    role: Role,
    backend: Option<Backend>,
    /// `None`: no weight was given. `Some(None)`: one that could not be read.
    weight: Option<Option<Leaf<WeightKind>>>,
}

impl Version {
    fn read(flag: &str, role: Role, text: &str, problems: &mut Problems) -> Option<Self> {
        let at = problems.flag(flag, text);
        let (addresses, weight) = match text.split_once('=') {
            Some((addresses, weight)) => (addresses, Some((addresses.len() + 1, weight))),
            None => (text, None),
        };
        let mut endpoints = Vec::new();
        let mut start = 0;
        for address in addresses.split(',') {
            let node = Node::text(at.part(start..start + address.len()), address);
            endpoints.push(Leaf::read(&node, problems));
            start += address.len() + 1;
        }
        let endpoints: Option<Vec<_>> = endpoints.into_iter().collect();
        let backend = endpoints.map(|items| Backend {
            at: at.clone(),
            endpoints: Field::Given(NonEmpty(items)),
            ..Backend::default()
        });
        let weight = weight.map(|(start, weight)| {
            let node = Node::text(at.part(start..start + weight.len()), weight);
            Leaf::read(&node, problems)
        });
        Some(Self { at, role, backend, weight })
    }
}

/// The weights that the flags ask for: what one version leaves of 100 % is the other's.
fn split(versions: &[Version], problems: &mut Problems) -> Option<Named<BackendName, Leaf<WeightKind>>> {
    let leaf =
        |version: &Version, weight: Weight| Leaf { value: weight, text: weight.to_string(), at: version.at.clone() };
    let weights: Vec<Leaf<WeightKind>> = match versions {
        [one] => match &one.weight {
            None => vec![leaf(one, Weight::Percent(MAX_TOTAL))],
            Some(weight) => vec![weight.clone()?],
        },
        [stable, canary] => match (&stable.weight, &canary.weight) {
            (None, None) => vec![leaf(stable, Weight::Percent(MAX_TOTAL)), leaf(canary, Weight::Percent(0))],
            (Some(stable), Some(canary)) => vec![stable.clone()?, canary.clone()?],
            (Some(given), None) => vec![given.clone()?, leaf(canary, rest(given.as_ref()?, "--canary", problems)?)],
            (None, Some(given)) => vec![leaf(stable, rest(given.as_ref()?, "--stable", problems)?), given.clone()?],
        },
        _ => return None,
    };
    let entries = versions.iter().zip(weights).map(|(version, weight)| (name(version.role, &version.at), Some(weight)));
    Some(Named { at: versions[0].at.clone(), entries: entries.collect(), complete: true })
}

fn rest(given: &Leaf<WeightKind>, other: &str, problems: &mut Problems) -> Option<Weight> {
    match given.value {
        Weight::Percent(units) => Some(Weight::Percent(MAX_TOTAL - units)),
        Weight::Plain(weight) => {
            let whole = u64::from(weight) * u64::from(MAX_TOTAL / 100);
            let or = if weight <= 100 { format!("write `{}`, or ", percentage(whole)) } else { String::new() };
            let complaint = Complaint::new(format!("expected a percentage, found the whole number {weight} alone"));
            problems.add(&given.at, complaint.help(format!("{or}give {other} a whole number too")));
            None
        }
    }
}

fn name(role: Role, at: &At) -> Leaf<BackendName> {
    Leaf { value: role.as_str().to_owned(), text: role.as_str().to_owned(), at: at.clone() }
}

fn replica(text: &str, file: &mut File, problems: &mut Problems) {
    let at = problems.flag("--replica", text);
    let Some((index, of)) = text.split_once('/') else {
        let complaint = Complaint::expected("an index and a number of replicas such as `0/3`", &quoted(text));
        problems.add(&at, complaint.help("the first of three is `0/3`"));
        return;
    };
    let replica = file.replica.get_mut_or_default();
    replica.at = at.clone();
    replica.index = read(&Node::text(at.part(0..index.len()), index), problems);
    replica.of = read(&Node::text(at.part(index.len() + 1..text.len()), of), problems);
}

fn one<T: Read>(flag: &str, text: &Option<String>, field: &mut Field<T>, problems: &mut Problems) {
    if let Some(text) = text {
        set(flag, text, field, problems);
    }
}

/// Reads a flag's text into a field, and says where it stands.
fn set<T: Read>(flag: &str, text: &str, field: &mut Field<T>, problems: &mut Problems) -> At {
    let at = problems.flag(flag, text);
    *field = read(&Node::text(at.clone(), text), problems);
    at
}

fn read<T: Read>(node: &Node, problems: &mut Problems) -> Field<T> {
    T::read(node, problems).map_or(Field::Broken, Field::Given)
}
