//! One binary for all tests with sockets: one link step, one harness. A module per theme; test names are facts.

mod faulty;
mod process;
#[allow(dead_code)] // Not every test binary needs all of it.
#[path = "../fuzz/random.rs"]
mod random;
mod support;

mod access_log;
mod admin;
mod announced;
mod arrows;
mod chain;
mod change;
mod chaos;
mod check;
mod demo;
mod deploy;
mod drain;
mod failure;
mod faults;
mod follow;
mod grpc;
mod headers;
mod history;
mod leave;
mod limits;
mod malice;
mod metrics;
mod mirror;
mod names;
mod ports;
mod program;
mod prometheus;
mod promise;
mod refuse;
mod reload;
mod requests;
mod rollout;
mod routes;
mod rules;
mod signals;
mod split;
mod sticky;
mod stream;
mod streams;
mod tell;
mod tls;
mod top;
mod tour;
mod trace;
mod verify;
mod websocket;
