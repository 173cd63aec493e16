//! Moving state from one database to another.

use portolan_model::backup::{Origin, OriginKind};
use portolan_model::{ChainId, Name, Scope, TaskId, Tenant, TenantId, Timestamp};
use portolan_storage::{Setting, StateStore, StoreError, UnitOfWork};
use portolan_storage_sql::{DumpLine, SqlStorage};
use portolan_tasks::{ClaimRequest, NewTask, TaskLinks, TaskStore};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Random tasks and their history, and objects with keys, references, tenants and texts of every sort.
pub(crate) async fn fill(storage: &Arc<SqlStorage>) {
    portolan_testkit::tasks::agrees_with_model(storage.clone(), 7, 120).await;
    let now = Timestamp::from_micros(1);
    for n in 0..60_u128 {
        let id = TenantId::from_uuid(Uuid::from_u128(n + 1));
        let name = Name::new(format!("tenant {n} zeilen, \"quotes\" und 🔑")).unwrap();
        let tenant = Tenant { id, name, external_id: "x".repeat(n as usize), created: now };
        let setting =
            Setting::new(&format!("setting {n}"), serde_json::json!({ "n": n as u64, "long": "y\n".repeat(20_000) }));
        let data = serde_json::json!({ "old": null, "new": ["a", 1, 1.5] });
        let unit = UnitOfWork::new().create(&tenant).create(&setting);
        let unit = unit.event("moved", Some(id), tenant.id.uuid(), data);
        storage.apply(now, Scope::All, unit).await.unwrap();
    }
}

/// The lines of a dump.
pub(crate) async fn lines(storage: &SqlStorage) -> Vec<DumpLine> {
    let mut lines = Vec::new();
    let rows = storage.dump::<StoreError>(|line| {
        lines.push(line);
        Ok(())
    });
    let n = rows.await.unwrap();
    assert_eq!(n as usize, lines.iter().filter(|l| matches!(l, DumpLine::Row(_))).count());
    lines
}

pub(crate) async fn load(to: &SqlStorage, lines: &[DumpLine]) -> Result<u64, StoreError> {
    let mut lines = lines.iter().cloned();
    to.load(|| Ok::<_, StoreError>(lines.next())).await
}

/// The rows with their tables, in an order that does not hang on the database's.
pub(crate) fn rows(lines: &[DumpLine]) -> Vec<String> {
    let (mut table, mut out) = (String::new(), Vec::new());
    for line in lines {
        match line {
            DumpLine::Table { name, .. } => table.clone_from(name),
            DumpLine::Row(cells) => out.push(format!("{table} {}", serde_json::to_string(cells).unwrap())),
            DumpLine::Fence(_) => {}
        }
    }
    out.sort();
    out
}

fn fence(lines: &[DumpLine]) -> i64 {
    lines.iter().find_map(|l| if let DumpLine::Fence(n) = l { Some(*n) } else { None }).unwrap()
}

/// Everything of `from` is in `to` afterwards, and fences go on rising.
pub(crate) async fn there(from: &SqlStorage, to: &SqlStorage) {
    let before = lines(from).await;
    assert!(rows(&before).len() > 50, "there is something to move");
    assert!(to.is_empty().await.unwrap());
    load(to, &before).await.unwrap();
    assert!(!to.is_empty().await.unwrap());
    let after = lines(to).await;
    let (before_rows, after_rows) = (rows(&before), rows(&after));
    let differ: Vec<_> = before_rows.iter().zip(&after_rows).filter(|(a, b)| a != b).take(3).collect();
    assert!(before_rows == after_rows, "{differ:#?}");
    assert!(fence(&after) >= fence(&before));
    // A number that is drawn stands for as many fences as one claim may hand out.
    assert!(next_fence(to, fence(&before)).await > fence(&before) * 4096);
}

/// The fence that a claim gets now.
async fn next_fence(storage: &SqlStorage, last: i64) -> i64 {
    // Another task for each database that the state has been in: the last one's moved along.
    let id = Uuid::from_u128(u128::MAX - u128::from(last.unsigned_abs()));
    let now = Timestamp::from_micros(4_000_000_000_000_000);
    let task = NewTask {
        id: TaskId::from_uuid(id),
        kind: "moves".into(),
        tenant: None,
        chain: ChainId::from_uuid(id),
        priority: 50,
        run_at: now,
        start_by: None,
        deadline: None,
        max_attempts: 1,
        retries: 0,
        payload: serde_json::Value::Null,
        links: TaskLinks::default(),
        after: Vec::new(),
        unique_key: None,
        limits: Vec::new(),
        requires: Vec::new(),
        on_failure: None,
        origin: Origin { kind: OriginKind::SystemSchedule, id: None, name: "moves".into() },
    };
    storage.enqueue(now, vec![task]).await.unwrap();
    let (worker, kinds) = ("mover".to_owned(), vec!["moves".to_owned()]);
    let request = ClaimRequest { worker, kinds, serves: Vec::new(), limit: 1, lease: Duration::from_secs(60) };
    let claimed = storage.claim(now, request).await.unwrap();
    claimed[0].task.fence
}

/// Lines that do not fit are refused, and the database stays empty.
pub(crate) async fn refuses_what_does_not_fit(from: &SqlStorage, to: &SqlStorage) {
    let good = lines(from).await;
    let at = good.iter().rposition(|line| matches!(line, DumpLine::Row(_))).unwrap();
    let with = |line: DumpLine| {
        let mut lines = good.clone();
        lines[at] = line;
        lines
    };
    let unknown = DumpLine::Table { name: "no_such_table".into(), columns: vec!["id".into()] };
    for bad in [with(DumpLine::Row(vec![])), with(unknown), good[at..].to_vec()] {
        assert!(load(to, &bad).await.is_err());
        assert!(to.is_empty().await.unwrap(), "nothing is half-written");
    }
    // Whoever gives the lines may find at the very end that they were not whole.
    let mut given = good.iter().cloned();
    let cut = to.load(|| match given.next() {
        Some(line) => Ok(Some(line)),
        None => Err(StoreError::internal(std::io::Error::other("cut short"))),
    });
    assert!(words(&cut.await.unwrap_err()).contains("cut short"));
    assert!(to.is_empty().await.unwrap());
    load(to, &good).await.unwrap();
}

/// An error with its causes.
pub(crate) fn words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
