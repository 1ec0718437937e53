//! How the API server is reached, and what its refusals mean for an operator.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;

/// Which API server, and who we are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// `None`: the pod's own service account if we run in a pod, else `$KUBECONFIG` or `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// `None`: the file's current one.
    pub context: Option<String>,
}

/// A server that does not take a connection for this long is asked again later.
const CONNECT: Duration = Duration::from_secs(5);

impl Access {
    /// A client, and the namespace that is meant where none is named. Nothing is sent yet. The error is a whole
    /// explanation.
    pub async fn client(&self) -> Result<(kube::Client, String), String> {
        let mut config = self.config().await?;
        config.connect_timeout = Some(CONNECT);
        // Watches begin again by themselves, and tell of every failure.
        config.default_retry = false;
        let namespace = config.default_namespace.clone();
        let client = kube::Client::try_from(config)
            .map_err(|error| format!("the settings for the API server cannot be used: {}", whole(&error)))?;
        Ok((client, namespace))
    }

    /// Where the API server is, for people.
    pub async fn server(&self) -> Result<String, String> {
        self.config().await.map(|config| config.cluster_url.to_string())
    }

    async fn config(&self) -> Result<kube::Config, String> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        if let Some(path) = &self.kubeconfig {
            let name = path.display();
            let file = Kubeconfig::read_from(path).map_err(|error| {
                format!("--kubeconfig {name} cannot be read: {}; expected a kubeconfig file", whole(&error))
            })?;
            return kube::Config::from_custom_kubeconfig(file, &options)
                .await
                .map_err(|error| format!("--kubeconfig {name} cannot be used: {}", whole(&error)));
        }
        if self.context.is_none()
            && let Ok(config) = kube::Config::incluster()
        {
            return Ok(config);
        }
        kube::Config::from_kubeconfig(&options).await.map_err(|error| {
            format!(
                "no API server is known: this is not a pod with a service account, and there is no kubeconfig that can be \
                 used ({}); say --kubeconfig FILE",
                whole(&error)
            )
        })
    }
}

/// Why a list or a watch failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub kind: TroubleKind,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TroubleKind {
    /// 403: the account lacks a permission.
    Forbidden,
    /// 401: the account is not known, or its token has expired.
    Unauthorized,
    /// 404: the server does not know this kind of object.
    Unknown,
    /// No answer, or none that helps.
    Unreachable,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Trouble {
    pub fn silent(resource: &str, patience: Duration) -> Self {
        let message = match patience {
            Duration::ZERO => format!("the watch of {resource} has ended"),
            patience => format!("the API server has not listed {resource} within {} s", patience.as_secs()),
        };
        Self { kind: TroubleKind::Unreachable, message }
    }

    pub fn of(resource: &str, error: &watcher::Error) -> Self {
        use watcher::Error::*;
        match error {
            InitialListFailed(error) => Self::from_client(resource, "list", error),
            WatchStartFailed(error) | WatchFailed(error) => Self::from_client(resource, "watch", error),
            WatchError(status) => Self::from_status(resource, "watch", status),
            NoResourceVersion => Self {
                kind: TroubleKind::Unreachable,
                message: format!("the API server's list of {resource} has no resourceVersion: it cannot be watched"),
            },
        }
    }

    pub fn from_client(resource: &str, verb: &str, error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from_status(resource, verb, status),
            error => Self {
                kind: TroubleKind::Unreachable,
                message: format!("cannot {verb} {resource}: the API server cannot be reached: {}", whole(error)),
            },
        }
    }

    fn from_status(resource: &str, verb: &str, status: &kube::core::Status) -> Self {
        let said = &status.message;
        let (kind, message) = match status.code {
            401 => (
                TroubleKind::Unauthorized,
                format!(
                    "cannot {verb} {resource}: the API server does not accept our credentials (401): the token may have \
                     expired, or the kubeconfig is of another cluster"
                ),
            ),
            403 => (
                TroubleKind::Forbidden,
                format!(
                    "may not {verb} {resource} (403): the account's Role needs get, list and watch on {resource}; the API \
                     server says: {said}"
                ),
            ),
            404 => (
                TroubleKind::Unknown,
                format!(
                    "cannot {verb} {resource}: the API server does not know them (404): expected {}",
                    match resource {
                        "rollouts" => "argoproj.io/v1alpha1 Rollout: install Argo Rollouts' CRDs",
                        _ => "Kubernetes 1.21 or newer",
                    }
                ),
            ),
            code => (TroubleKind::Unreachable, format!("cannot {verb} {resource}: the API server says {code}: {said}")),
        };
        Self { kind, message }
    }
}

/// An error with everything that caused it: the outermost text alone says little ("client error (Connect)").
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(one) = cause {
        let said = one.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = one.source();
    }
    text
}
