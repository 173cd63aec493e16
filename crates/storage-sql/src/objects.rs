//! What a unit does to objects: locked and read first, checked and planned in memory, written in bulk.

use crate::error::{Fail, Unfit};
use crate::filter::bound;
use crate::sql::{Cells, Dialect, Sql, batches, fold, insert_all, int, opt_id, text, uuid};
use crate::views::counter_row;
use portolan_model::query::Value;
use portolan_model::{Scope, TenantId};
use portolan_storage::check::{self, Found};
use portolan_storage::{Change, Conflict, FieldType, Kind, Put, Require, StoreError, UnitOfWork, index};
use sea_orm::{DatabaseTransaction, Value as Bound};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use uuid::Uuid;

/// What an object is found by.
type Key = (Kind, Uuid);

/// Ids or keys that one statement asks for.
const AT_ONCE: usize = 512;

/// The objects that a unit names, as they are stored, their rows locked.
pub(crate) struct Objects<'t> {
    tx: &'t DatabaseTransaction,
    dialect: Dialect,
    found: HashMap<Key, Found>,
    /// Holders of the keys that the unit names or its objects hold, by the folded key.
    holders: HashMap<String, Key>,
    /// How many others refer to the objects that must be free.
    referrers: HashMap<Uuid, u64>,
}

/// What an object will be.
struct Planned<'u> {
    version: i64,
    tenant: Option<TenantId>,
    fields: Vec<Value>,
    search: String,
    /// Folded.
    keys: BTreeSet<String>,
    refs: BTreeSet<Uuid>,
    put: &'u Put,
}

impl Planned<'_> {
    fn found(&self) -> Found {
        Found { version: self.version, tenant: self.tenant }
    }
}

/// The checked changes of a unit; nothing where an object will be gone.
#[derive(Default)]
struct Plan<'u> {
    objects: BTreeMap<Key, Option<Planned<'u>>>,
    keys: HashMap<String, Option<Key>>,
}

impl<'t> Objects<'t> {
    /// Locks and reads what the unit names: rows in one order everywhere, so that units wait for one another and
    /// do not deadlock.
    pub(crate) async fn lock(tx: &'t DatabaseTransaction, dialect: Dialect, unit: &UnitOfWork) -> Result<Self, Fail> {
        let mut named: BTreeMap<Kind, BTreeSet<Uuid>> = BTreeMap::new();
        let (mut keys, mut targets) = (BTreeSet::new(), BTreeSet::new());
        for require in &unit.require {
            match require {
                Require::Version(kind, id, _) => drop(named.entry(*kind).or_default().insert(*id)),
                Require::RefFree(kind, id) => {
                    named.entry(*kind).or_default().insert(*id);
                    targets.insert(*id);
                }
                Require::Absent(key) => drop(keys.insert(fold(key))),
                Require::TaskHeld(_) => {}
            }
        }
        let mut changed = BTreeSet::new();
        for change in &unit.change {
            let (kind, id) = match change {
                Change::Put(put) => {
                    keys.extend(put.unique.iter().map(|k| fold(k)));
                    (put.kind, put.id)
                }
                Change::Delete(kind, id) => (*kind, *id),
            };
            named.entry(kind).or_default().insert(id);
            changed.insert(id);
        }
        let mut objects =
            Self { tx, dialect, found: HashMap::new(), holders: HashMap::new(), referrers: HashMap::new() };
        for (kind, ids) in named {
            objects.find(kind, ids.into_iter().collect()).await?;
        }
        let keys: Vec<String> = keys.into_iter().collect();
        for keys in keys.chunks(AT_ONCE) {
            let mut sql = Sql::new(dialect, "SELECT k, kind, id FROM unique_key WHERE k IN ");
            sql.list(keys);
            objects.hold(sql).await?;
        }
        let existing = objects.found.keys().map(|key| key.1).filter(|id| changed.contains(id));
        let existing: Vec<Uuid> = existing.collect::<BTreeSet<_>>().into_iter().collect();
        for ids in existing.chunks(AT_ONCE) {
            let mut sql = Sql::new(dialect, "SELECT k, kind, id FROM unique_key WHERE id IN ");
            sql.list(ids);
            objects.hold(sql).await?;
        }
        for id in targets {
            let mut sql = Sql::new(dialect, "SELECT COUNT(*) FROM record_ref WHERE to_id = ");
            sql.bind(uuid(id));
            let row = sql.one(tx).await?;
            let by = row.map(|r| Cells::of(&r).int()).transpose()?.unwrap_or(0);
            objects.referrers.insert(id, u64::try_from(by).unwrap_or(0));
        }
        Ok(objects)
    }

    async fn find(&mut self, kind: Kind, ids: Vec<Uuid>) -> Result<(), Fail> {
        for ids in ids.chunks(AT_ONCE) {
            let mut sql =
                Sql::new(self.dialect, &format!("SELECT id, version, tenant FROM {} WHERE id IN ", kind.table()));
            sql.list(ids).push(" ORDER BY id").push(self.dialect.for_update());
            for row in sql.all(self.tx).await? {
                let mut cells = Cells::of(&row);
                let id = cells.uuid()?;
                let version = cells.int()?;
                let tenant = cells.take::<Option<Uuid>>()?.map(TenantId::from_uuid);
                self.found.insert((kind, id), Found { version, tenant });
            }
        }
        Ok(())
    }

    async fn hold(&mut self, sql: Sql) -> Result<(), Fail> {
        for row in sql.all(self.tx).await? {
            let mut cells = Cells::of(&row);
            let key = cells.text()?;
            let kind = cells.text()?;
            let id = cells.uuid()?;
            let Some(kind) = Kind::ALL.iter().copied().find(|k| k.table() == kind) else {
                return Err(StoreError::internal(Unfit::Value(kind)).into());
            };
            self.holders.insert(key, (kind, id));
        }
        Ok(())
    }

    /// Checks a precondition on objects; the task ones are not for here.
    pub(crate) fn check(&self, scope: Scope, require: &Require) -> Result<(), StoreError> {
        match require {
            Require::Version(kind, id, expected) => {
                check::version(scope, *kind, *id, *expected, self.found.get(&(*kind, *id)).copied())
            }
            Require::Absent(key) => check::absent(key, self.holders.get(&fold(key)).map(|holder| holder.1)),
            Require::RefFree(kind, id) => {
                let by = self.referrers.get(id).copied().unwrap_or(0);
                check::ref_free(scope, *kind, *id, self.found.get(&(*kind, *id)).copied(), by)
            }
            Require::TaskHeld(_) => Ok(()),
        }
    }

    /// Checks the changes and says what is to be written.
    pub(crate) fn decide(&self, scope: Scope, changes: &[Change]) -> Result<Out, StoreError> {
        let plan = self.plan(scope, changes)?;
        let mut out = Out::default();
        for ((kind, id), planned) in &plan.objects {
            let found = self.found.get(&(*kind, *id));
            let table = out.tables.entry(*kind).or_default();
            if let Some(found) = found {
                *out.counts.entry((*kind, found.tenant)).or_default() -= 1;
                table.known.push(*id);
            }
            match planned {
                Some(planned) => {
                    *out.counts.entry((*kind, planned.tenant)).or_default() += 1;
                    if found.is_some() { &mut table.old } else { &mut table.new }.push(row(*kind, *id, planned));
                    let refs = planned.refs.iter();
                    out.refs.extend(refs.map(|to| vec![uuid(*id), uuid(*to), text(kind.table())]));
                }
                None if found.is_some() => table.gone.push(*id),
                None => {}
            }
        }
        out.counts.retain(|_, change| *change != 0);
        // In the order of the keys, so that units which fight over several meet at the first.
        let keys: BTreeMap<String, Option<Key>> = plan.keys.into_iter().collect();
        for (unique, holder) in keys {
            let before = self.holders.get(&unique).copied();
            if before == holder {
                continue;
            }
            if before.is_some() {
                out.freed.push(unique.clone());
            }
            if let Some((kind, id)) = holder {
                out.keys.push(vec![unique.into(), text(kind.table()), uuid(id)]);
            }
        }
        Ok(out)
    }

    fn plan<'u>(&self, scope: Scope, changes: &'u [Change]) -> Result<Plan<'u>, StoreError> {
        let mut plan = Plan::default();
        for change in changes {
            match change {
                Change::Put(put) => self.plan_put(&mut plan, scope, put)?,
                Change::Delete(kind, id) => {
                    let key = (*kind, *id);
                    check::delete(scope, *kind, *id, self.planned(&plan, key))?;
                    self.release(&mut plan, key);
                    plan.objects.insert(key, None);
                }
            }
        }
        Ok(plan)
    }

    fn plan_put<'u>(&self, plan: &mut Plan<'u>, scope: Scope, put: &'u Put) -> Result<(), StoreError> {
        let key = (put.kind, put.id);
        let version = check::put(scope, put, self.planned(plan, key))?;
        let fields = index::values(put)?;
        let unique = index::keys(put);
        for unique in &unique {
            let folded = fold(unique);
            let holder = plan.keys.get(&folded).copied().unwrap_or_else(|| self.holders.get(&folded).copied());
            if let Some(holder) = holder.filter(|holder| *holder != key) {
                return Err(StoreError::Conflict(Conflict::Taken { key: unique.clone(), holder: holder.1 }));
            }
        }
        self.release(plan, key);
        let keys: BTreeSet<String> = unique.iter().map(|k| fold(k)).collect();
        plan.keys.extend(keys.iter().map(|k| (k.clone(), Some(key))));
        let (search, refs) = (index::search(&put.search), index::refs(put));
        plan.objects.insert(key, Some(Planned { version, tenant: put.tenant, fields, search, keys, refs, put }));
        Ok(())
    }

    /// Frees the keys of an object that is replaced or removed.
    fn release(&self, plan: &mut Plan<'_>, key: Key) {
        let freed: Vec<String> = match plan.objects.get(&key) {
            Some(planned) => planned.iter().flat_map(|p| p.keys.iter().cloned()).collect(),
            None => self.held_by(key).cloned().collect(),
        };
        plan.keys.extend(freed.into_iter().map(|unique| (unique, None)));
    }

    fn held_by(&self, key: Key) -> impl Iterator<Item = &String> {
        self.holders.iter().filter(move |(_, holder)| **holder == key).map(|(unique, _)| unique)
    }

    fn planned(&self, plan: &Plan<'_>, key: Key) -> Option<Found> {
        match plan.objects.get(&key) {
            Some(planned) => planned.as_ref().map(Planned::found),
            None => self.found.get(&key).copied(),
        }
    }
}

/// The rows that a unit writes.
#[derive(Default)]
pub(crate) struct Out {
    tables: BTreeMap<Kind, Table>,
    freed: Vec<String>,
    keys: Vec<Vec<Bound>>,
    refs: Vec<Vec<Bound>>,
    /// For [`count`], last of all: others wait for those rows.
    pub(crate) counts: Counts,
}

/// The rows of one kind.
#[derive(Default)]
struct Table {
    known: Vec<Uuid>,
    gone: Vec<Uuid>,
    new: Vec<Vec<Bound>>,
    old: Vec<Vec<Bound>>,
}

/// Writes what was decided, except for the counters.
pub(crate) async fn write(tx: &DatabaseTransaction, dialect: Dialect, out: &mut Out) -> Result<(), Fail> {
    for freed in out.freed.chunks(AT_ONCE) {
        let mut sql = Sql::new(dialect, "DELETE FROM unique_key WHERE k IN ");
        sql.list(freed);
        sql.run(tx).await?;
    }
    for (kind, table) in std::mem::take(&mut out.tables) {
        for known in table.known.chunks(AT_ONCE) {
            let mut sql = Sql::new(dialect, "DELETE FROM record_ref WHERE from_id IN ");
            sql.list(known).push(" AND from_kind = ").bind(text(kind.table()));
            sql.run(tx).await?;
        }
        for gone in table.gone.chunks(AT_ONCE) {
            let mut sql = Sql::new(dialect, &format!("DELETE FROM {} WHERE id IN ", kind.table()));
            sql.list(gone);
            sql.run(tx).await?;
        }
        let columns = columns(kind);
        // A new object that somebody else has made meanwhile is a unique violation: the unit runs again.
        insert_all(tx, dialect, kind.table(), &columns, table.new, "").await?;
        let tail = dialect.upsert("id", &columns[1..]);
        insert_all(tx, dialect, kind.table(), &columns, table.old, &tail).await?;
    }
    let keys = std::mem::take(&mut out.keys);
    insert_all(tx, dialect, "unique_key", &["k", "kind", "id"], keys, "").await?;
    let refs = std::mem::take(&mut out.refs);
    insert_all(tx, dialect, "record_ref", &["from_id", "to_id", "from_kind"], refs, "").await
}

/// How many objects more or less there are.
pub(crate) type Counts = BTreeMap<(Kind, Option<TenantId>), i64>;

/// Adds to the counters, in one order everywhere.
pub(crate) async fn count(tx: &DatabaseTransaction, dialect: Dialect, counts: Counts) -> Result<(), Fail> {
    let rows = counts.into_iter().map(|((kind, tenant), change)| counter_row(kind, tenant, change)).collect();
    let tail = match dialect {
        Dialect::MariaDb => " ON DUPLICATE KEY UPDATE n = n + VALUES(n)",
        _ => " ON CONFLICT (kind, tenant) DO UPDATE SET n = counter.n + excluded.n",
    };
    for batch in batches(rows) {
        insert_all(tx, dialect, "counter", &["kind", "tenant", "n"], batch, tail).await?;
    }
    Ok(())
}

fn columns(kind: Kind) -> Vec<&'static str> {
    let fields = kind.fields().iter().map(|f| f.name);
    ["id", "version", "tenant"].into_iter().chain(fields).chain(["search", "doc"]).collect()
}

fn row(kind: Kind, id: Uuid, planned: &Planned<'_>) -> Vec<Bound> {
    let mut row = vec![uuid(id), int(planned.version), opt_id(planned.tenant)];
    row.extend(kind.fields().iter().zip(&planned.fields).map(|(field, value)| match (value, field.ty) {
        // PostgreSQL wants to know what it is that is missing.
        (Value::Null, FieldType::Text) => Bound::String(None),
        (Value::Null, FieldType::Id) => Bound::Uuid(None),
        (value, _) => bound(value),
    }));
    // Displaying a document cannot fail.
    row.extend([text(&planned.search), Bound::String(Some(planned.put.doc.to_string()))]);
    row
}
