//! The proxies that follow a Rollout, found and asked through the API server: whoever can read pods can see them, from
//! anywhere. Needs `get` on `pods/proxy` beside `list` on `pods`.

use http::{HeaderName, HeaderValue, StatusCode};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::client::Body;

use super::client::Trouble;

/// How the pods of this program are labelled (Kubernetes' recommended labels; `deploy/` sets it).
pub const LABEL: &str = "app.kubernetes.io/name=splitway";

/// Pods that are asked; of more only the first.
const MOST: usize = 16;

const MAX_ANSWER_BYTES: usize = 1 << 20;

/// The names of the running pods. The error is a whole explanation.
pub async fn find(client: &kube::Client, namespace: &str) -> Result<Vec<String>, String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let list = pods.list(&ListParams::default().labels(LABEL)).await;
    let list = list.map_err(|error| Trouble::from_client("pods", "list", &error).message)?;
    let runs = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        pod.metadata.deletion_timestamp.is_none() && phase == Some("Running")
    };
    let mut names: Vec<String> = list.items.into_iter().filter(runs).filter_map(|pod| pod.metadata.name).collect();
    names.sort();
    names.truncate(MOST);
    if names.is_empty() {
        return Err(format!(
            "no pod in {namespace} has the label {LABEL} and runs: is the proxy in another namespace? Then say --admin ADDRESS, \
             with kubectl port-forward"
        ));
    }
    Ok(names)
}

/// What one of them answers at its admin port, whatever that is, to a request with `header`. The error: nobody answers there, or the API server does not
/// let us ask.
pub async fn ask(
    client: &kube::Client,
    namespace: &str,
    pod: &str,
    port: u16,
    target: &str,
    header: Option<(HeaderName, HeaderValue)>,
) -> Result<(StatusCode, String), String> {
    let uri = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{target}");
    let mut request = http::Request::get(uri).body(Body::empty()).map_err(|error| error.to_string())?;
    request.headers_mut().extend(header);
    let why = |error: &kube::Error| {
        let why = Trouble::from_client("pods/proxy", "get", error).message;
        format!("pod {pod}: {why}; its admin listener must be on the pod's address, port {port} (--admin-port)")
    };
    let answer = client.send(request).await.map_err(|error| why(&error))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
    let body = body.map_err(|error| format!("pod {pod}: {error}"))?.to_bytes();
    // The API server's own words have their number in them. The proxy's have not.
    match serde_json::from_slice::<kube::core::Status>(&body) {
        Ok(refusal) if !status.is_success() && refusal.code != 0 => Err(why(&kube::Error::Api(refusal.boxed()))),
        _ => Ok((status, String::from_utf8_lossy(&body).into_owned())),
    }
}
