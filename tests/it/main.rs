//! One binary for all tests with sockets: one link step, one harness. A module per theme; test names are facts.

mod process;
mod support;

mod arrows;
mod names;
mod reload;
mod signals;
mod split;
