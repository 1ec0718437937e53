//! Splitway: an exact HTTP traffic split in front of the versions of one application.
#![forbid(unsafe_code)]
pub mod admin;
pub mod config;
pub mod control;
pub mod metrics;
pub mod proxy;
pub mod route;
pub mod source;
