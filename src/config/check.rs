//! From what was written to what was meant: everything that needs more than one field to judge, and the defaults.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::amount::WeightKind;
use super::leaf::{Kind, Leaf};
use super::name::{BackendName, Expression};
use super::problem::{At, Complaint, Problems, closest, quoted};
use super::read::Field;
use super::written::{
    Backend, Conditions, Cookie, File, KeySource, Match, Mirror, PathMatch, Route, RouteTimeouts, Sticky, Upstream,
    ValueMatch, Weights,
};
use super::{Beside, Config, Log, LogFormat, Replica, What, access_log};
use crate::admin;
use crate::metrics::Alias;
use crate::proxy::{self, Listener};
use crate::route::bucket::{self, BucketCookie, SameSite};
use crate::route::matches::{self, Match as Meant};
use crate::route::policy::{Limits, Mirroring, Outliers, Policy, Retry, Timeouts};
use crate::route::weight::{self, SumError};
use crate::route::{self, Action, Override, PortName, Role, RouteName, Share, Shares, SharesError, VersionHash};
use crate::source::{Declared, DeclaredBackend, Overlay};
use crate::tls::Front;

/// The salt and the seed of those who do not choose one.
const NAME: &str = "splitway";
const DNS_INTERVAL: Duration = Duration::from_secs(5);
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=4096;
/// Each compiled expression may take a megabyte.
const MOST_EXPRESSIONS: usize = 1000;

/// Where the versions and their weights come from, which decides what else may be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The file, or the flags in its place.
    Declared,
    /// A Rollout.
    Rollout,
}

/// `None`: problems were added. `folder` is where relative names of files begin.
pub(super) fn check(file: &File, folder: &Path, beside: &mut Beside, problems: &mut Problems) -> Option<Config> {
    let mode = if file.rollout.is_absent() { Mode::Declared } else { Mode::Rollout };
    let mut checking =
        Checking { mode, names: None, expressions: 0, folder, beside, upstream_is_wrong: false, problems };
    let listeners = checking.listeners(file);
    let admin = checking.admin(file, &listeners);
    let transport = match mode {
        Mode::Declared => None,
        Mode::Rollout => checking.transport(None, file.upstream.get(), &[]),
    };
    let (backends, split) = match mode {
        Mode::Declared => {
            let backends = checking.backends(file);
            let split = checking.split(file, backends.as_deref());
            (backends, split)
        }
        Mode::Rollout => {
            checking.nothing_declared(file);
            (None, None)
        }
    };
    let routes = checking.routes(file);
    checking.outliers(file);
    let sticky = file.sticky.get().map(|sticky| checking.sticky(sticky));
    let replica = checking.replica(file);
    if !checking.problems.is_empty() {
        return None;
    }
    let (ports, listeners) = ports(listeners);
    let (sticky, override_, policy) = (sticky.flatten(), override_(file), policy(file));
    let what = match mode {
        Mode::Declared => What::Declared(Declared {
            backends: backends?,
            split: split?,
            routes,
            sticky,
            override_,
            policy,
            dns_interval: file.dns.get().and_then(|dns| dns.interval.value()).unwrap_or(DNS_INTERVAL),
        }),
        Mode::Rollout => {
            let says = |upstream: &Upstream| !upstream.protocol.is_absent() || !upstream.tls.is_absent();
            let transport = transport?;
            let transport = file.upstream.get().is_some_and(says).then_some(transport);
            let overlay = Overlay { routes, sticky, override_, policy, transport, ..Overlay::default() };
            What::Rollout(file.rollout.value()?, overlay)
        }
    };
    Some(Config {
        proxy: proxy::Settings {
            listeners,
            workers: file.workers.or(None).unwrap_or_else(proxy::cores),
            reuse_port: file.reuse_port.or(false),
            drain: drain(file),
        },
        admin,
        replica,
        log: log(file),
        aliases: aliases(file),
        access_log: access_log(file),
        ports,
        what,
    })
}

/// An address that is listened on, its place, and the application's port behind it.
struct Listening {
    address: SocketAddr,
    at: At,
    port: PortName,
    tls: Option<Front>,
    proxy_protocol: bool,
    redirect_to_tls: Option<u16>,
}

/// Every port once, in the order of the listeners, which become pointed at their ports by number.
fn ports(listeners: Vec<Listening>) -> (Vec<PortName>, Vec<Listener>) {
    let mut ports: Vec<PortName> = Vec::new();
    let headers = listeners.iter().filter_map(|listener| listener.tls.as_ref()?.subject_header());
    let mut headers: Vec<HeaderName> = headers.cloned().collect();
    headers.sort_by(|one, other| one.as_str().cmp(other.as_str()));
    headers.dedup();
    let subject_headers: Arc<[HeaderName]> = headers.into();
    let listeners = listeners
        .into_iter()
        .map(|Listening { address, port, tls, proxy_protocol, redirect_to_tls, .. }| {
            let number = ports.iter().position(|known| *known == port).unwrap_or_else(|| {
                ports.push(port);
                ports.len() - 1
            });
            let subject_headers = subject_headers.clone();
            Listener { address, port: number, tls, proxy_protocol, subject_headers, redirect_to_tls }
        })
        .collect();
    (ports, listeners)
}

pub(super) struct Checking<'a> {
    mode: Mode,
    /// The names of all backends; `None` when not all are known, so that no name can be called wrong.
    names: Option<Vec<String>>,
    expressions: usize,
    /// Where relative names of files begin.
    pub(super) folder: &'a Path,
    pub(super) beside: &'a mut Beside,
    /// What `upstream` says to all backends was found to be wrong.
    pub(super) upstream_is_wrong: bool,
    problems: &'a mut Problems,
}

impl Checking<'_> {
    pub(super) fn complain(&mut self, at: &At, complaint: Complaint) {
        self.problems.add(at, complaint);
    }

    fn listeners(&mut self, file: &File) -> Vec<Listening> {
        if file.listeners.is_absent() {
            let complaint = Complaint::new("expected at least one listener, found none");
            let help = "add `listeners: [{ address: 127.0.0.1:8080 }]`, or --listen :8080";
            self.complain(&file.at.missing("listeners"), complaint.help(help));
        }
        let mut listeners: Vec<Listening> = Vec::new();
        for item in file.listeners.get().iter().flat_map(|list| &list.0) {
            if let (Some(port), Mode::Declared) = (item.port.get(), self.mode) {
                let complaint =
                    Complaint::new("a listener has a port of the application only where a Rollout is followed");
                let help = "leave it out: the endpoints of backends name their ports themselves";
                self.problems.add(&port.at, complaint.help(help));
            }
            let Some(leaf) = item.address.get() else { continue };
            if let Some(earlier) = listeners.iter().find(|earlier| overlap(earlier.address, leaf.value)) {
                let complaint = Complaint::new(format!("{} is listened on twice", leaf.value));
                self.problems.add(&leaf.at, complaint.also(&earlier.at, "here already").help("keep one of the two"));
            }
            let port = item.port.or(PortName::default());
            let (tls, proxy_protocol) = (self.front(item), self.proxy_protocol(item, file));
            let redirect_to_tls = self.redirect_to_tls(item);
            let (address, at) = (leaf.value, leaf.at.clone());
            listeners.push(Listening { address, at, port, tls, proxy_protocol, redirect_to_tls });
        }
        listeners
    }

    /// Beside a Rollout only its two roles have names.
    fn nothing_declared(&mut self, file: &File) {
        self.names = Some([Role::Stable, Role::Canary].map(|role| role.as_str().to_owned()).into());
        for (field, place) in [
            ("backends", file.backends.get().map(|backends| &backends.at)),
            ("split", file.split.get().map(|split| &split.at)),
        ] {
            let Some(place) = place else { continue };
            let complaint = Complaint::new("a Rollout has the versions and their weights, so there are two answers");
            let complaint = match file.rollout.get() {
                Some(rollout) => complaint.also(&rollout.at, "the Rollout is named here"),
                None => complaint,
            };
            self.problems.add(place, complaint.help(format!("leave out `{field}`, or the Rollout")));
        }
    }

    fn admin(&mut self, file: &File, listeners: &[Listening]) -> Option<admin::Settings> {
        let written = file.admin.get()?;
        let token = written.token_file.get().map(|leaf| {
            let read = admin::Token::read(&self.folder.join(&leaf.value));
            read.map_err(|error| self.complain(&leaf.at, Complaint::new(error)))
        });
        let token = token.transpose();
        if written.address.is_absent() {
            let complaint = Complaint::new("a token is asked for, and there is no admin listener");
            self.complain(&written.at, complaint.help("say where it listens: --admin 127.0.0.1:9090"));
        }
        let leaf = written.address.get()?;
        if let Some(listener) = listeners.iter().find(|listener| overlap(listener.address, leaf.value)) {
            let complaint = Complaint::new(format!("{} is a listener's address too", leaf.value));
            let complaint = complaint.also(&listener.at, "traffic is listened for here");
            self.problems.add(&leaf.at, complaint.help("choose another port for one of the two"));
        }
        Some(admin::Settings { address: leaf.value, token: token.ok()? })
    }

    fn backends(&mut self, file: &File) -> Option<Vec<DeclaredBackend>> {
        if file.backends.is_absent() {
            let complaint = Complaint::new("expected at least a stable backend, found none");
            let help = "add `backends: { stable: { endpoints: [\"127.0.0.1:9001\"] } }`, or --stable :9001, or follow a Rollout: --rollout services/shop";
            self.complain(&file.at.missing("backends"), complaint.help(help));
        }
        let backends = file.backends.get()?;
        if backends.complete {
            self.names = Some(backends.entries.iter().map(|(name, _)| name.value.clone()).collect());
        }
        let mut declared = Vec::new();
        let mut roles: HashMap<Role, At> = HashMap::new();
        for (name, backend) in backends.read() {
            let role = role(name, backend);
            if role != Role::Experiment
                && let Some(earlier) = roles.insert(role, name.at.clone())
            {
                let complaint = Complaint::new(format!("a second backend is {}", role.as_str()));
                let complaint = complaint.also(&earlier, "the first one");
                self.problems.add(&name.at, complaint.help("give one of the two `role: experiment`"));
            }
            let endpoints = self.endpoints(backend);
            let transport = self.transport(Some(backend), file.upstream.get(), &endpoints).unwrap_or_default();
            declared.push(DeclaredBackend { version: VersionHash::new(&name.value), role, endpoints, transport });
        }
        let all_known = backends.complete
            && backends.entries.iter().all(|(_, backend)| {
                backend.as_ref().is_some_and(|backend| backend.role.is_absent() || backend.role.get().is_some())
            });
        if all_known && !roles.contains_key(&Role::Stable) {
            let complaint = Complaint::new("expected one stable backend, found none");
            let help = "name one of them `stable`, or give it `role: stable`";
            self.problems.add(&backends.at, complaint.help(help));
        }
        Some(declared)
    }

    fn endpoints(&mut self, backend: &Backend) -> Vec<crate::source::Endpoint> {
        let mut seen = HashMap::new();
        let endpoints = backend.endpoints.get().map_or(&[][..], |list| &list.0);
        endpoints
            .iter()
            .map(|leaf| {
                if let Some(earlier) = seen.insert(leaf.value.clone(), leaf.at.clone()) {
                    let complaint = Complaint::new(format!("the endpoint {} is written twice", leaf.canonical()));
                    let complaint = complaint.also(&earlier, "first written here");
                    self.problems.add(&leaf.at, complaint.help("keep one of the two; requests spread evenly"));
                }
                leaf.value.clone()
            })
            .collect()
    }

    fn split(&mut self, file: &File, backends: Option<&[DeclaredBackend]>) -> Option<Shares> {
        match &file.split {
            Field::Given(weights) => self.shares(weights),
            Field::Broken => None,
            Field::Absent => {
                let stable = backends?.iter().find(|backend| backend.role == Role::Stable)?;
                Some(Shares::all(stable.version.clone()))
            }
        }
    }

    /// The checked weights of one split.
    fn shares(&mut self, weights: &Weights) -> Option<Shares> {
        for (name, _) in &weights.entries {
            self.known(name);
        }
        if !weights.complete || weights.entries.iter().any(|(_, weight)| weight.is_none()) {
            return None;
        }
        let read: Vec<(&Leaf<BackendName>, &Leaf<WeightKind>)> = weights.read().collect();
        let whole = match weight::whole(&read.iter().map(|(_, weight)| weight.value).collect::<Vec<_>>()) {
            Ok(whole) => whole,
            Err(SumError::Mixed(other)) => {
                let complaint = Complaint::new("percentages and whole numbers are mixed");
                let complaint = complaint.also(&read[0].1.at, "this one is of the other kind");
                self.complain(&read[other].1.at, complaint.help("write all weights of a split in the same way"));
                return None;
            }
            Err(SumError::NotHundred(sum)) => {
                let sum = weight::percentage(sum);
                self.complain(&weights.at, Complaint::expected("percentages that add up to 100%", &sum));
                return None;
            }
        };
        let shares = read.iter().zip(whole).map(|((name, _), weight)| (VersionHash::new(&name.value), weight));
        match Shares::new(shares.collect()) {
            Ok(shares) => Some(shares),
            Err(error) => {
                let complaint = Complaint::new(error.to_string());
                let complaint = match error {
                    SharesError::Nothing => complaint.help("give at least one backend a weight above 0"),
                    SharesError::TooMuch(_) => complaint.help("divide all weights by the same number"),
                    SharesError::Twice(_) => complaint,
                };
                self.complain(&weights.at, complaint);
                None
            }
        }
    }

    /// Whether a backend has that name.
    fn known(&mut self, name: &Leaf<BackendName>) {
        let Some(names) = self.names.as_ref().filter(|names| !names.contains(&name.value)) else { return };
        let help = match closest(&name.value, names.iter().map(String::as_str)) {
            Some(closest) => format!("did you mean `{closest}`?"),
            None if self.mode == Mode::Rollout => "beside a Rollout there are `stable` and `canary`".to_owned(),
            None => format!("the backends are {}", names.join(", ")),
        };
        let complaint = Complaint::new(format!("there is no backend {}", quoted(&name.value))).help(help);
        self.problems.add(&name.at, complaint);
    }

    fn routes(&mut self, file: &File) -> Vec<route::Route> {
        let mut names: HashMap<String, At> = HashMap::new();
        let of_all = timeouts(file, Timeouts::default());
        let mut routes = Vec::new();
        for written in file.routes.get().iter().flat_map(|list| &list.0) {
            if let Some(name) = written.name.get()
                && let Some(earlier) = names.insert(name.value.clone(), name.at.clone())
            {
                let complaint = Complaint::new(format!("a second route is named {}", quoted(&name.value)));
                let complaint = complaint.also(&earlier, "the first one");
                self.problems.add(&name.at, complaint.help("give each route its own name"));
            }
            routes.extend(self.route(written, &of_all));
        }
        routes
    }

    /// `of_all`: the timeouts of requests that no route has bounds for.
    fn route(&mut self, written: &Route, of_all: &Timeouts) -> Option<route::Route> {
        let fields = [
            ("backend", !written.backend.is_absent()),
            ("split", !written.split.is_absent()),
            ("mirror", !written.mirror.is_absent()),
        ];
        self.exactly_one(&written.at, &fields);
        let backend = written.backend.get().map(|name| {
            self.known(name);
            Action::Send(VersionHash::new(&name.value))
        });
        let split = written.split.get().and_then(|weights| self.shares(weights)).map(Action::Split);
        let mirror = written.mirror.get().and_then(|mirror| self.mirror(mirror));
        if let (Some(count), Some(mirror)) = (written.count.get().filter(|count| !count.value), written.mirror.get()) {
            let complaint = Complaint::new("a mirror's requests follow the split, and so are counted");
            let complaint = complaint.also(&mirror.at, "the mirror");
            self.complain(&count.at, complaint.help("leave out `count`; the copies are counted apart in any case"));
        }
        if let (Some(timeouts), Some(mirror)) = (written.timeouts.get(), written.mirror.get()) {
            let complaint = Complaint::new("a mirror's requests follow the split, and so have the timeouts of all");
            let complaint = complaint.also(&mirror.at, "the mirror");
            self.complain(
                &timeouts.at,
                complaint.help("leave out `timeouts`; copies have `timeout` in the file's `mirror`"),
            );
        }
        if let Some(timeouts) = written.timeouts.get()
            && timeouts.connect.is_absent()
            && timeouts.first_byte.is_absent()
            && timeouts.between_bytes.is_absent()
            && timeouts.request.is_absent()
        {
            let complaint = Complaint::expected("at least one timeout", "none");
            self.complain(&timeouts.at, complaint.help("add `request: 5s`, or leave out `timeouts`"));
        }
        let matches = written.matches.get().iter().flat_map(|list| &list.0).map(|one| self.match_(one)).collect();
        Some(route::Route {
            name: RouteName::new(&written.name.value()?),
            matches,
            action: backend.or(split).or(mirror)?,
            count: written.count.or(true),
            timeouts: written.timeouts.get().map(|timeouts| own_timeouts(timeouts, of_all)),
        })
    }

    fn mirror(&mut self, written: &Mirror) -> Option<Action> {
        let to = written.to.get()?;
        self.known(to);
        let share = match &written.percent {
            Field::Absent => Share::ALL,
            percent => percent.value()?,
        };
        Some(Action::Mirror { to: VersionHash::new(&to.value), share })
    }

    fn match_(&mut self, written: &Match) -> Meant {
        let Match { at, method, path, headers, cookies, query, baggage } = written;
        let empty = method.is_absent()
            && path.is_absent()
            && headers.is_absent()
            && cookies.is_absent()
            && query.is_absent()
            && baggage.is_absent();
        if empty {
            let complaint = Complaint::new("expected at least one condition, found none");
            let help = "a match without conditions would take every request; for that, write `path: { prefix: / }`";
            self.complain(at, complaint.help(help));
        }
        let mut meant = Meant {
            methods: method.get().iter().flat_map(|list| &list.0).map(|leaf| leaf.value.clone()).collect(),
            path: path.get().and_then(|path| self.path(path)),
            ..Meant::default()
        };
        for (name, value) in headers.get().iter().flat_map(|map| map.read()) {
            meant.headers.extend(self.value(value).map(|value| (name.value.clone(), value)));
        }
        for (name, value) in cookies.get().iter().flat_map(|map| map.read()) {
            meant.cookies.extend(self.value(value).map(|value| (name.value.clone(), value)));
        }
        for (name, value) in query.get().iter().flat_map(|map| map.read()) {
            meant.query.extend(self.value(value).map(|value| (name.value.clone(), value)));
        }
        for (name, value) in baggage.get().iter().flat_map(|map| map.read()) {
            meant.baggage.extend(self.value(value).map(|value| (name.value.clone(), value)));
        }
        meant
    }

    fn path(&mut self, written: &PathMatch) -> Option<matches::PathMatch> {
        let PathMatch { at, exact, prefix, regex } = written;
        let fields = [("exact", !exact.is_absent()), ("prefix", !prefix.is_absent()), ("regex", !regex.is_absent())];
        self.exactly_one(at, &fields);
        None.or_else(|| exact.value().map(matches::PathMatch::Exact))
            .or_else(|| prefix.value().map(|prefix| matches::PathMatch::prefix(&prefix)))
            .or_else(|| self.expression(regex).map(matches::PathMatch::Regex))
    }

    fn value(&mut self, written: &ValueMatch) -> Option<matches::ValueMatch> {
        let conditions = match written {
            ValueMatch::Exact(value) => return Some(matches::ValueMatch::Exact(value.value.clone().into_bytes())),
            ValueMatch::Conditions(conditions) => conditions,
        };
        let Conditions { at, exact, prefix, suffix, regex, present, absent } = &**conditions;
        let fields = [
            ("exact", !exact.is_absent()),
            ("prefix", !prefix.is_absent()),
            ("suffix", !suffix.is_absent()),
            ("regex", !regex.is_absent()),
            ("present", !present.is_absent()),
            ("absent", !absent.is_absent()),
        ];
        self.exactly_one(at, &fields);
        None.or_else(|| exact.value().map(|text| matches::ValueMatch::Exact(text.into_bytes())))
            .or_else(|| prefix.value().map(|text| matches::ValueMatch::Prefix(text.into_bytes())))
            .or_else(|| suffix.value().map(|text| matches::ValueMatch::Suffix(text.into_bytes())))
            .or_else(|| self.expression(regex).map(matches::ValueMatch::Regex))
            .or_else(|| present.value().map(|_| matches::ValueMatch::Present))
            .or_else(|| absent.value().map(|_| matches::ValueMatch::Absent))
    }

    fn expression(&mut self, field: &Field<Leaf<Expression>>) -> Option<<Expression as Kind>::Value> {
        let leaf = field.get()?;
        self.expressions += 1;
        if self.expressions == MOST_EXPRESSIONS + 1 {
            let complaint = Complaint::new(format!("expected at most {MOST_EXPRESSIONS} regular expressions"));
            self.complain(&leaf.at, complaint.help("join some of them with `|`"));
        }
        Some(leaf.value.clone())
    }

    fn sticky(&mut self, written: &Sticky) -> Option<bucket::Sticky> {
        if written.key.is_absent() && written.cookie.is_absent() {
            let complaint = Complaint::new("expected `key`, `cookie` or both, found none");
            self.complain(&written.at, complaint.help("add `key: [{ cookie: uid }]`, or `cookie: {}`"));
        }
        let keys = written.key.get().iter().flat_map(|list| &list.0).filter_map(|key| self.key(key)).collect();
        let before = self.problems.count();
        let cookie = written.cookie.get().map(|cookie| self.cookie(cookie));
        let sticky = bucket::Sticky { keys, salt: written.salt.or(NAME.to_owned()), cookie };
        if let Err(error) = sticky.check()
            && self.problems.count() == before
        {
            self.complain(&written.at, Complaint::new(error.to_string()));
        }
        Some(sticky)
    }

    fn key(&mut self, written: &KeySource) -> Option<bucket::KeySource> {
        let KeySource { at, header, cookie, query, client_address } = written;
        let fields = [
            ("header", !header.is_absent()),
            ("cookie", !cookie.is_absent()),
            ("query", !query.is_absent()),
            ("client-address", !client_address.is_absent()),
        ];
        self.exactly_one(at, &fields);
        None.or_else(|| header.value().map(bucket::KeySource::Header))
            .or_else(|| cookie.value().map(bucket::KeySource::Cookie))
            .or_else(|| query.value().map(bucket::KeySource::Query))
            .or_else(|| client_address.value().map(|_| bucket::KeySource::ClientAddress))
    }

    fn cookie(&mut self, written: &Cookie) -> BucketCookie {
        let cookie = BucketCookie {
            name: written.name.or(NAME.to_owned()),
            max_age: written.max_age.or(None),
            path: written.path.or("/".to_owned()),
            same_site: written.same_site.or(SameSite::Lax),
            secure: written.secure.or(false),
            http_only: written.http_only.or(true),
            secret: written.secret_file.get().and_then(|file| {
                let path = self.folder.join(&file.value);
                match secret(&path, self.beside.read(&path)) {
                    Ok(secret) => Some(secret),
                    Err(complaint) => {
                        self.problems.add(&file.at, complaint);
                        None
                    }
                }
            }),
        };
        if let (Some(leaf), SameSite::None, false) = (written.same_site.get(), cookie.same_site, cookie.secure) {
            let complaint =
                Complaint::new("`same-site: none` needs `secure: true`: browsers drop the cookie otherwise");
            self.complain(&leaf.at, complaint.help("add `secure: true`, or choose `lax`"));
        }
        // RFC 6265bis, section 4.1.3.
        if let Some(leaf) = written.name.get() {
            let (secure, host) = (cookie.name.starts_with("__Secure-"), cookie.name.starts_with("__Host-"));
            if (secure || host) && !cookie.secure {
                let complaint = Complaint::new("browsers drop a cookie of this name that is not secure");
                self.complain(&leaf.at, complaint.help("add `secure: true`, or choose another name"));
            } else if host && cookie.path != "/" {
                let complaint = Complaint::new("browsers drop a cookie of this name whose path is not `/`");
                self.complain(&leaf.at, complaint.help("leave out `path`, or choose another name"));
            }
        }
        cookie
    }

    fn outliers(&mut self, file: &File) {
        let meant = outliers(file, Outliers::default());
        let written = file.outliers.get();
        let leaf = written.and_then(|outliers| outliers.max_time.get().or(outliers.base_time.get()));
        if let Some(leaf) = leaf
            && meant.max_time < meant.base_time
        {
            let (base, max) = (humantime::format_duration(meant.base_time), humantime::format_duration(meant.max_time));
            let complaint =
                Complaint::expected(&format!("a `max-time` of at least `base-time`, {base}"), &max.to_string());
            self.complain(&leaf.at, complaint.help("the first time out is the shortest one"));
        }
    }

    fn replica(&mut self, file: &File) -> Option<Replica> {
        let written = file.replica.get()?;
        let (index, of) = (written.index.get()?, written.of.get()?);
        if index.value >= of.value {
            let complaint = Complaint::new(format!("expected an index below {}, found {}", of.value, index.value));
            let help = "indexes count from 0: the replicas of 3 are 0, 1 and 2";
            self.complain(&index.at, complaint.also(&of.at, "how many there are").help(help));
        }
        Some(Replica { index: index.value as u32, of: of.value as u32, seed: written.seed.or(NAME.to_owned()) })
    }

    fn exactly_one(&mut self, at: &At, fields: &[(&str, bool)]) {
        let given: Vec<String> =
            fields.iter().filter(|(_, given)| *given).map(|(name, _)| format!("`{name}`")).collect();
        if given.len() == 1 {
            return;
        }
        let all: Vec<_> = fields.iter().map(|(name, _)| format!("`{name}`")).collect();
        let what = format!("exactly one of {}", all.join(", "));
        let found = if given.is_empty() { "none".to_owned() } else { given.join(" and ") };
        self.complain(at, Complaint::expected(&what, &found));
    }
}

fn role(name: &Leaf<BackendName>, backend: &Backend) -> Role {
    backend.role.or(match name.value.as_str() {
        "stable" => Role::Stable,
        "canary" => Role::Canary,
        _ => Role::Experiment,
    })
}

/// Whether two sockets cannot listen on these at once. Port 0 is always another one.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let takes_all = |address: SocketAddr| address.ip().is_unspecified();
    let same_family = one.is_ipv4() == other.is_ipv4();
    one.port() != 0
        && one.port() == other.port()
        && (one.ip() == other.ip() || (same_family && (takes_all(one) || takes_all(other))))
}

/// The secret in a file, without the line break that editors put at its end.
fn secret(path: &Path, read: Result<Vec<u8>, String>) -> Result<Vec<u8>, Complaint> {
    let secret = read.map_err(|error| unreadable(path, &error))?;
    let text = secret.strip_suffix(b"\n").unwrap_or(&secret);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    if !SECRET_BYTES.contains(&text.len()) {
        let what = format!("a secret of {} to {} bytes", SECRET_BYTES.start(), SECRET_BYTES.end());
        let complaint = Complaint::expected(&what, &format!("{} bytes", text.len()));
        return Err(complaint.help("`openssl rand -hex 32` makes a good one"));
    }
    Ok(text.to_vec())
}

/// `error` says what about it, such as `cannot be read: ...`.
pub(super) fn unreadable(path: &Path, error: &str) -> Complaint {
    Complaint::new(format!("the file {}: {error}", quoted(&path.display().to_string())))
        .help("it must be a file that this process may read; relative names begin at the folder of this file")
}

fn drain(file: &File) -> proxy::Drain {
    let defaults = proxy::Drain::default();
    match file.drain.get() {
        None => defaults,
        Some(drain) => {
            proxy::Drain { delay: drain.delay.or(defaults.delay), timeout: drain.timeout.or(defaults.timeout) }
        }
    }
}

fn log(file: &File) -> Log {
    let written = file.log.get();
    Log {
        level: written.and_then(|log| log.level.value()).unwrap_or_else(|| "info".to_owned()),
        format: written.and_then(|log| log.format.value()).unwrap_or(LogFormat::Auto),
    }
}

/// Each once.
fn aliases(file: &File) -> Vec<Alias> {
    let written = file.metrics.get().and_then(|metrics| metrics.aliases.get());
    let mut aliases = Vec::new();
    for leaf in written.into_iter().flat_map(|list| &list.0) {
        if !aliases.contains(&leaf.value) {
            aliases.push(leaf.value);
        }
    }
    aliases
}

fn access_log(file: &File) -> Option<access_log::Settings> {
    let written = file.access_log.get()?;
    Some(access_log::Settings {
        format: written.format.value().flatten()?,
        sample: written.sample.or(Share::ALL),
        only: written.only.value().flatten(),
    })
}

fn override_(file: &File) -> Option<Override> {
    file.override_.get().map(|written| Override {
        header: written.header.or(http::HeaderName::from_static("x-canary")),
        cookie: written.cookie.or("canary".to_owned()),
    })
}

fn policy(file: &File) -> Policy {
    let defaults = Policy::default();
    Policy {
        timeouts: timeouts(file, defaults.timeouts),
        limits: limits(file, defaults.limits),
        retry: retry(file, defaults.retry),
        outliers: outliers(file, defaults.outliers),
        slow_start: file.slow_start.or(defaults.slow_start),
        mirror: mirroring(file, defaults.mirror),
        trusted_proxies: file.trusted_proxies.get().iter().flat_map(|list| &list.0).map(|leaf| leaf.value).collect(),
        tell_upstream: file.tell_upstream.or(defaults.tell_upstream),
        version_header: file.version_header.or(defaults.version_header),
    }
}

fn timeouts(file: &File, defaults: Timeouts) -> Timeouts {
    let Some(written) = file.timeouts.get() else { return defaults };
    Timeouts {
        connect: written.connect.or(defaults.connect),
        handshake: written.handshake.or(defaults.handshake),
        head: written.head.or(defaults.head),
        first_byte: written.first_byte.or(defaults.first_byte),
        between_bytes: written.between_bytes.or(defaults.between_bytes),
        request: written.request.or(defaults.request),
        idle: written.idle.or(defaults.idle),
        upstream_idle: written.upstream_idle.or(defaults.upstream_idle),
        tunnel_idle: written.tunnel_idle.or(defaults.tunnel_idle),
        queue: written.queue.or(defaults.queue),
    }
}

/// What a route does not say is as it is for all.
fn own_timeouts(written: &RouteTimeouts, of_all: &Timeouts) -> Timeouts {
    Timeouts {
        connect: written.connect.or(of_all.connect),
        first_byte: written.first_byte.or(of_all.first_byte),
        between_bytes: written.between_bytes.or(of_all.between_bytes),
        request: written.request.or(of_all.request),
        ..of_all.clone()
    }
}

fn limits(file: &File, defaults: Limits) -> Limits {
    let Some(written) = file.limits.get() else { return defaults };
    Limits {
        header_bytes: written.header_bytes.value().map_or(defaults.header_bytes, |bytes| bytes as usize),
        header_count: written.header_count.value().map_or(defaults.header_count, |count| count as usize),
        target_bytes: written.target_bytes.value().map_or(defaults.target_bytes, |bytes| bytes as usize),
        body_bytes: written.body_bytes.or(defaults.body_bytes),
        connections: written.connections.value().map_or(defaults.connections, |count| count as usize),
        connections_per_address: written
            .connections_per_address
            .value()
            .map_or(defaults.connections_per_address, |most| most.map(|most| most as u32)),
        requests_per_connection: written.requests_per_connection.or(defaults.requests_per_connection),
        handshakes: written.handshakes.value().map_or(defaults.handshakes, |count| count as usize),
        streams: written.streams.value().map_or(defaults.streams, |count| count as usize),
        upstream_idle_connections: written
            .upstream_idle_connections
            .value()
            .map_or(defaults.upstream_idle_connections, |count| count as usize),
        endpoint_requests: written
            .endpoint_requests
            .value()
            .map_or(defaults.endpoint_requests, |most| most.map(|most| most as u32)),
        queue: written.queue.value().map_or(defaults.queue, |count| count as usize),
    }
}

fn mirroring(file: &File, defaults: Mirroring) -> Mirroring {
    let Some(written) = file.mirror.get() else { return defaults };
    Mirroring {
        shadow_host: written.shadow_host.or(defaults.shadow_host),
        concurrency: written.concurrency.value().map_or(defaults.concurrency, |count| count as usize),
        buffer: written.buffer.value().map_or(defaults.buffer, |bytes| bytes as usize),
        timeout: written.timeout.or(defaults.timeout),
    }
}

fn retry(file: &File, defaults: Retry) -> Retry {
    let Some(written) = file.retry.get() else { return defaults };
    Retry {
        tries: written.tries.value().map_or(defaults.tries, |tries| tries as u32),
        other_version: written.other_version.or(defaults.other_version),
        budget: written.budget.or(defaults.budget),
        budget_min: written.budget_min.value().map_or(defaults.budget_min, |least| least as u32),
    }
}

fn outliers(file: &File, defaults: Outliers) -> Outliers {
    let Some(written) = file.outliers.get() else { return defaults };
    let count = |most: Option<u64>| most.map(|most| most as u32);
    Outliers {
        connect_failures: written.connect_failures.value().map_or(defaults.connect_failures, count),
        server_errors: written.server_errors.value().map_or(defaults.server_errors, count),
        base_time: written.base_time.or(defaults.base_time),
        max_time: written.max_time.or(defaults.max_time),
    }
}
