//! Requests of which clients know how many there were, who answered what, and how long it took.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::{Method, Request};

use crate::support::Client;

/// Bounds of the buckets in seconds, as documented.
const BUCKETS: [f64; 16] =
    [0.0, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, f64::INFINITY];

/// What one client sends, one after the other.
#[derive(Clone, Default)]
pub struct Load(Vec<(Method, &'static str, String)>);

impl Load {
    /// `to`: `always` or `never` the canary, or nothing, so that the split decides.
    pub fn and(mut self, times: usize, method: Method, to: &'static str, path: &str) -> Self {
        self.0.extend((0..times).map(|_| (method.clone(), to, path.to_owned())));
        self
    }

    /// In an order that mixes what was added one after the other, the same every time.
    pub fn mixed(mut self) -> Self {
        let n = self.0.len();
        let step = (n * 5 / 8..).find(|step| gcd(*step, n) == 1).unwrap_or(1);
        self.0 = (0..n).map(|i| self.0[i * step % n].clone()).collect();
        self
    }

    /// By four clients.
    pub async fn send(self, proxy: SocketAddr) -> Vec<Sent> {
        let clients: Vec<_> = (0..4).map(|client| tokio::spawn(self.clone().part(proxy, client))).collect();
        let mut sent = Vec::new();
        for client in clients {
            sent.extend(client.await.expect("every request is answered"));
        }
        sent
    }

    async fn part(self, proxy: SocketAddr, client: usize) -> Vec<Sent> {
        let mut connection = Client::connect(proxy).await;
        let mut sent = Vec::new();
        for (method, to, path) in self.0.into_iter().skip(client).step_by(4) {
            let mut request = Request::builder().method(method).uri(&path);
            if !to.is_empty() {
                request = request.header("x-canary", to);
            }
            let begun = Instant::now();
            let answer = connection.send(request).await;
            let millis = path.strip_prefix("/after/").map_or(0, |millis| millis.parse().expect("milliseconds"));
            sent.push(Sent {
                version: answer.app().to_owned(),
                status: answer.status,
                at_least: Duration::from_millis(millis),
                at_most: begun.elapsed(),
            });
        }
        sent
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// What a client knows of one request.
#[derive(Clone, Debug)]
pub struct Sent {
    pub version: String,
    pub status: u16,
    /// The application took so long, and the client has waited so long.
    pub at_least: Duration,
    pub at_most: Duration,
}

/// Those of one version.
pub fn of<'a>(sent: &'a [Sent], version: &str) -> Vec<&'a Sent> {
    sent.iter().filter(|one| one.version == version).collect()
}

pub fn errors(sent: &[&Sent]) -> f64 {
    sent.iter().filter(|one| one.status >= 500).count() as f64
}

/// Between which bounds of buckets a quantile has to lie.
pub fn quantile(sent: &[&Sent], quantile: f64) -> (f64, f64) {
    let rank = ((sent.len() as f64 * quantile).ceil() as usize).clamp(1, sent.len()) - 1;
    let ranked = |time: fn(&Sent) -> Duration| {
        let mut times: Vec<f64> = sent.iter().map(|one| time(one).as_secs_f64()).collect();
        times.sort_by(f64::total_cmp);
        times[rank]
    };
    let above = |time: f64| BUCKETS.iter().position(|bound| time <= *bound).expect("the last one is infinite");
    let low = above(ranked(|one| one.at_least)).max(1) - 1;
    (BUCKETS[low], BUCKETS[above(ranked(|one| one.at_most))])
}
