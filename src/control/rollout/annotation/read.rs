//! From the annotation's text to its meaning, or everything that is wrong with it. Any text gets an answer.
//!
//! Stricter than the steps are, where the controller has checked already or cannot be asked to: here a mistake is told to
//! the person who can mend it, instead of a condition that silently never holds.

use std::collections::{BTreeMap, BTreeSet};

use http::header::HeaderName;
use serde_json::{Map, Value};

use crate::control::rollout::{
    HeaderList, HeaderRouteMatch, Managed, ManagedRoute, MirrorMatch, SetHeaderRoute, SetMirrorRoute, StringMatch,
};
use crate::route::matches::whole;
use crate::route::weight::Weight;

use super::complaint::{Complaints, Place, closest};
use super::finer::{Finer, can_be_finer, stands_for};
use super::{Annotation, Source, Timed};

/// Bytes; what the API server allows for all annotations of an object together.
const LARGEST: usize = 256 << 10;
/// Values and names, those that aliases repeat included.
const MOST_NODES: usize = 20_000;
/// Lists and mappings within each other. The deepest one that means anything is at 7.
const DEEPEST: usize = 16;
const MOST_ROUTES: usize = 100;
const MOST_MATCHES: usize = 100;
/// In the whole annotation: each compiled expression may take a megabyte.
const MOST_EXPRESSIONS: usize = 100;

pub fn read(source: &Source) -> Result<Annotation, String> {
    let mut reader = Reader { source, complaints: Complaints::default(), names: BTreeSet::new(), expressions: 0 };
    let annotation = match tree(&source.text) {
        // Nothing is written: nothing is asked for.
        Ok(Value::Null) => Annotation::default(),
        Ok(tree) => reader.annotation(&tree),
        Err(message) => return Err(format!("{}: {message}", Place::Annotation)),
    };
    match reader.complaints.told() {
        None => Ok(annotation),
        Some(message) => Err(message),
    }
}

/// JSON is YAML.
fn tree(text: &str) -> Result<Value, String> {
    if text.len() > LARGEST {
        return Err(format!("Too long: may not be more than {LARGEST} bytes"));
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEEPEST,
            max_nodes: MOST_NODES,
            max_events: 2 * MOST_NODES,
            max_documents: 1,
        },
        // `yes` and `on` are texts.
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let error = error.to_string();
        let line = error.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
        format!("Invalid value: expected YAML or JSON: {line}")
    })
}

struct Reader<'a> {
    source: &'a Source,
    complaints: Complaints,
    /// Of routes.
    names: BTreeSet<String>,
    expressions: usize,
}

type Fields = Map<String, Value>;

const ROUTE: [&str; 4] = ["setHeaderRoute", "setMirrorRoute", "fromStep", "toStep"];
const STRING_MATCH: [&str; 3] = ["exact", "prefix", "regex"];

impl Reader<'_> {
    fn annotation(&mut self, tree: &Value) -> Annotation {
        let here = Place::Annotation;
        let Some(fields) = self.fields(here, tree, &["routes", "weights", "headerList"]) else {
            return Annotation::default();
        };
        let header_list = said(fields, "headerList").and_then(|value| match value.as_str() {
            Some("Or") => Some(HeaderList::OneIsEnough),
            Some("And") => Some(HeaderList::All),
            _ => {
                self.complaints.invalid(Place::Field(&here, "headerList"), value, "expected Or or And");
                None
            }
        });
        let list = header_list.unwrap_or(self.source.header_list);
        let mut routes = Vec::new();
        for (i, value) in self.items(Place::Field(&here, "routes"), said(fields, "routes"), MOST_ROUTES) {
            routes.extend(self.route(Place::Item(&Place::Field(&here, "routes"), i), value, list));
        }
        let finer = self.weights(Place::Field(&here, "weights"), said(fields, "weights"));
        Annotation { routes, finer, header_list }
    }

    fn route(&mut self, here: Place<'_>, value: &Value, list: HeaderList) -> Option<Timed> {
        let fields = self.fields(here, value, &ROUTE)?;
        let from = self.step(Place::Field(&here, "fromStep"), said(fields, "fromStep"));
        let to = self.step(Place::Field(&here, "toStep"), said(fields, "toStep"));
        if let (Some(from), Some(to)) = (from, to)
            && from > to
        {
            self.complaints.invalid(
                Place::Field(&here, "toStep"),
                &to.into(),
                format_args!("expected a step that is not before fromStep, which is {from}"),
            );
        }
        let mut managed = Managed::default();
        match (said(fields, "setHeaderRoute"), said(fields, "setMirrorRoute")) {
            (Some(header), None) => {
                let (name, set) = self.header_route(Place::Field(&here, "setHeaderRoute"), header)?;
                managed.add_header(&name, &set, list);
            }
            (None, Some(mirror)) => {
                let (name, set) = self.mirror_route(Place::Field(&here, "setMirrorRoute"), mirror)?;
                managed.add_mirror(&name, &set);
            }
            (None, None) => {
                self.complaints.required(here, "expected setHeaderRoute or setMirrorRoute");
                return None;
            }
            (Some(_), Some(_)) => {
                self.complaints
                    .forbidden(here, "expected setHeaderRoute or setMirrorRoute, found both; make two routes");
                return None;
            }
        }
        // Everything that could be noted has been complained about above; should the two ever differ, nothing is lost.
        for note in managed.notes {
            self.complaints.forbidden(here, note);
        }
        let route: ManagedRoute = managed.routes.pop()?;
        Some(Timed { route, from: from.unwrap_or(0), to })
    }

    fn header_route(&mut self, here: Place<'_>, value: &Value) -> Option<(String, SetHeaderRoute)> {
        let fields = self.fields(here, value, &["name", "match"])?;
        let name = self.name(here, fields);
        let matches = self.matches(here, fields, "[{headerName: x-tester, headerValue: {exact: \"true\"}}]");
        let mut all = Vec::new();
        for (i, item) in matches {
            let list = Place::Field(&here, "match");
            all.extend(self.header_match(Place::Item(&list, i), item));
        }
        let name = name?;
        Some((name.clone(), SetHeaderRoute { name: Some(name), r#match: Some(all) }))
    }

    fn header_match(&mut self, here: Place<'_>, value: &Value) -> Option<HeaderRouteMatch> {
        let fields = self.fields(here, value, &["headerName", "headerValue"])?;
        let place = Place::Field(&here, "headerName");
        let name = match said(fields, "headerName") {
            None => {
                self.complaints.required(place, "expected the name of a header, such as x-tester");
                None
            }
            Some(name) => self.text(place, name).filter(|text| self.is_header(place, name, text)),
        };
        let place = Place::Field(&here, "headerValue");
        let value = match said(fields, "headerValue") {
            None => {
                self.complaints.required(place, ONE_OF);
                None
            }
            Some(value) => self.string_match(place, value),
        };
        Some(HeaderRouteMatch { header_name: Some(name?), header_value: Some(value?) })
    }

    fn mirror_route(&mut self, here: Place<'_>, value: &Value) -> Option<(String, SetMirrorRoute)> {
        let fields = self.fields(here, value, &["name", "match", "percentage"])?;
        let name = self.name(here, fields);
        let percentage = said(fields, "percentage").map(|value| {
            let number = value.as_i64().filter(|number| (0..=100).contains(number));
            if number.is_none() {
                let place = Place::Field(&here, "percentage");
                self.complaints.invalid(place, value, "expected a whole number from 0 to 100");
            }
            number.unwrap_or(0)
        });
        let matches = self.matches(here, fields, "[{path: {prefix: /}}], which copies everything");
        let mut all = Vec::new();
        for (i, item) in matches {
            let list = Place::Field(&here, "match");
            all.extend(self.mirror_match(Place::Item(&list, i), item));
        }
        let name = name?;
        Some((name.clone(), SetMirrorRoute { name: Some(name), percentage, r#match: Some(all) }))
    }

    fn mirror_match(&mut self, here: Place<'_>, value: &Value) -> Option<MirrorMatch> {
        let fields = self.fields(here, value, &["method", "path", "headers"])?;
        let mut one = |name| said(fields, name).map(|value| self.string_match(Place::Field(&here, name), value));
        let (method, path) = (one("method"), one("path"));
        let place = Place::Field(&here, "headers");
        let headers = said(fields, "headers").and_then(|value| match value {
            Value::Object(headers) => Some(headers),
            other => {
                self.complaints.invalid(place, other, "expected a mapping from names of headers");
                None
            }
        });
        let mut conditions = BTreeMap::new();
        for (name, value) in headers.into_iter().flatten() {
            let place = Place::Key(&place, name);
            if self.is_header(place, &name.as_str().into(), name)
                && let Some(condition) = self.string_match(place, value)
            {
                conditions.insert(name.clone(), condition);
            }
        }
        if method.is_none() && path.is_none() && headers.is_none_or(Map::is_empty) {
            self.complaints.required(here, "expected a method, a path or headers");
        }
        Some(MirrorMatch { method: method.flatten(), path: path.flatten(), headers: Some(conditions) })
    }

    fn string_match(&mut self, here: Place<'_>, value: &Value) -> Option<StringMatch> {
        let fields = self.fields(here, value, &STRING_MATCH)?;
        let mut all = STRING_MATCH.into_iter().filter_map(|kind| Some((kind, said(fields, kind)?)));
        let (Some((kind, value)), None) = (all.next(), all.next()) else {
            match fields.is_empty() {
                true => self.complaints.required(here, ONE_OF),
                false => self.complaints.invalid(here, value, ONE_OF),
            }
            return None;
        };
        let place = Place::Field(&here, kind);
        let text = self.text(place, value)?;
        if kind == "regex" {
            self.expressions += 1;
            if self.expressions > MOST_EXPRESSIONS {
                self.complaints.forbidden(place, format_args!("at most {MOST_EXPRESSIONS} expressions are allowed"));
                return None;
            }
            if let Err(error) = whole(&text) {
                let error = error.to_string();
                let reason = error.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
                self.complaints.invalid(place, value, format_args!("expected a regular expression: {reason}"));
                return None;
            }
        }
        let text = Some(text);
        Some(match kind {
            "exact" => StringMatch { exact: text, ..StringMatch::default() },
            "prefix" => StringMatch { prefix: text, ..StringMatch::default() },
            _ => StringMatch { regex: text, ..StringMatch::default() },
        })
    }

    fn weights(&mut self, here: Place<'_>, value: Option<&Value>) -> Finer {
        let total = self.source.total;
        let items = self.items(here, value, self.source.steps.len().max(1));
        if !items.is_empty() && !can_be_finer(total) {
            self.complaints.forbidden(
                here,
                format_args!("finer weights need a maxTrafficWeight that divides 1000000, such as 1000; it is {total}"),
            );
            return Finer::default();
        }
        let mut weights = BTreeMap::new();
        for (i, item) in items {
            let Some((step, fine)) = self.weight(Place::Item(&here, i), item) else { continue };
            if weights.insert(step, fine).is_some() {
                let place = Place::Item(&here, i);
                self.complaints.duplicate(Place::Field(&place, "step"), &step.into(), "a step has one weight");
            }
        }
        match weights.is_empty() {
            true => Finer::default(),
            false => Finer::new(total, weights),
        }
    }

    /// A step and its weight in parts of a million.
    fn weight(&mut self, here: Place<'_>, value: &Value) -> Option<(usize, u32)> {
        let fields = self.fields(here, value, &["step", "weight"])?;
        let place = Place::Field(&here, "step");
        let step = match said(fields, "step") {
            None => {
                self.complaints.required(place, "expected the number of a setWeight step, counted from 0");
                None
            }
            value => self.step(place, value),
        };
        let whole = step.and_then(|step| {
            let whole = self.source.steps[step].set_weight;
            if whole.is_none() {
                self.complaints.invalid(place, &step.into(), "expected a setWeight step, this one is of another kind");
            }
            whole
        });
        let place = Place::Field(&here, "weight");
        let Some(written) = said(fields, "weight") else {
            self.complaints.required(place, "expected a percentage, such as \"50.5%\"");
            return None;
        };
        let fine = match written.as_str().map(Weight::parse) {
            Some(Ok(Weight::Percent(fine))) => fine,
            Some(Err(error)) => {
                self.complaints.invalid(place, written, format_args!("expected a percentage, such as 50.5%: {error}"));
                return None;
            }
            Some(Ok(Weight::Plain(_))) | None => {
                self.complaints.invalid(place, written, "expected a percentage with its sign, such as 50.5%");
                return None;
            }
        };
        let (step, total) = (step?, self.source.total);
        let whole = u32::try_from(whole?).unwrap_or(0).min(total);
        if !stands_for(fine, whole, total) {
            let expected = match whole == 0 || whole == total {
                true => format!("expected nothing finer, because this step sets {whole} of {total}"),
                false => format!("expected less than 1 away from the {whole} of {total} that this step sets"),
            };
            self.complaints.invalid(place, written, expected);
            return None;
        }
        Some((step, fine))
    }

    /// The index of a step that exists.
    fn step(&mut self, here: Place<'_>, value: Option<&Value>) -> Option<usize> {
        let value = value?;
        let steps = self.source.steps.len();
        let step = value.as_u64().and_then(|step| usize::try_from(step).ok()).filter(|step| *step < steps);
        match (step, steps) {
            (Some(_), _) => {}
            (None, 0) => self.complaints.invalid(here, value, "the Rollout has no steps; leave it out"),
            (None, _) => {
                let expected = format!("expected the number of a step, from 0 to {}", steps - 1);
                self.complaints.invalid(here, value, expected);
            }
        }
        step
    }

    /// A route's name, which is also a label in metrics.
    fn name(&mut self, here: Place<'_>, fields: &Fields) -> Option<String> {
        let place = Place::Field(&here, "name");
        let Some(value) = said(fields, "name") else {
            self.complaints.required(place, "expected a name for this route");
            return None;
        };
        let name = self.text(place, value)?;
        let end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = name.as_bytes();
        let good = bytes.len() <= 63
            && end(bytes.first())
            && end(bytes.last())
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte));
        if !good {
            let expected = "expected 1 to 63 letters, digits, -, _ and ., with a letter or a digit at both ends";
            self.complaints.invalid(place, value, expected);
            return None;
        }
        let of_step = self.source.steps.iter().any(|step| {
            let header = step.set_header_route.as_ref().and_then(|set| set.name.as_deref());
            let mirror = step.set_mirror_route.as_ref().and_then(|set| set.name.as_deref());
            [header, mirror].contains(&Some(name.as_str()))
        });
        if of_step {
            self.complaints.duplicate(place, value, "a step sets a route of this name");
            return None;
        }
        if !self.names.insert(name.clone()) {
            self.complaints.duplicate(place, value, "another route of this annotation has this name");
            return None;
        }
        Some(name)
    }

    fn matches<'v>(&mut self, here: Place<'_>, fields: &'v Fields, example: &str) -> Vec<(usize, &'v Value)> {
        let place = Place::Field(&here, "match");
        let items = match said(fields, "match") {
            Some(Value::Array(items)) if items.is_empty() => None,
            None => None,
            written => Some(self.items(place, written, MOST_MATCHES)),
        };
        items.unwrap_or_else(|| {
            self.complaints.required(place, format_args!("expected at least one match, such as {example}"));
            Vec::new()
        })
    }

    fn is_header(&mut self, here: Place<'_>, value: &Value, name: &str) -> bool {
        let good = HeaderName::from_bytes(name.as_bytes()).is_ok();
        if !good {
            self.complaints.invalid(here, value, "expected the name of a header: letters, digits and !#$%&'*+-.^_`|~");
        }
        good
    }

    /// A text that is not empty.
    fn text(&mut self, here: Place<'_>, value: &Value) -> Option<String> {
        match value {
            Value::String(text) if text.is_empty() => {
                self.complaints.invalid(here, value, "expected a text that is not empty");
                None
            }
            Value::String(text) => Some(text.clone()),
            Value::Number(_) | Value::Bool(_) => {
                self.complaints.invalid(here, value, "expected a text; put it in quotes");
                None
            }
            _ => {
                self.complaints.invalid(here, value, "expected a text");
                None
            }
        }
    }

    fn items<'v>(&mut self, here: Place<'_>, value: Option<&'v Value>, most: usize) -> Vec<(usize, &'v Value)> {
        match value {
            None => Vec::new(),
            Some(Value::Array(items)) if items.len() > most => {
                self.complaints.too_many(here, items.len(), most);
                Vec::new()
            }
            Some(Value::Array(items)) => items.iter().enumerate().collect(),
            Some(other) => {
                self.complaints.invalid(here, other, "expected a list");
                Vec::new()
            }
        }
    }

    /// The fields of a mapping, none of them unknown.
    fn fields<'v>(&mut self, here: Place<'_>, value: &'v Value, known: &[&str]) -> Option<&'v Fields> {
        let Value::Object(fields) = value else {
            let expected = format!("expected a mapping with {}", known.join(", "));
            self.complaints.invalid(here, value, expected);
            return None;
        };
        for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
            let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric());
            let place = if plain { Place::Field(&here, name) } else { Place::Key(&here, name) };
            match closest(name, known) {
                Some(meant) => self.complaints.forbidden(place, format_args!("unknown field; did you mean {meant}?")),
                None => {
                    let known = known.join(", ");
                    self.complaints.forbidden(place, format_args!("unknown field; known here: {known}"));
                }
            }
        }
        Some(fields)
    }
}

const ONE_OF: &str = "expected exactly one of exact, prefix, regex";

/// A field that says something: `null` is as good as absent, as for the API server.
fn said<'v>(fields: &'v Fields, name: &str) -> Option<&'v Value> {
    fields.get(name).filter(|value| !value.is_null())
}
