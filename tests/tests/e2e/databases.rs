//! The server on PostgreSQL and MariaDB: one backup and one restore each, over a restart.

use portolan_e2e::{Disk, Site, same_bytes};
use portolan_testkit::db::{Database, Engine};

async fn smoke(engine: Engine) {
    let database = Database::fresh(engine);
    let site = Site::on(&database.url);
    let disk = Disk::sample(1, 3);
    site.machine("web", &[("root.raw", &disk)]);
    let server = site.start().await;
    let api = server.api(&site).await;
    api.sync().await;
    let vm = api.vm("web").await;
    let backup = api.back_up(&vm, "FULL").await;
    server.kill();

    let server = site.start().await;
    let api = server.api(&site).await;
    api.restored(&backup, "back").await;
    same_bytes(&site.datastore().join("back/root.raw"), &disk);
    assert_eq!(api.backups(&vm).await.len(), 1);
    server.stop().await;
    assert!(!site.data().join("portolan.db").exists(), "nothing of the state is in SQLite");
}

#[tokio::test]
async fn the_server_runs_on_postgresql() {
    smoke(Engine::Postgres).await;
}

#[tokio::test]
async fn the_server_runs_on_mariadb() {
    smoke(Engine::MariaDb).await;
}

#[tokio::test]
async fn a_database_that_is_not_there_is_named_without_its_password() {
    let mut site = Site::new();
    site.set("database.url", "postgres://user:hunter2@127.0.0.1:1/portolan");
    let said = site.refuses_to_serve();
    assert!(said.err.contains("127.0.0.1") || said.err.contains("database"), "{}", said.err);
    assert!(!said.err.contains("hunter2"), "{}", said.err);
}
