//! The ports of storage and tasks on SQLite.

// A test says what it expects by unwrapping; the lint is for code that runs in the server.
#![allow(clippy::unwrap_used)]

use portolan_storage_sql::{SqlConfig, SqlStorage};
use portolan_testkit::db::{Database, Engine};
use std::sync::Arc;

#[path = "dropped/mod.rs"]
mod dropped;
#[path = "moves/mod.rs"]
mod moves;

async fn fresh() -> (Arc<SqlStorage>, Database) {
    let database = Database::fresh(Engine::Sqlite);
    (SqlStorage::connect(SqlConfig::new(&database.url)).await.unwrap(), database)
}

mod storage {
    use super::{Arc, Database, fresh};
    use portolan_storage::Storage;

    async fn make() -> (Arc<dyn Storage>, Database) {
        let (storage, database) = fresh().await;
        (storage, database)
    }

    portolan_testkit::storage_conformance!(make);
}

mod tasks {
    use super::{Arc, Database, fresh};
    use portolan_tasks::TaskStore;

    async fn make() -> (Arc<dyn TaskStore>, Database) {
        let (storage, database) = fresh().await;
        (storage, database)
    }

    portolan_testkit::task_store_conformance!(make);
}

/// More streams of random work beside the in-memory adapter; `PORTOLAN_SOAK` multiplies their number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_work_agrees_with_memory() {
    let soak: u64 = std::env::var("PORTOLAN_SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    for seed in 100..100 + 2 * soak {
        let (storage, _database) = fresh().await;
        portolan_testkit::tasks::agrees_with_model(storage, seed, 150).await;
        let (storage, _database) = fresh().await;
        portolan_testkit::storage::agrees_with_model(storage, seed, 60).await;
    }
}

#[tokio::test]
async fn state_moves_to_another_file_and_only_into_an_empty_one() {
    let (from, _from) = fresh().await;
    moves::fill(&from).await;
    let (to, _to) = fresh().await;
    moves::there(&from, &to).await;
    let again = moves::load(&to, &moves::lines(&from).await).await.unwrap_err();
    assert!(moves::words(&again).contains("not empty"), "{again:?}");
}

#[tokio::test]
async fn a_dump_that_does_not_fit_changes_nothing() {
    let (from, _from) = fresh().await;
    moves::fill(&from).await;
    let (to, _to) = fresh().await;
    moves::refuses_what_does_not_fit(&from, &to).await;
}

#[tokio::test]
async fn attaching_makes_nothing() {
    let database = Database::fresh(Engine::Sqlite);
    let none = SqlStorage::attach(SqlConfig::new(&database.url)).await.unwrap_err();
    assert!(moves::words(&none).contains("version 0"), "{none:?}");
    let storage = SqlStorage::connect(SqlConfig::new(&database.url)).await.unwrap();
    moves::fill(&storage).await;
    let beside = SqlStorage::attach(SqlConfig::new(&database.url)).await.unwrap();
    assert_eq!(beside.dump_rows().await.unwrap(), moves::rows(&moves::lines(&storage).await).len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_given_up_cost_no_connection() {
    let (storage, _database) = fresh().await;
    dropped::calls_cost_no_connection(storage).await;
}
