//! The commands that ask proxies that run: `status` and `report`.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use splitway::admin::report::{self, Report};
use splitway::admin::status::{Status, Style};
use splitway::admin::{Token, ask};
use splitway::source::kube::{self, proxies};

use crate::{Stop, cli, cluster, hint, rollout_name, run_cold, say, token, wants_colour};

/// How long `--watch` shows what it has seen.
const AGAIN: Duration = Duration::from_secs(1);

/// Who is asked.
enum Asked {
    Admin(std::net::SocketAddr, Option<Token>),
    /// Pods, through the API server.
    Pods {
        client: kube::Client,
        namespace: String,
        rollout: String,
        port: u16,
    },
}

impl Asked {
    async fn of(flags: cli::Proxies, command: &str) -> Result<Self, Stop> {
        match (flags.admin, flags.rollout) {
            (Some(admin), _) => Ok(Asked::Admin(admin, token(flags.admin_token_file.as_deref())?)),
            (None, Some(rollout)) => {
                let name = rollout_name(&rollout, command)?;
                let (client, namespace) = cluster::client_for(&name, flags.place).await.map_err(Stop::Other)?;
                let rollout = format!("{namespace}/{}", name.name);
                Ok(Asked::Pods { client, namespace, rollout, port: flags.admin_port })
            }
            (None, None) => Err(Stop::Other("expected --admin ADDRESS or --rollout NS/NAME".to_owned())),
        }
    }

    /// What each of them answers. Those that follow another Rollout are none of ours.
    async fn all<T: DeserializeOwned>(&self, target: &str) -> Result<Vec<T>, String> {
        match self {
            Asked::Admin(admin, token) => {
                let text = ask::ask(*admin, token.as_ref(), target, "application/json").await?;
                Ok(vec![read(&text, &admin.to_string())?])
            }
            Asked::Pods { client, namespace, rollout, port } => {
                let (mut answers, mut others) = (Vec::new(), Vec::new());
                for pod in proxies::find(client, namespace).await? {
                    let status: Status = read(&proxies::ask(client, namespace, &pod, *port, "/status").await?, &pod)?;
                    match status.rollout {
                        Some(followed) if followed.name == *rollout => {
                            answers.push(read(&proxies::ask(client, namespace, &pod, *port, target).await?, &pod)?);
                        }
                        followed => others.push(format!(
                            "{pod} follows {}",
                            followed.map_or("no Rollout".to_owned(), |followed| followed.name)
                        )),
                    }
                }
                match answers.is_empty() {
                    true => Err(format!("no proxy in {namespace} follows {rollout}: {}", others.join(", "))),
                    false => Ok(answers),
                }
            }
        }
    }
}

fn read<T: DeserializeOwned>(text: &str, who: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| {
        format!("{who} answers with something else than splitway {} does: {error}", env!("CARGO_PKG_VERSION"))
    })
}

pub fn status(flags: cli::Status) -> Result<ExitCode, Stop> {
    let cli::Status { proxies, watch, output } = flags;
    run_cold(async {
        let asked = Asked::of(proxies, "status").await?;
        loop {
            let all = asked.all::<Status>("/status").await;
            let clears = watch && output == cli::Form::Table && io::stdout().is_terminal();
            match all {
                Ok(all) => {
                    let status = Status::together(all).unwrap_or_default();
                    let text = write(&status, output, |status| status.tree(style()))?;
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
    let all = run_cold(async {
        let asked = Asked::of(flags.proxies, "report").await?;
        asked.all::<Vec<Report>>(&target).await.map_err(Stop::Other)
    })??;
    if all.len() > 1 {
        hint(&format!("{} replicas have seen different requests: each tells its own", all.len()));
    }
    for reports in &all {
        say(write(reports, flags.output, |reports| report::text(reports))?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write<T: Serialize>(value: &T, form: cli::Form, table: impl Fn(&T) -> String) -> Result<String, Stop> {
    let failed = |error: &dyn std::fmt::Display| Stop::Other(error.to_string());
    match form {
        cli::Form::Table => Ok(table(value)),
        cli::Form::Json => serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|error| failed(&error)),
        cli::Form::Yaml => serde_saphyr::to_string(value).map_err(|error| failed(&error)),
    }
}

/// Unicode where the locale says that the terminal has it.
fn style() -> Style {
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    let unicode = locale.is_some_and(|locale| locale.to_lowercase().replace('-', "").contains("utf8"));
    Style { colour: io::stdout().is_terminal() && wants_colour(), unicode }
}

/// A page for each command, as `man` finds them.
pub fn man(out: &std::path::Path) -> Result<ExitCode, Stop> {
    std::fs::create_dir_all(out)?;
    clap_mangen::generate_to(<cli::Cli as clap::CommandFactory>::command(), out)?;
    let mut said = io::stderr().lock();
    let _ = writeln!(said, "written to {}\nNext: man -l {}", out.display(), out.join("splitway.1").display());
    Ok(ExitCode::SUCCESS)
}
