//! Tasks per second on each store, beside what plain statements do on the same database.

use crate::measure::heading;
use portolan_access::{SystemClock, SystemIds};
use portolan_model::{ChainId, Clock, IdSource, TaskId};
use portolan_storage_sql::{SqlConfig, SqlStorage};
use portolan_tasks::{ClaimRequest, Finish, MemoryTaskStore, NewTask, Outcome, TaskStore};
use portolan_testkit::db::{Durability, start_mariadb, start_postgres};
use portolan_testkit::tasks::Kit;
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, Statement, TransactionTrait};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Tasks in one claim.
const CLAIM: u32 = 16;
/// Workers that claim and settle at once.
const WORKERS: usize = 4;
/// Tasks in one request that enqueues many.
const BATCH: usize = 100;

/// Rates in tasks per second.
#[derive(Clone, Copy, Default)]
struct Rates {
    one: f64,
    many: f64,
    settled: f64,
}

impl Rates {
    /// The better of each.
    fn best(self, other: Self) -> Self {
        Self { one: self.one.max(other.one), many: self.many.max(other.many), settled: self.settled.max(other.settled) }
    }
}

pub(crate) async fn run(quick: bool) -> Result<(), String> {
    let (count, rounds) = if quick { (400, 1) } else { (4000, 3) };
    let dir = tempfile::Builder::new().prefix("portolan-bench-").tempdir().map_err(|e| e.to_string())?;
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).map_err(|e| e.to_string())?;
    let head = heading("Tasks");
    let postgres = start_postgres(&dir.path().join("pg"), Durability::Full)?;
    let mariadb = start_mariadb(&dir.path().join("my"), Durability::Full)?;
    let databases = [
        ("SQLite", format!("sqlite://{}", dir.path().join("tasks.db").display())),
        ("PostgreSQL", fresh(postgres.url(), "postgres").await?),
        ("MariaDB", fresh(mariadb.url(), "mysql").await?),
    ];
    let mut lines = Vec::new();
    let memory = through_port(Arc::new(MemoryTaskStore::new()), count).await?;
    lines.push(row("memory", &memory, None));
    for (name, url) in databases {
        eprintln!("{name}");
        let store = SqlStorage::connect(SqlConfig::new(&url)).await.map_err(|e| e.to_string())?;
        let raw_url = if name == "SQLite" { url.replace("tasks.db", "raw.db?mode=rwc") } else { url };
        let (mut ours, mut raw) = (Rates::default(), Rates::default());
        for round in 0..rounds {
            ours = ours.best(through_port(store.clone(), count).await?);
            raw = raw.best(plain(&raw_url, count, round).await.map_err(|e| e.to_string())?);
        }
        store.close().await;
        lines.push(row(name, &ours, Some(&raw)));
    }
    println!("{head}");
    println!(
        "{count} tasks, the best of {rounds} interleaved rounds; every commit waits for the disk. *One*: a request enqueues one task. *Many*: {BATCH} at once. \
         *Settled*: claimed by {CLAIM} and finished, by {WORKERS} workers at once (plain statements on SQLite: one). \
         In brackets what plain `INSERT`s, and selections for update with two `UPDATE`s, do on a table without \
         indexes, chains, limits or history in as many transactions on the same server.\n"
    );
    println!("| store | one, tasks/s | many, tasks/s | settled, tasks/s |\n| --- | ---: | ---: | ---: |");
    println!("{}\n", lines.join("\n"));
    Ok(())
}

fn row(name: &str, ours: &Rates, raw: Option<&Rates>) -> String {
    let cell = |ours: f64, raw: Option<f64>| match raw {
        Some(raw) => format!("{ours:.0} ({raw:.0}: {:.2})", ours / raw),
        None => format!("{ours:.0}"),
    };
    format!(
        "| {name} | {} | {} | {} |",
        cell(ours.one, raw.map(|r| r.one)),
        cell(ours.many, raw.map(|r| r.many)),
        cell(ours.settled, raw.map(|r| r.settled))
    )
}

/// A database of its own on a server.
async fn fresh(admin: &str, default: &str) -> Result<String, String> {
    let connection = Database::connect(admin).await.map_err(|e| e.to_string())?;
    connection.execute_unprepared("CREATE DATABASE bench").await.map_err(|e| e.to_string())?;
    let (base, query) = admin.split_once('?').map_or((admin, String::new()), |(b, q)| (b, format!("?{q}")));
    let base = base.strip_suffix(default).ok_or("the server's URL names another database")?;
    Ok(format!("{base}bench{query}"))
}

async fn through_port(store: Arc<dyn TaskStore>, count: usize) -> Result<Rates, String> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let ids = SystemIds::new(clock.clone());
    let sample = Kit::new(store.clone()).task("EXPORT");
    let task = || NewTask {
        id: TaskId::from_uuid(ids.uuid()),
        chain: ChainId::from_uuid(ids.uuid()),
        run_at: clock.now(),
        ..sample.clone()
    };
    let single = count / 10;
    let start = Instant::now();
    for _ in 0..single {
        store.enqueue(clock.now(), vec![task()]).await.map_err(|e| e.to_string())?;
    }
    let one = rate(single, start);
    let start = Instant::now();
    for _ in 0..count / BATCH {
        store.enqueue(clock.now(), (0..BATCH).map(|_| task()).collect()).await.map_err(|e| e.to_string())?;
    }
    let many = rate(count / BATCH * BATCH, start);
    let start = Instant::now();
    let workers: Vec<_> =
        (0..WORKERS).map(|n| tokio::spawn(settle(store.clone(), clock.clone(), format!("worker-{n}")))).collect();
    let mut settled = 0;
    for worker in workers {
        settled += worker.await.map_err(|e| e.to_string())??;
    }
    if settled != single + count / BATCH * BATCH {
        return Err(format!("{settled} tasks were settled, which is not what was enqueued"));
    }
    Ok(Rates { one, many, settled: rate(settled, start) })
}

/// Claims and finishes until nothing is left.
async fn settle(store: Arc<dyn TaskStore>, clock: Arc<dyn Clock>, worker: String) -> Result<usize, String> {
    let mut settled = 0;
    loop {
        let request = ClaimRequest {
            worker: worker.clone(),
            kinds: vec!["EXPORT".into()],
            serves: Vec::new(),
            limit: CLAIM,
            lease: Duration::from_secs(30),
        };
        let claimed = store.claim(clock.now(), request).await.map_err(|e| e.to_string())?;
        if claimed.is_empty() {
            return Ok(settled);
        }
        let finish = |held| Finish {
            held,
            outcome: Outcome::Succeeded { output: serde_json::json!({ "bytes": 1 }) },
            next: Vec::new(),
        };
        let finishes: Vec<Finish> = claimed.iter().map(|c| finish(c.task.held())).collect();
        for done in store.finish(clock.now(), finishes).await.map_err(|e| e.to_string())? {
            done.map_err(|e| e.to_string())?;
            settled += 1;
        }
    }
}

/// The same number of transactions by plain statements.
async fn plain(url: &str, count: usize, round: usize) -> Result<Rates, sea_orm::DbErr> {
    let sqlite = url.starts_with("sqlite:");
    let workers = if sqlite { 1 } else { WORKERS };
    let mut options = ConnectOptions::new(url);
    options.max_connections(workers as u32).sqlx_logging(false);
    let db = Database::connect(options).await?;
    if sqlite {
        db.execute_unprepared("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;").await?;
    }
    if round > 0 {
        db.execute_unprepared("DROP TABLE plain").await?;
    }
    db.execute_unprepared("CREATE TABLE plain (id BIGINT PRIMARY KEY, state INT NOT NULL, payload VARCHAR(400))")
        .await?;
    let payload = "x".repeat(300);
    let single = count / 10;
    let start = Instant::now();
    for n in 0..single {
        db.execute_unprepared(&format!("INSERT INTO plain VALUES ({n}, 0, '{payload}')")).await?;
    }
    let one = rate(single, start);
    let start = Instant::now();
    for batch in 0..count / BATCH {
        let first = single + batch * BATCH;
        let rows: Vec<String> = (first..first + BATCH).map(|n| format!("({n}, 0, '{payload}')")).collect();
        db.execute_unprepared(&format!("INSERT INTO plain VALUES {}", rows.join(","))).await?;
    }
    let many = rate(count / BATCH * BATCH, start);
    let start = Instant::now();
    let running: Vec<_> = (0..workers).map(|_| tokio::spawn(settle_plain(db.clone(), sqlite))).collect();
    let mut settled = 0;
    for worker in running {
        settled += worker.await.map_err(|e| sea_orm::DbErr::Custom(e.to_string()))??;
    }
    let settled = rate(settled, start);
    db.close().await?;
    Ok(Rates { one, many, settled })
}

async fn settle_plain(db: DatabaseConnection, sqlite: bool) -> Result<usize, sea_orm::DbErr> {
    let lock = if sqlite { "" } else { " FOR UPDATE SKIP LOCKED" };
    let select = format!("SELECT id FROM plain WHERE state = 0 ORDER BY id LIMIT {CLAIM}{lock}");
    let mut settled = 0;
    loop {
        let tx = db.begin().await?;
        let rows = tx.query_all_raw(Statement::from_string(db.get_database_backend(), select.clone())).await?;
        let ids: Vec<String> =
            rows.iter().map(|r| r.try_get_by_index::<i64>(0).map(|id| id.to_string())).collect::<Result<_, _>>()?;
        if ids.is_empty() {
            return Ok(settled);
        }
        let ids_list = ids.join(",");
        tx.execute_unprepared(&format!("UPDATE plain SET state = 1 WHERE id IN ({ids_list})")).await?;
        tx.commit().await?;
        db.execute_unprepared(&format!("UPDATE plain SET state = 2 WHERE id IN ({ids_list})")).await?;
        settled += ids.len();
    }
}

fn rate(count: usize, since: Instant) -> f64 {
    count as f64 / since.elapsed().as_secs_f64()
}
