//! Texts that people write: YAML as a tree that knows its places, and how to say what is wrong there.
//!
//! PURE. A neutral room below those that read such texts: it knows no field and no rule.
//!
//! * `node`: the tree;
//! * `problem`: places, problems, and how they are shown.

pub(crate) mod node;
pub mod problem;
