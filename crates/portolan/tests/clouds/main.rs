//! Nodes of clouds through the use cases and the engine, on storage in memory: life, tenants, faults at every call,
//! crashes between a call and its record.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod faults;
mod holds;
mod life;
mod world;
