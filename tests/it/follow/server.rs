//! A double of the API server for what a test must be able to bring about at will: refusals, silence, expired resource
//! versions, an end in the middle. The real one plays whole rollouts in `tests/cluster`.
//!
//! Knows single objects, the way to a port of a pod (all pods are at 127.0.0.1), and namespaced lists and watches with label selectors (`a=b`, `a in (b,c)`) and `metadata.name=`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

type Body = UnsyncBoxBody<Bytes, Infallible>;

pub struct ApiServer {
    pub address: SocketAddr,
    world: Arc<Mutex<World>>,
    task: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct World {
    version: u64,
    /// By resource, namespace and name.
    objects: BTreeMap<(String, String, String), Value>,
    watches: Vec<Watching>,
    /// The status that requests for a resource get instead of an answer; for one verb only, or for every one.
    refusals: BTreeMap<(String, Option<&'static str>), u16>,
    /// Takes connections and requests and says nothing.
    silent: bool,
    /// Method and target of every request.
    asked: Vec<String>,
}

struct Watching {
    wanted: Wanted,
    tell: mpsc::UnboundedSender<Bytes>,
}

#[derive(Clone, Debug)]
struct Wanted {
    resource: String,
    namespace: String,
    /// One object, and not a list.
    object: Option<String>,
    name: Option<String>,
    labels: Vec<(String, Vec<String>)>,
}

impl ApiServer {
    pub async fn start() -> Self {
        let world = Arc::<Mutex<World>>::default();
        let mut server = Self { address: ([127, 0, 0, 1], 0).into(), world, task: None };
        server.revive().await;
        server
    }

    /// A kubeconfig that leads here.
    pub fn kubeconfig(&self) -> String {
        let server = format!("http://{}", self.address);
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": server}}],
            "users": [{"name": "test", "user": {"token": "a-token"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "services"}}],
        })
        .to_string()
    }

    /// Ends every connection and takes no new one. What it knows stays.
    pub async fn crash(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
        self.world.lock().unwrap().watches.clear();
    }

    /// At the address that it had, if it had one.
    pub async fn revive(&mut self) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        let listener: TcpListener = socket.listen(64).unwrap();
        self.address = listener.local_addr().unwrap();
        let world = self.world.clone();
        self.task = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("accept on loopback");
                let world = world.clone();
                let service = service_fn(move |request| answer(world.clone(), request));
                connections.spawn(async move {
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        }));
    }

    /// Creates or replaces an object.
    pub fn put(&self, resource: &str, mut object: Value) {
        let mut world = self.world.lock().unwrap();
        world.version += 1;
        object["metadata"]["resourceVersion"] = json!(world.version.to_string());
        let key = key(resource, &object);
        let kind = if world.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        world.objects.insert(key, object.clone());
        world.tell(resource, kind, &object);
    }

    pub fn delete(&self, resource: &str, name: &str) {
        let mut world = self.world.lock().unwrap();
        world.version += 1;
        let key = (resource.to_owned(), "services".to_owned(), name.to_owned());
        let object = world.objects.remove(&key).expect("it was put there");
        world.tell(resource, "DELETED", &object);
    }

    /// Changes an object in place without telling any watch of it: what only a list can find out.
    pub fn change_in_secret(&self, resource: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut world = self.world.lock().unwrap();
        let key = (resource.to_owned(), "services".to_owned(), name.to_owned());
        change(world.objects.get_mut(&key).expect("it was put there"));
    }

    /// From now on requests for a resource get this status.
    pub fn refuse(&self, resource: &str, status: u16) {
        self.world.lock().unwrap().refusals.insert((resource.to_owned(), None), status);
    }

    /// The same for one of get, list and watch.
    pub fn refuse_verb(&self, verb: &'static str, resource: &str, status: u16) {
        self.world.lock().unwrap().refusals.insert((resource.to_owned(), Some(verb)), status);
    }

    pub fn allow(&self, resource: &str) {
        self.world.lock().unwrap().refusals.retain(|(refused, _), _| refused != resource);
    }

    pub fn be_silent(&self, silent: bool) {
        self.world.lock().unwrap().silent = silent;
    }

    /// Tells every watch of a resource that its resource version has expired, and ends it.
    pub fn expire(&self, resource: &str) {
        let gone = status(410, "Expired", "too old resource version");
        let mut world = self.world.lock().unwrap();
        world.watches.retain(|watch| {
            if watch.wanted.resource == resource {
                let _ = watch.tell.send(line(json!({"type": "ERROR", "object": gone})));
            }
            watch.wanted.resource != resource
        });
    }

    /// Ends every watch of a resource without a word, as a server does when its time is up.
    pub fn cut(&self, resource: &str) {
        self.world.lock().unwrap().watches.retain(|watch| watch.wanted.resource != resource);
    }

    /// How many watches of a resource are open.
    pub fn watches(&self, resource: &str) -> usize {
        let world = self.world.lock().unwrap();
        world.watches.iter().filter(|watch| watch.wanted.resource == resource && !watch.tell.is_closed()).count()
    }

    pub fn asked(&self) -> Vec<String> {
        self.world.lock().unwrap().asked.clone()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl World {
    fn tell(&mut self, resource: &str, kind: &str, object: &Value) {
        let text = line(json!({"type": kind, "object": object}));
        self.watches.retain(|watch| match watch.wanted.takes(resource, object) {
            true => watch.tell.send(text.clone()).is_ok(),
            false => true,
        });
    }
}

impl Wanted {
    fn of(request: &Request<Incoming>) -> Option<Self> {
        let path: Vec<&str> = request.uri().path().split('/').collect();
        let at = path.iter().position(|part| *part == "namespaces")?;
        let query: BTreeMap<String, String> = query(request);
        let labels = query.get("labelSelector").map(String::as_str).unwrap_or_default();
        let one = |text: &str| match text.split_once(" in (") {
            Some((label, values)) => {
                let values = values.trim_end_matches(')').split(',').map(|value| value.trim().to_owned()).collect();
                (label.trim().to_owned(), values)
            }
            None => {
                let (label, value) = text.split_once('=').expect("a selector of equality");
                (label.to_owned(), vec![value.to_owned()])
            }
        };
        // Commas part both the terms and the values of `in`.
        let terms = match labels.contains(" in ") {
            true => vec![labels],
            false => labels.split(',').filter(|term| !term.is_empty()).collect(),
        };
        Some(Self {
            namespace: path.get(at + 1)?.to_string(),
            resource: path.get(at + 2)?.to_string(),
            object: path.get(at + 3).map(|name| name.to_string()),
            name: query.get("fieldSelector").and_then(|field| field.strip_prefix("metadata.name=")).map(str::to_owned),
            labels: terms.into_iter().map(one).collect(),
        })
    }

    fn takes(&self, resource: &str, object: &Value) -> bool {
        let metadata = &object["metadata"];
        self.resource == resource
            && metadata["namespace"] == *self.namespace
            && self.name.as_ref().is_none_or(|name| metadata["name"] == **name)
            && self.labels.iter().all(|(label, values)| values.iter().any(|value| metadata["labels"][label] == **value))
    }
}

fn query(request: &Request<Incoming>) -> BTreeMap<String, String> {
    let decode = |text: &str| {
        let bytes = text.replace('+', " ").into_bytes();
        let mut decoded = Vec::new();
        let mut rest = bytes.as_slice();
        while let Some((first, after)) = rest.split_first() {
            match (first, after) {
                (b'%', [high, low, after @ ..]) => {
                    let hex = String::from_utf8(vec![*high, *low]).unwrap();
                    decoded.push(u8::from_str_radix(&hex, 16).unwrap());
                    rest = after;
                }
                _ => {
                    decoded.push(*first);
                    rest = after;
                }
            }
        }
        String::from_utf8(decoded).unwrap()
    };
    let pairs = request.uri().query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decode(name), decode(value))).collect()
}

async fn answer(world: Arc<Mutex<World>>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let is_silent = {
        let mut world = world.lock().unwrap();
        world.asked.push(format!("{} {}", request.method(), request.uri()));
        world.silent
    };
    if is_silent {
        std::future::pending::<()>().await;
    }
    assert_eq!(request.method(), Method::GET, "nothing is ever written");
    if let Some((port, target)) = proxied(request.uri()) {
        return Ok(ask_pod(port, target, request.headers()).await);
    }
    let Some(wanted) = Wanted::of(&request) else {
        return Ok(whole(404, status(404, "NotFound", "no such path")));
    };
    let watches = query(&request).get("watch").is_some_and(|watch| watch == "true" || watch == "1");
    let verb = match &wanted.object {
        Some(_) => "get",
        None if watches => "watch",
        None => "list",
    };
    let mut world = world.lock().unwrap();
    let refusal = [None, Some(verb)].map(|verb| world.refusals.get(&(wanted.resource.clone(), verb)).copied());
    if let Some(code) = refusal.into_iter().flatten().next() {
        return Ok(whole(code, status(code, "Refused", "the test says so")));
    }
    if let Some(name) = wanted.object {
        let object = world.objects.get(&(wanted.resource, wanted.namespace, name));
        return Ok(match object {
            Some(object) => whole(200, object.clone()),
            None => whole(404, status(404, "NotFound", "no such object")),
        });
    }
    if watches {
        let (tell, told) = mpsc::unbounded_channel();
        world.watches.push(Watching { wanted, tell });
        let mut answer = Response::new(Stream(told).boxed_unsync());
        answer.headers_mut().insert("content-type", "application/json".parse().unwrap());
        return Ok(answer);
    }
    let items: Vec<&Value> =
        world.objects.values().filter(|object| wanted.takes(&wanted.resource, object) && of(object, &wanted)).collect();
    let list = json!({
        "apiVersion": "v1", "kind": "List",
        "metadata": {"resourceVersion": world.version.to_string()},
        "items": items,
    });
    Ok(whole(200, list))
}

/// `.../pods/NAME:PORT/proxy/TARGET`: the port, at our own address, and the target.
fn proxied(uri: &http::Uri) -> Option<(u16, String)> {
    let (pod, target) = uri.path_and_query()?.as_str().split_once("/proxy/")?;
    Some((pod.rsplit(':').next()?.parse().ok()?, format!("/{target}")))
}

/// As the real one does, it keeps `Authorization` for itself and passes on what it does not know.
async fn ask_pod(port: u16, target: String, headers: &http::HeaderMap) -> Response<Body> {
    let passed = headers.iter().filter(|(name, _)| name.as_str().starts_with("splitway-"));
    let passed: Vec<_> = passed.map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    let mut pod = crate::support::Client::connect(([127, 0, 0, 1], port).into()).await;
    let answer = pod.get_with(&target, &passed).await;
    let mut response = Response::new(Full::new(answer.body).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap();
    response
}

/// Objects do not say their resource; their kind does.
fn of(object: &Value, wanted: &Wanted) -> bool {
    let resource = format!("{}s", object["kind"].as_str().unwrap_or_default().to_lowercase());
    resource == wanted.resource
}

fn key(resource: &str, object: &Value) -> (String, String, String) {
    let text = |field: &str| object["metadata"][field].as_str().expect("a name and a namespace").to_owned();
    (resource.to_owned(), text("namespace"), text("name"))
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message,
        "metadata": {}})
}

fn whole(code: u16, body: Value) -> Response<Body> {
    let mut answer = Response::new(Full::new(Bytes::from(body.to_string())).boxed_unsync());
    *answer.status_mut() = StatusCode::from_u16(code).unwrap();
    answer.headers_mut().insert("content-type", "application/json".parse().unwrap());
    answer
}

fn line(event: Value) -> Bytes {
    Bytes::from(format!("{event}\n"))
}

/// The events of one watch, until its sender is dropped.
struct Stream(mpsc::UnboundedReceiver<Bytes>);

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}
