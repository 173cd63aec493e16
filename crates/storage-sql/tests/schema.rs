//! Starting: two at once, over a newer schema, over one that was left half-made, without a database.

// A test says what it expects by unwrapping; the lint is for code that runs in the server.
#![allow(clippy::unwrap_used)]

use portolan_model::{Clock, Scope, Timestamp};
use portolan_storage::{Kind, Put, Require, StateStore, StoreError, UnitOfWork, Views};
use portolan_storage_sql::{Dialect, SqlConfig, SqlStorage, migrations};
use portolan_testkit::db::{Database, Engine};
use portolan_testkit::storage::given::object;
use sea_orm::{ConnectionTrait, DatabaseConnection};
use std::sync::Arc;
use uuid::Uuid;

const NOW: Timestamp = Timestamp::from_millis(1_795_219_200_000);

async fn raw(database: &Database) -> DatabaseConnection {
    let url = match database.engine() {
        Engine::Sqlite => format!("{}?mode=rwc", database.url),
        _ => database.url.clone(),
    };
    sea_orm::Database::connect(url).await.unwrap()
}

async fn connect(database: &Database) -> Result<Arc<SqlStorage>, StoreError> {
    SqlStorage::connect(SqlConfig::new(&database.url)).await
}

/// Writes, reads back, and finds every object where its kind says.
async fn works(storage: &SqlStorage) {
    let mut unit = UnitOfWork::new();
    for (n, kind) in Kind::ALL.iter().enumerate() {
        let id = Uuid::from_u128(n as u128 + 1);
        unit.require.push(Require::Version(*kind, id, 0));
        unit.change.push(portolan_storage::Change::Put(object(*kind, id)));
    }
    storage.apply(NOW, Scope::All, unit).await.unwrap();
    for kind in Kind::ALL {
        assert_eq!(storage.count(Scope::All, *kind, &Default::default()).await.unwrap(), 1, "{kind}");
    }
}

async fn starters_wait_for_one_another(engine: Engine) {
    let database = Database::fresh(engine);
    let starters: Vec<_> = (0..4)
        .map(|_| {
            let config = SqlConfig::new(&database.url);
            tokio::spawn(async move { SqlStorage::connect(config).await })
        })
        .collect();
    let mut storages = Vec::new();
    for starter in starters {
        storages.push(starter.await.unwrap().unwrap());
    }
    works(&storages[0]).await;
    for storage in &storages {
        storage.ping().await.unwrap();
        storage.close().await;
    }
    assert!(storages[0].ping().await.is_err());
}

async fn a_newer_schema_is_left_alone(engine: Engine) {
    let database = Database::fresh(engine);
    connect(&database).await.unwrap().close().await;
    let other = raw(&database).await;
    other.execute_unprepared("INSERT INTO schema_migration (version, name) VALUES (99, 'later')").await.unwrap();
    match connect(&database).await {
        Err(StoreError::TooNew { found: 99, known: 2 }) => {}
        other => panic!("{other:?}"),
    }
    // And the starter holds no lock after it has refused.
    other.execute_unprepared("DELETE FROM schema_migration WHERE version = 99").await.unwrap();
    works(&connect(&database).await.unwrap()).await;
}

/// A second start changes nothing; what was written is there.
async fn a_second_start_finds_everything(engine: Engine) {
    let database = Database::fresh(engine);
    let first = connect(&database).await.unwrap();
    works(&first).await;
    first.close().await;
    let second = connect(&database).await.unwrap();
    assert_eq!(second.count(Scope::All, Kind::Vm, &Default::default()).await.unwrap(), 1);
}

/// Documents far beyond a page of the database, several in one unit.
async fn large_documents_come_back(engine: Engine) {
    let database = Database::fresh(engine);
    let storage = connect(&database).await.unwrap();
    let text = "portolan \u{1f5fa} ".repeat(100_000);
    let ids: Vec<Uuid> = (1..=4).map(Uuid::from_u128).collect();
    let mut unit = UnitOfWork::new();
    for id in &ids {
        let put = Put { doc: serde_json::json!({ "text": text }), ..object(Kind::Vm, *id) };
        unit.change.push(portolan_storage::Change::Put(put));
    }
    storage.apply(NOW, Scope::All, unit).await.unwrap();
    let rows = storage.rows(Scope::All, Kind::Vm, &ids).await.unwrap();
    assert_eq!(rows.len(), 4);
    assert!(rows.iter().all(|row| row.doc["text"] == text.as_str()));
}

async fn the_clock_is_the_databases(engine: Engine) {
    let database = Database::fresh(engine);
    let storage = connect(&database).await.unwrap();
    let clock = storage.clock().await.unwrap();
    let first = clock.now();
    assert!(first > Timestamp::from_millis(1_700_000_000_000), "{first}");
    clock.refresh(&storage).await.unwrap();
    assert!(clock.now() >= first);
}

macro_rules! on_every_engine {
    ($($name:ident)+) => {$(
        mod $name {
            use super::Engine;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                super::$name(Engine::Sqlite).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                super::$name(Engine::Postgres).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn mariadb() {
                super::$name(Engine::MariaDb).await;
            }
        }
    )+};
}

on_every_engine! {
    starters_wait_for_one_another
    a_newer_schema_is_left_alone
    a_second_start_finds_everything
    large_documents_come_back
    the_clock_is_the_databases
}

/// MariaDB commits every statement of a migration: a start that was killed leaves any number of them done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_was_killed_is_finished_by_the_next_start() {
    let steps = migrations(Dialect::MariaDb);
    let statements = &steps[0].statements;
    for done in [1, statements.len() / 2, statements.len()] {
        let database = Database::fresh(Engine::MariaDb);
        let other = raw(&database).await;
        for statement in &statements[..done] {
            other.execute_unprepared(statement).await.unwrap();
        }
        other.close().await.unwrap();
        works(&connect(&database).await.unwrap()).await;
    }
}

#[tokio::test]
async fn nobody_there_is_unavailable() {
    for url in ["postgres://nobody@%2Fnowhere/x", "mysql://nobody@localhost/x?socket=/nowhere/s"] {
        let error = SqlStorage::connect(SqlConfig::new(url)).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{url}: {error:?}");
    }
    let error = SqlStorage::connect(SqlConfig::new("oracle://secret@x")).await.unwrap_err();
    let StoreError::Internal(source) = error else { panic!("{error:?}") };
    assert!(!source.to_string().contains("secret"));
}

/// It holds password hashes and sealed secrets.
#[tokio::test]
async fn the_file_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("portolan.db");
    let storage = SqlStorage::connect(SqlConfig::sqlite(&file)).await.unwrap();
    works(&storage).await;
    for name in ["portolan.db", "portolan.db-wal", "portolan.db-shm"] {
        let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}
