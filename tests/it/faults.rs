//! Calm under faults of the application: waits that end, second tries, endpoints left out for a while, queues.

mod cuts;
mod outliers;
mod queues;
mod retries;
mod shown;
mod timeouts;

use splitway::route::{Role, Routing};

use crate::support::Proxy;

/// One worker, so that everything that is remembered is remembered in one place.
async fn one_worker(routing: Routing) -> Proxy {
    Proxy::start_with(routing, |settings| settings.proxy.workers = 1).await
}

/// The name of a metric of a version whose role has the same name.
fn of(metric: &str, version: Role) -> String {
    format!("{metric}{{version=\"{0}\",role=\"{0}\"}}", version.as_str())
}

fn failures(version: Role, failure: &str) -> String {
    let version = version.as_str();
    format!("splitway_upstream_failures_total{{version=\"{version}\",role=\"{version}\",failure=\"{failure}\"}}")
}
