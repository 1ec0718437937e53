//! The commands that ask proxies that run, and how they are asked: `status`, `report`, and for others.

use std::future::Future;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use splitway::admin::report::{self, Report};
use splitway::admin::status::{Status, Style};
use splitway::admin::{TOKEN_HEADER, Token, ask, said};
use splitway::source::kube::{self, proxies};

use crate::{Stop, cli, cluster, hint, rollout_name, run_cold, say, token, wants_colour};

/// How long `--watch` shows what it has seen.
pub const AGAIN: Duration = Duration::from_secs(1);

/// For one answer through the API server.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who is asked.
pub enum Asked {
    Admin(std::net::SocketAddr, Option<Token>),
    /// Pods, through the API server.
    Pods {
        client: kube::Client,
        namespace: String,
        rollout: String,
        port: u16,
        token: Option<Token>,
    },
}

/// What proxies have said, each for itself.
pub struct Heard<T> {
    /// At least one.
    pub answers: Vec<T>,
    /// Why others said nothing.
    pub away: Vec<String>,
}

impl Asked {
    pub async fn of(flags: cli::Proxies, command: &str) -> Result<Self, Stop> {
        let token = token(flags.admin_token_file.as_deref())?;
        match (flags.admin, flags.rollout) {
            (Some(admin), _) => Ok(Asked::Admin(admin, token)),
            (None, Some(rollout)) => {
                let name = rollout_name(&rollout, command)?;
                let (client, namespace) = cluster::client_for(&name, flags.place).await.map_err(Stop::Other)?;
                let rollout = format!("{namespace}/{}", name.name);
                Ok(Asked::Pods { client, namespace, rollout, port: flags.admin_port, token })
            }
            (None, None) => Err(Stop::Other("expected --admin ADDRESS or --rollout NS/NAME".to_owned())),
        }
    }

    /// The flag that asks the same once more.
    pub fn flag(&self) -> String {
        match self {
            Asked::Admin(admin, _) => format!("--admin {admin}"),
            Asked::Pods { rollout, .. } => format!("--rollout {rollout}"),
        }
    }

    /// What each of them answers. The error: none does.
    pub async fn all<T: DeserializeOwned>(&self, target: &str) -> Result<Heard<T>, String> {
        let Heard { answers: names, away } = self.names().await?;
        gathered(names.iter().map(|name| self.ask(name, target)), away).await
    }

    /// What one of them answers, where all would say the same.
    pub async fn first<T: DeserializeOwned>(&self, target: &str) -> Result<T, String> {
        self.ask(&self.names().await?.answers[0], target).await
    }

    /// How each of them stands, by name, as `/status` with these parameters says. Those that follow another Rollout are none
    /// of ours.
    pub async fn standing(&self, target: &str) -> Result<Heard<(String, Status)>, String> {
        let ask = async |name: String| {
            let status = self.ask::<Status>(&name, target).await?;
            Ok((name, status))
        };
        let (client, namespace, rollout) = match self {
            Asked::Admin(admin, _) => return gathered([admin.to_string()].into_iter().map(ask), Vec::new()).await,
            Asked::Pods { client, namespace, rollout, .. } => (client, namespace, rollout),
        };
        let pods = proxies::find(client, namespace).await?;
        let Heard { answers, away } = gathered(pods.into_iter().map(ask), Vec::new()).await?;
        let followed = |status: &Status| status.rollout.as_ref().map(|followed| followed.name.clone());
        let (ours, others): (Vec<_>, Vec<_>) =
            answers.into_iter().partition(|(_, status)| followed(status).as_ref() == Some(rollout));
        if ours.is_empty() {
            let others = others.into_iter().map(|(pod, status)| {
                format!("{pod} follows {}", followed(&status).unwrap_or_else(|| "no Rollout".to_owned()))
            });
            let why = others.chain(away).collect::<Vec<_>>().join(", ");
            return Err(format!("no proxy in {namespace} follows {rollout}: {why}"));
        }
        Ok(Heard { answers: ours, away })
    }

    /// Those that are ours, at least one.
    async fn names(&self) -> Result<Heard<String>, String> {
        match self {
            Asked::Admin(admin, _) => Ok(Heard { answers: vec![admin.to_string()], away: Vec::new() }),
            Asked::Pods { .. } => {
                let Heard { answers, away } = self.standing("/status").await?;
                Ok(Heard { answers: answers.into_iter().map(|(pod, _)| pod).collect(), away })
            }
        }
    }

    /// What one of them answers.
    pub async fn ask<T: DeserializeOwned>(&self, name: &str, target: &str) -> Result<T, String> {
        let (client, namespace, port, token) = match self {
            Asked::Admin(admin, token) => {
                return read(&ask::ask(*admin, token.as_ref(), target, "application/json").await?, name);
            }
            Asked::Pods { client, namespace, port, token, .. } => (client, namespace, *port, token),
        };
        let header = token.as_ref().map(|token| (TOKEN_HEADER, token.plain()));
        let answer = tokio::time::timeout(PATIENCE, proxies::ask(client, namespace, name, port, target, header)).await;
        match answer.unwrap_or_else(|_| Err(format!("pod {name}: no answer within {PATIENCE:?}")))? {
            (StatusCode::OK, text) => read(&text, name),
            (StatusCode::UNAUTHORIZED, _) => Err(match token {
                None => format!("pod {name} asks for a token: say --admin-token-file FILE"),
                Some(_) => format!("pod {name} asks for another token than the one in that file"),
            }),
            (status, text) => Err(format!("pod {name} answers {status}: {}", said(&text))),
        }
    }
}

/// All at once.
async fn gathered<T>(
    asked: impl Iterator<Item = impl Future<Output = Result<T, String>>>,
    mut away: Vec<String>,
) -> Result<Heard<T>, String> {
    let mut answers = Vec::new();
    for answer in join_all(asked).await {
        match answer {
            Ok(answer) => answers.push(answer),
            Err(error) => away.push(error),
        }
    }
    if answers.is_empty() { Err(away.join("; ")) } else { Ok(Heard { answers, away }) }
}

fn read<T: DeserializeOwned>(text: &str, who: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| {
        format!("{who} answers with something else than splitway {} does: {error}", env!("CARGO_PKG_VERSION"))
    })
}

/// As one, and who was not heard.
pub fn together(heard: Heard<(String, Status)>) -> Status {
    let all = heard.answers.into_iter().map(|(_, status)| status).collect();
    let mut status = Status::together(all).unwrap_or_default();
    status.notes.extend(heard.away.into_iter().map(|error| format!("not heard: {error}")));
    status
}

pub fn status(flags: cli::Status) -> Result<ExitCode, Stop> {
    let cli::Status { proxies, watch, output } = flags;
    run_cold(async {
        let asked = Asked::of(proxies, "status").await?;
        loop {
            let heard = asked.standing("/status").await;
            let clears = watch && output == cli::Form::Table && io::stdout().is_terminal();
            match heard {
                Ok(heard) => {
                    let text = write(&together(heard), output, |status| status.tree(style()))?;
                    // To the start of the screen, and erase what is below (ECMA-48 CUP, ED).
                    say(if clears { format!("\x1b[H\x1b[J{text}") } else { text })?;
                }
                // Who watches wants to see it come back.
                Err(error) if watch => hint(&format!("splitway: {error}")),
                Err(error) => return Err(Stop::Other(error)),
            }
            if !watch {
                return Ok(ExitCode::SUCCESS);
            }
            tokio::time::sleep(AGAIN).await;
        }
    })?
}

pub fn report(flags: cli::Report) -> Result<ExitCode, Stop> {
    let target = flags.number.map_or("/report".to_owned(), |number| format!("/report?number={number}"));
    let Heard { answers, away } = run_cold(async {
        let asked = Asked::of(flags.proxies, "report").await?;
        asked.all::<Vec<Report>>(&target).await.map_err(Stop::Other)
    })??;
    away.iter().for_each(|error| hint(&format!("splitway: not heard: {error}")));
    if answers.len() > 1 {
        hint(&format!("{} replicas have seen different requests: each tells its own", answers.len()));
    }
    for reports in &answers {
        say(write(reports, flags.output, |reports| report::text(reports))?)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub fn write<T: Serialize>(value: &T, form: cli::Form, table: impl Fn(&T) -> String) -> Result<String, Stop> {
    let failed = |error: &dyn std::fmt::Display| Stop::Other(error.to_string());
    match form {
        cli::Form::Table => Ok(table(value)),
        cli::Form::Json => serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|error| failed(&error)),
        cli::Form::Yaml => serde_saphyr::to_string(value).map_err(|error| failed(&error)),
    }
}

/// Unicode where the locale says that the terminal has it.
pub fn style() -> Style {
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    let unicode = locale.is_some_and(|locale| locale.to_lowercase().replace('-', "").contains("utf8"));
    Style { colour: io::stdout().is_terminal() && wants_colour(), unicode }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_away_is_told_unless_all_are() {
        let ask = async |name: &str| if name == "b" { Err("b: refused".to_owned()) } else { Ok(name.to_owned()) };
        let heard = gathered(["a", "b", "c"].into_iter().map(ask), Vec::new()).await.ok().unwrap();
        assert_eq!((heard.answers, heard.away), (vec!["a".to_owned(), "c".to_owned()], vec!["b: refused".to_owned()]));
        let nobody = gathered(["b"].into_iter().map(ask), vec!["d: late".to_owned()]).await;
        assert_eq!(nobody.err().as_deref(), Some("d: late; b: refused"));
    }
}
