//! The outbox.

use crate::error::Fail;
use crate::sql::{Cells, Dialect, Sql, insert_all, int, opt_id, text, uuid};
use crate::tasks::advance;
use portolan_model::{Scope, TenantId, Timestamp};
use portolan_storage::event::{actor_text, is_prefix};
use portolan_storage::{Event, EventQuery, EventSeq, NewEvent};
use sea_orm::{ConnectionTrait, DatabaseTransaction, QueryResult, Value};

/// Positions that one statement removes.
const AT_ONCE: usize = 512;

const SELECT: &str = "SELECT seq, at, name, tenant, subject, data, actor FROM event WHERE ";

/// Adds events. The row of the series is held until the commit, so that the outbox has no gaps and fills in commit
/// order.
pub(crate) async fn write(
    tx: &DatabaseTransaction,
    dialect: Dialect,
    now: Timestamp,
    events: &[NewEvent],
) -> Result<(), Fail> {
    if events.is_empty() {
        return Ok(());
    }
    let n = i64::try_from(events.len()).unwrap_or(i64::MAX);
    let last = advance(tx, dialect, "event", n).await?;
    let rows = events.iter().zip(last - n + 1..).map(|(event, seq)| {
        vec![
            int(seq),
            int(now.as_micros()),
            text(&event.name),
            opt_id(event.tenant),
            Value::Uuid(event.subject),
            text(&event.data.to_string()),
            text(&actor_text(&event.actor)),
        ]
    });
    let columns = ["seq", "at", "name", "tenant", "subject", "data", "actor"];
    insert_all(tx, dialect, "event", &columns, rows.collect(), "").await
}

/// Events after a position, oldest first.
pub(crate) async fn after(
    on: &impl ConnectionTrait,
    dialect: Dialect,
    scope: Scope,
    after: EventSeq,
    limit: u32,
) -> Result<Vec<Event>, Fail> {
    let mut sql = Sql::new(dialect, SELECT);
    sql.push("seq > ").bind(after);
    heard(&mut sql, scope);
    sql.push(" ORDER BY seq LIMIT ").bind(i64::from(limit));
    sql.all(on).await?.iter().map(read).collect()
}

/// Events that fit, newest position first.
pub(crate) async fn find(
    on: &impl ConnectionTrait,
    dialect: Dialect,
    scope: Scope,
    query: &EventQuery,
) -> Result<Vec<Event>, Fail> {
    let mut sql = Sql::new(dialect, SELECT);
    sql.push("seq < ").bind(query.before.unwrap_or(EventSeq::MAX));
    heard(&mut sql, scope);
    if !query.names.is_empty() {
        sql.push(" AND (");
        for (i, name) in query.names.iter().enumerate() {
            sql.push(if i > 0 { " OR " } else { "" });
            if is_prefix(name) {
                // Texts compare by code point: all that begin so lie together, before the same with a higher end.
                let end = format!("{}/", name.strip_suffix('.').unwrap_or(name));
                sql.push("(name >= ").bind(text(name)).push(" AND name < ").bind(text(&end)).push(")");
            } else {
                sql.push("name = ").bind(text(name));
            }
        }
        sql.push(")");
    }
    match query.actor.as_deref() {
        None => {}
        // Older versions did not write actors down.
        Some("") => drop(sql.push(" AND (actor IS NULL OR actor = '')")),
        Some(actor) => drop(sql.push(" AND actor = ").bind(text(&actor_text(actor)))),
    }
    if let Some(subject) = query.subject {
        sql.push(" AND subject = ").bind(uuid(subject));
    }
    if let Some(from) = query.from {
        sql.push(" AND at >= ").bind(from.as_micros());
    }
    if let Some(until) = query.until {
        sql.push(" AND at < ").bind(until.as_micros());
    }
    sql.push(" ORDER BY seq DESC LIMIT ").bind(i64::from(query.limit));
    sql.all(on).await?.iter().map(read).collect()
}

/// Removes the oldest events. The series stays, so that no position is used again.
pub(crate) async fn prune(
    tx: &DatabaseTransaction,
    dialect: Dialect,
    before: Timestamp,
    limit: u32,
) -> Result<u64, Fail> {
    let mut sql = Sql::new(dialect, "SELECT seq FROM event WHERE at < ");
    sql.bind(before.as_micros()).push(" ORDER BY at, seq LIMIT ").bind(i64::from(limit));
    sql.push(dialect.skip_locked());
    let mut old = Vec::new();
    for row in sql.all(tx).await? {
        old.push(Cells::of(&row).int()?);
    }
    for old in old.chunks(AT_ONCE) {
        let mut sql = Sql::new(dialect, "DELETE FROM event WHERE seq IN ");
        sql.list(old);
        sql.run(tx).await?;
    }
    Ok(old.len() as u64)
}

/// Adds the condition that the scope hears of the event.
fn heard(sql: &mut Sql, scope: Scope) {
    if let Scope::Tenant(tenant) = scope {
        sql.push(" AND tenant = ").bind(opt_id(Some(tenant)));
    }
}

fn read(row: &QueryResult) -> Result<Event, Fail> {
    let mut cells = Cells::of(row);
    Ok(Event {
        seq: cells.int()?,
        at: Timestamp::from_micros(cells.int()?),
        name: cells.text()?,
        tenant: cells.take::<Option<uuid::Uuid>>()?.map(TenantId::from_uuid),
        subject: cells.take()?,
        data: cells.json()?,
        actor: cells.take::<Option<String>>()?.unwrap_or_default(),
    })
}
