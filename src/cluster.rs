//! From the flags of `run --rollout` to a Rollout that is followed, and from those of `check` to one that is looked at.

use std::env;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use splitway::admin::Token;
use splitway::check;
use splitway::config::RolloutName;
use splitway::control::Sender;
use splitway::control::cluster::{self, Following, FollowingView, Overlay, Seen};
use splitway::metrics::Metrics;
use splitway::route::PortName;
use splitway::source::file::Watch;
use splitway::source::kube::{self, Access, OwnService, PortRef};
use tokio::sync::{mpsc, watch};

use crate::cli;

/// A Rollout on an API server, which has not been asked yet.
pub struct Rollout {
    client: kube::Client,
    settings: kube::Settings,
    following: watch::Sender<Following>,
}

impl fmt::Display for Rollout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.settings.namespace, self.settings.name)
    }
}

impl Rollout {
    /// Reads the settings for the API server. The error is a whole explanation.
    pub async fn reach(name: &RolloutName, ports: &[PortName], flags: cli::Cluster) -> Result<Self, String> {
        let (_, client, namespace) = reach(name, flags.place).await?;
        let default: PortRef = given(flags.port).unwrap_or_default().parse().unwrap_or_default();
        let port = |port: &PortName| match port.is_unnamed() {
            true => default.clone(),
            false => port.as_str().parse().unwrap_or_default(),
        };
        let service = given(flags.service).map(|service| own_service(&service, &namespace)).transpose()?;
        let settings = kube::Settings {
            name: name.name.clone(),
            namespace,
            ports: ports.iter().map(port).collect(),
            service,
            state_dir: flags.state_dir.filter(|path| !path.as_os_str().is_empty()),
        };
        Ok(Self { client, settings, following: watch::channel(Following::default()).0 })
    }

    /// Whether it shares the work with replicas of itself.
    pub fn has_replicas(&self) -> bool {
        self.settings.service.is_some()
    }

    pub fn following(&self) -> FollowingView {
        self.following.subscribe()
    }

    /// Starts following it, for as long as somebody listens to `observations`.
    pub fn follow(
        self,
        overlay: Overlay,
        origin: String,
        file: Option<Watch<Overlay>>,
        again: mpsc::Receiver<()>,
        observations: Sender,
        metrics: Arc<Metrics>,
    ) {
        let name = self.to_string();
        let (overlays, overlay) = watch::channel(Arc::new(overlay));
        let (seen, picture) = watch::channel(Seen::default());
        if let Some(file) = file {
            tokio::spawn(kube::follow_file(file, again, origin, overlays, observations.clone()));
        }
        tokio::spawn(kube::follow(self.client, self.settings, overlay, seen, metrics.clone()));
        tokio::spawn(cluster::follow(name, picture, observations, self.following, metrics));
    }
}

/// Everything that `check` needs. The error is a whole explanation.
pub async fn look_at(
    name: &RolloutName,
    flags: cli::Check,
    token: Option<Token>,
) -> Result<(kube::Client, check::Settings), String> {
    let (access, client, namespace) = reach(name, flags.place).await?;
    let ports: Vec<PortRef> =
        flags.ports.iter().filter(|port| !port.is_empty()).map(|port| port.parse().unwrap_or_default()).collect();
    let settings = check::Settings {
        namespace,
        name: name.name.clone(),
        ports: if ports.is_empty() { vec![PortRef::Default] } else { ports },
        admin: flags.admin,
        token,
        server: access.server().await?,
    };
    Ok((client, settings))
}

/// A client, and the Rollout's namespace. Nothing is asked yet.
pub async fn client_for(name: &RolloutName, place: cli::Place) -> Result<(kube::Client, String), String> {
    let (_, client, namespace) = reach(name, place).await?;
    Ok((client, namespace))
}

/// An empty flag or variable is as good as none.
fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// The way to the API server, and the Rollout's namespace: as it is named, else as a flag says, else as the API server's
/// settings do. Nothing is asked yet.
async fn reach(name: &RolloutName, place: cli::Place) -> Result<(Access, kube::Client, String), String> {
    let access = Access {
        kubeconfig: place.kubeconfig.filter(|path| !path.as_os_str().is_empty()),
        context: given(place.context),
    };
    let (client, default) = access.client().await?;
    let namespace = match (&name.namespace, given(place.namespace)) {
        (Some(named), Some(flag)) if *named != flag => {
            return Err(format!(
                "--rollout {name} is in namespace {named}, and --namespace says {flag}: leave out one"
            ));
        }
        (Some(named), _) => named.clone(),
        (None, Some(flag)) => flag,
        (None, None) => default,
    };
    Ok((access, client, namespace))
}

/// Where it names no namespace, that of the Rollout.
fn own_service(text: &str, rollouts_namespace: &str) -> Result<OwnService, String> {
    let (namespace, name) = text.split_once('/').unwrap_or((rollouts_namespace, text));
    let address = env::var("POD_IP").ok().filter(|address| !address.is_empty()).ok_or_else(|| {
        "--service needs this pod's own address in the variable POD_IP: set it from the field status.podIP".to_owned()
    })?;
    let address: IpAddr =
        address.parse().map_err(|_| format!("POD_IP: expected an IP address such as 10.1.2.3, found {address:?}"))?;
    Ok(OwnService { namespace: namespace.to_owned(), name: name.to_owned(), address })
}
