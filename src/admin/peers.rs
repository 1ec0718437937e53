//! The same question to every ready replica of this proxy: the addresses of its own Service, each at our own admin port.
//! Bounded in number, time and bytes, and a replica never passes the question on.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::ask;
use super::token::Token;
use super::verify::{Asked, Question, Report};
use crate::control::cluster::Following;

/// Replicas that are asked at once; with more nothing is verified.
const MAX_PEERS: usize = 64;
/// For one replica's whole answer. One that takes longer is not verified.
const PATIENCE: Duration = Duration::from_secs(2);
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// What one replica has said.
#[derive(Clone, Debug, Serialize)]
pub struct Replica {
    /// `IP:PORT` of its admin listener; `null` for this one if the Service does not list it.
    pub address: Option<SocketAddr>,
    /// This one, which was not asked over the network.
    pub own: bool,
    #[serde(flatten)]
    pub said: Said,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Said {
    pub verified: bool,
    pub why: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<serde_json::Value>,
}

impl Said {
    fn nothing(why: String) -> Self {
        Self { why: vec![why], ..Self::default() }
    }

    fn read(answer: Answered) -> Self {
        let (status, text) = match answer {
            Ok(answer) => answer,
            Err(why) => return Said::nothing(why),
        };
        match serde_json::from_str::<Said>(&text) {
            // Both have to agree: something else may have answered there.
            Ok(said) if said.verified == (status == StatusCode::OK) => said,
            _ => Said::nothing(format!("answers {status} with something that is no answer to /verify")),
        }
    }

    /// A replica that never served the version has nothing open on it.
    fn is_empty_of(&self) -> bool {
        self.verified || self.known == Some(false) && self.open == Some(0)
    }
}

impl From<&Report> for Said {
    fn from(report: &Report) -> Self {
        Self {
            verified: report.verified,
            why: report.why.clone(),
            generation: Some(report.generation),
            known: report.known,
            open: report.open,
            ports: Vec::new(),
        }
    }
}

/// How the others are asked: at the port of our own admin listener and with its token, for theirs are the same.
pub struct Way {
    port: u16,
    token: Option<Token>,
    /// A question here is one to each of them, so few are asked at once; others wait.
    few: Semaphore,
}

/// Questions to all replicas that are asked at once.
const AT_ONCE: usize = 4;

impl Way {
    pub fn new(port: u16, token: Option<Token>) -> Self {
        Self { port, token, few: Semaphore::new(AT_ONCE) }
    }
}

/// `own`: what this replica says.
pub async fn ask_all(following: Option<&Following>, way: &Way, asked: &Asked, own: Report) -> Report {
    let others = match ask_others(following, way, &asked.to_target()).await {
        Ok(others) => others,
        Err(why) => return Report { verified: false, why: vec![why], ..own },
    };
    let mut replicas = vec![Replica { address: others.own, own: true, said: Said::from(&own) }];
    let replica = |(address, answer)| Replica { address: Some(address), own: false, said: Said::read(answer) };
    replicas.extend(others.answers.into_iter().map(replica));
    replicas.sort_by_key(|replica| replica.address);
    let why = disagreements(&replicas, &asked.question);
    Report { verified: why.is_empty(), why, replicas, ..own }
}

/// What every other ready replica has answered.
pub struct Others {
    /// This one's admin listener; `None` if the Service does not list it.
    pub own: Option<SocketAddr>,
    pub answers: Vec<(SocketAddr, Answered)>,
}

/// The status and the body, or why there is none.
pub type Answered = Result<(StatusCode, String), String>;

/// Why nobody can be asked is an error for people.
pub async fn ask_others(following: Option<&Following>, way: &Way, target: &str) -> Result<Others, String> {
    let peers = following.map_or(&[][..], |following| &following.peers);
    if let Some(why) = cannot_ask(peers) {
        return Err(why);
    }
    let own = following.and_then(|following| peers.get(following.turn?.index() as usize).copied());
    let _one_of_few = way.few.acquire().await.expect("it is never closed");
    let mut asking = JoinSet::new();
    for peer in peers.iter().filter(|peer| Some(**peer) != own) {
        let (address, target, token) = (SocketAddr::new(*peer, way.port), target.to_owned(), way.token.clone());
        asking.spawn(async move { (address, ask_one(address, token.as_ref(), &target).await) });
    }
    let own = own.map(|address| SocketAddr::new(address, way.port));
    Ok(Others { own, answers: asking.join_all().await })
}

fn cannot_ask(peers: &[IpAddr]) -> Option<String> {
    match peers.len() {
        0 => Some(
            "no ready replica of this proxy is known, so all=true cannot be answered: start it with --service NAME (its own \
             Service) and the variable POD_IP, and see /config, field rollout.notes, for what is missing"
                .to_owned(),
        ),
        n if n > MAX_PEERS => Some(format!("{n} replicas are ready, and at most {MAX_PEERS} can be asked at once")),
        _ => None,
    }
}

async fn ask_one(address: SocketAddr, token: Option<&Token>, target: &str) -> Answered {
    let exchange = ask::exchange(address, token, target, "application/json", MAX_ANSWER_BYTES);
    match tokio::time::timeout(PATIENCE, exchange).await {
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        Ok(Err(error)) => Err(format!("cannot be asked: {error}; its admin listener must be on the pod's address")),
        Ok(Ok(answer)) => Ok(answer),
    }
}

/// Why not all of them are verified; nothing if they are.
fn disagreements(replicas: &[Replica], question: &Question) -> Vec<String> {
    let fine = |said: &Said| match question {
        Question::Weight { .. } => said.verified,
        Question::Drained(_) => said.is_empty_of(),
    };
    let mut why = Vec::new();
    for replica in replicas.iter().filter(|replica| !fine(&replica.said)) {
        let who = match replica.address {
            Some(address) => format!("replica {address}"),
            None => "this replica".to_owned(),
        };
        let reasons = if replica.said.why.is_empty() { "not verified".to_owned() } else { replica.said.why.join("; ") };
        why.push(format!("{who}: {reasons}"));
    }
    if let Question::Drained(version) = question
        && why.is_empty()
        && !replicas.iter().any(|replica| replica.said.verified)
    {
        why.push(format!("no replica has ever served version {version}: is it spelt right?"));
    }
    why
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::route::VersionHash;

    fn replica(said: Said) -> Replica {
        Replica { address: Some(([10, 0, 0, 1], 9090).into()), own: false, said }
    }

    fn drained() -> Question {
        Question::Drained(VersionHash::new("v1"))
    }

    fn about_v1(known: bool, open: i64) -> Said {
        Said { verified: known && open == 0, known: Some(known), open: Some(open), ..Said::default() }
    }

    #[test]
    fn nobody_and_too_many_are_not_asked() {
        let peers = |n: usize| (0..n).map(|n| IpAddr::from([10, 0, 0, n as u8])).collect::<Vec<_>>();
        assert!(cannot_ask(&[]).is_some_and(|why| why.contains("--service NAME") && why.contains("POD_IP")));
        assert_eq!((cannot_ask(&peers(1)), cannot_ask(&peers(64))), (None, None));
        assert!(cannot_ask(&peers(65)).is_some_and(|why| why.contains("at most 64")));
    }

    #[tokio::test]
    async fn a_replica_may_have_an_address_of_six_colons() {
        let peers = vec!["2001:db8::1".parse().unwrap()];
        let following = Following { peers, turn: crate::route::picker::Turn::new(0, 1), ..Following::default() };
        let asked = Asked { question: drained(), port: None, all: true };
        let own = Report { verified: true, known: Some(true), open: Some(0), ..Report::default() };
        let report = ask_all(Some(&following), &Way::new(9090, None), &asked, own).await;
        assert!(report.verified && report.why.is_empty(), "{report:?}");
        let address = report.replicas[0].address.map(|address| address.to_string());
        assert_eq!(address.as_deref(), Some("[2001:db8::1]:9090"));
    }

    #[test]
    fn a_replica_that_never_served_the_version_is_fine_if_another_did() {
        let why = |said: &[Said]| disagreements(&said.iter().cloned().map(replica).collect::<Vec<_>>(), &drained());
        assert_eq!(why(&[about_v1(true, 0), about_v1(false, 0)]), [""; 0]);
        assert_eq!(why(&[about_v1(false, 0), about_v1(false, 0)]).len(), 1);
        assert_eq!(why(&[about_v1(true, 1), about_v1(false, 0)]).len(), 1);
        assert_eq!(why(&[about_v1(true, 0), Said::nothing("no answer".to_owned())]).len(), 1);
    }

    proptest! {
        #[test]
        fn one_that_is_not_verified_is_enough(all in proptest::collection::vec(any::<bool>(), 1..10)) {
            let share = super::super::verify::Share::new(1, 4);
            let weight = Question::Weight { share, version: None, generation: None };
            let said = |verified: &bool| replica(Said { verified: *verified, ..Said::default() });
            let replicas: Vec<_> = all.iter().map(said).collect();
            prop_assert_eq!(disagreements(&replicas, &weight).is_empty(), all.iter().all(|verified| *verified));
            let open = |verified: &bool| replica(about_v1(true, i64::from(!*verified)));
            let replicas: Vec<_> = all.iter().map(open).collect();
            prop_assert_eq!(disagreements(&replicas, &drained()).is_empty(), all.iter().all(|verified| *verified));
        }
    }
}
