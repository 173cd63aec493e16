//! The state ports on SQLite, PostgreSQL and MariaDB.
//!
//! [`SqlStorage`] implements every port of `portolan-storage` over the same tables on all three; they differ only in
//! how statements are spelt and rows are locked. What the ports leave to rules (checks of units, ends of tasks,
//! filters) is decided by the functions that the in-memory adapter asks too: a transaction locks and reads the rows
//! that matter, lets the rules decide, and writes the outcome in few statements.
//!
//! A transaction that loses a race (a deadlock, a serialisation failure, a unique key that somebody else got first)
//! runs again on fresh data, a bounded number of times.

mod apply;
mod clock;
mod config;
mod dump;
mod error;
mod events;
mod feed;
mod filter;
mod migrate;
mod objects;
mod schema;
mod sql;
mod store;
mod task_claim;
mod task_end;
mod task_query;
mod task_rows;
mod tasks;
mod views;
mod whole;
mod work;
mod work_out;

pub use clock::DatabaseClock;
pub use config::SqlConfig;
pub use dump::DumpLine;
pub use schema::{Migration, migrations};
pub use sql::Dialect;
pub use store::SqlStorage;
