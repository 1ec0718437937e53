use splitway::route::*;
use std::sync::Arc;
#[global_allocator]
static A: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let get = |n: &str| args.iter().position(|a| a == n).map(|i| args[i + 1].clone());
    let stable = get("--stable").unwrap();
    let canary = get("--canary").unwrap();
    let (canary, share) = canary.split_once('=').unwrap();
    let pct: u32 = share.trim_end_matches('%').parse().unwrap();
    let v = VersionHash::new;
    let routing = Routing {
        backends: vec![
            Backend { version: v("stable"), role: Role::Stable, endpoints: vec![stable.parse().unwrap()].into() },
            Backend { version: v("canary"), role: Role::Canary, endpoints: vec![canary.parse().unwrap()].into() },
        ],
        split: Shares::new(vec![(v("canary"), pct), (v("stable"), 100 - pct)]).unwrap(),
        routes: vec![],
        sticky: None,
        override_: None,
        policy: Default::default(),
    };
    let (mut publisher, live) = live::channel();
    let id = Identity { seed: picker::Seed(1, 2), turn: Default::default(), mint: Arc::new(bucket::Mint::random()) };
    publisher.publish(Snapshot::build(routing, &id, None).unwrap());
    let workers = get("--workers").map_or(2, |w| w.parse().unwrap());
    let metrics = Arc::new(splitway::metrics::Metrics::new(workers, live.clone()));
    let bound = splitway::proxy::bind(splitway::proxy::Settings {
        listeners: vec![splitway::proxy::Listener { address: get("--listen").unwrap().parse().unwrap() }],
        workers,
        drain: Default::default(),
    })
    .unwrap();
    println!("{:?}", bound.addresses());
    let _r = bound.run(&live, &metrics).unwrap();
    std::thread::park();
}
