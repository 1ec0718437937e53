//! `splitway check`: why does it not work? One line for everything that has to be true before a Rollout can be followed,
//! and, if a proxy that runs is asked too, for what it makes of it. COLD; reads only, and steers nothing.
//!
//! Nothing is asked of the API server but what the proxy itself asks: each permission is tried for real, with get, list and
//! a watch that ends at once. (To ask whether something is allowed would be to create a SelfSubjectAccessReview.)
//!
//! Files, in reading order:
//!
//! * `id`: the names of the checks;
//! * `cluster`: from a look at the API server to checks, PURE;
//! * `proxy`: from the answers of a proxy to checks, PURE;
//! * `report`: what came of them, as text.

mod cluster;
mod id;
mod proxy;
mod report;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::admin::ask::ask;
use crate::admin::token::Token;
use crate::source::kube::{Client, Look, PortRef};

pub use id::Id;
pub use report::{Check, Outcome, Report};

use proxy::Answers;
use report::Made;

#[derive(Clone, Debug)]
pub struct Settings {
    pub namespace: String,
    pub name: String,
    /// Of the application, at least one.
    pub ports: Vec<PortRef>,
    /// Of the proxy that is asked, too.
    pub admin: Option<SocketAddr>,
    /// That it asks for.
    pub token: Option<Token>,
    /// Where the API server is, for people.
    pub server: String,
}

impl Settings {
    fn rollout(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// A proxy may be a little behind what we have just seen, or ahead of it: so long are both asked again.
const SETTLES_WITHIN: Duration = Duration::from_secs(3);
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);

/// Lasts for 23 s at most, whoever is silent: two requests to the API server one after the other, two to the proxy, and
/// [`SETTLES_WITHIN`].
pub async fn check(client: &Client, settings: &Settings) -> Report {
    let mut look = Look::take(client, &settings.namespace, &settings.name).await;
    let Some(admin) = settings.admin else {
        let mut made = cluster::checks(&look, settings);
        let of_proxies =
            Id::ALL.into_iter().filter(|id| ["proxy.", "metrics."].iter().any(|part| id.as_str().starts_with(part)));
        of_proxies.for_each(|id| made.skip(id, "say --admin ADDRESS to ask a proxy that runs"));
        return Report::of(settings.rollout(), made);
    };
    let mut answers = answers(admin, settings.token.as_ref()).await;
    let deadline = Instant::now() + SETTLES_WITHIN;
    while answers.config.is_ok() && look.rollout().is_some() && !proxy::settled(&answers, &look, settings) {
        tokio::time::sleep(BETWEEN_LOOKS).await;
        let again = async {
            (
                Look::take(client, &settings.namespace, &settings.name).await,
                self::answers(admin, settings.token.as_ref()).await,
            )
        };
        // Who has become silent in the meantime changes nothing about what was seen.
        match tokio::time::timeout_at(deadline, again).await {
            Ok((newer_look, newer_answers)) => (look, answers) = (newer_look, newer_answers),
            Err(_) => break,
        }
    }
    let mut made: Made = cluster::checks(&look, settings);
    made.append(proxy::checks(&answers, &look, settings, SystemTime::now()));
    Report::of(settings.rollout(), made)
}

/// `/config` first: our own reading of `/metrics` must not look like a scrape. (It is told apart by its name, too.)
async fn answers(admin: SocketAddr, token: Option<&Token>) -> Answers {
    let config = ask(admin, token, "/config", "application/json").await;
    let metrics = match &config {
        Ok(_) => ask(admin, token, "/metrics", "text/plain").await,
        Err(error) => Err(error.clone()),
    };
    let config = config.and_then(|text| {
        serde_json::from_str(&text).map_err(|error| {
            format!("http://{admin}/config is not JSON: {error}; is it the admin listener of a splitway that runs?")
        })
    });
    Answers { config, metrics }
}
