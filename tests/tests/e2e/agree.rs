//! Streams of random work on every store of tasks, step by step beside a model that is too simple to be wrong.
//!
//! A few seeds each, beyond those that the adapters' own tests run; `PORTOLAN_SOAK` multiplies them.

use portolan_e2e::rounds;
use portolan_storage_sql::{SqlConfig, SqlStorage};
use portolan_tasks::MemoryTaskStore;
use portolan_testkit::db::{Database, Engine};
use portolan_testkit::tasks::agrees_with_model;
use std::sync::Arc;

/// Seeds that no other test uses.
fn seeds(each: u64) -> std::ops::Range<u64> {
    1000..1000 + each * rounds(1)
}

async fn on(engine: Engine) {
    for seed in seeds(2) {
        // Shown when it fails: the seed is all that is needed to see it again.
        println!("{engine:?}, seed {seed}");
        let database = Database::fresh(engine);
        let store = SqlStorage::connect(SqlConfig::new(&database.url)).await.unwrap();
        agrees_with_model(store.clone(), seed, 200).await;
        store.close().await;
    }
}

#[tokio::test]
async fn streams_of_tasks_agree_in_memory() {
    for seed in seeds(40) {
        println!("memory, seed {seed}");
        agrees_with_model(Arc::new(MemoryTaskStore::new()), seed, 300).await;
    }
}

#[tokio::test]
async fn streams_of_tasks_agree_on_sqlite() {
    on(Engine::Sqlite).await;
}

#[tokio::test]
async fn streams_of_tasks_agree_on_postgresql() {
    on(Engine::Postgres).await;
}

#[tokio::test]
async fn streams_of_tasks_agree_on_mariadb() {
    on(Engine::MariaDb).await;
}
