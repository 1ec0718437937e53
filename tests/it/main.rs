//! One binary for all tests with sockets: one link step, one harness. A module per theme; test names are facts.

mod support;

mod arrows;
mod rollout;
mod split;
