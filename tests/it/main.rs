//! One binary for all tests with sockets: one link step, one harness. A module per theme; test names are facts.

mod support;

mod arrows;
mod chain;
mod failure;
mod headers;
mod refuse;
mod routes;
mod split;
mod sticky;
mod stream;
