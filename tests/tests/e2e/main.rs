//! End-to-end tests: the real `portolan` binary, spoken to as its users do.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "also where a test is helped by a function")]

mod agree;
mod backup;
mod cli;
mod damage;
mod databases;
mod full;
mod images;
mod kill;
mod manage;
mod nodes;
mod openapi;
mod qemu;
mod start;
mod state;
mod stop;
mod tenants;
mod unreadable;
mod wire;
