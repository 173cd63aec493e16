//! The handlers: extract, authenticate, one use-case call, map.

pub(crate) mod actions;
pub(crate) mod listings;
pub(crate) mod nodes;
pub(crate) mod plain;
pub(crate) mod probes;
pub(crate) mod sessions;
