//! The stored objects with their indexes: plain state, changed in two steps, so that a unit is checked whole before
//! anything of it is written.

use crate::check::{self, Found};
use crate::error::{Conflict, StoreError};
use crate::index;
use crate::kind::Kind;
use crate::store::{RawQuery, Row, RowPage};
use crate::unit::{Change, Put};
use portolan_model::query::{Direction, Filter, Page, Value};
use portolan_model::{Scope, TenantId};
use portolan_tasks::filter;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use uuid::Uuid;

/// What an object is found by.
type Key = (Kind, Uuid);

/// A stored object.
#[derive(Debug)]
struct Entry {
    version: i64,
    tenant: Option<TenantId>,
    fields: Vec<Value>,
    search: String,
    keys: BTreeSet<String>,
    refs: BTreeSet<Uuid>,
    doc: Arc<serde_json::Value>,
}

/// Every object, and what finds and counts them.
#[derive(Debug, Default)]
pub(super) struct Objects {
    tables: HashMap<Kind, BTreeMap<Uuid, Entry>>,
    keys: HashMap<String, Key>,
    referrers: HashMap<Uuid, BTreeSet<Key>>,
    counts: HashMap<(Kind, Option<TenantId>), u64>,
}

/// The checked changes of one unit: what each object will be, nothing where it will be gone.
#[derive(Debug, Default)]
pub(super) struct Plan {
    objects: BTreeMap<Key, Option<Entry>>,
    keys: HashMap<String, Option<Key>>,
}

impl Objects {
    /// Version and tenant of what is there.
    pub(super) fn found(&self, kind: Kind, id: Uuid) -> Option<Found> {
        self.entry((kind, id)).map(Entry::found)
    }

    /// The object that holds a key.
    pub(super) fn holder(&self, key: &str) -> Option<Uuid> {
        self.keys.get(&index::key(key)).map(|holder| holder.1)
    }

    /// How many other objects refer to this id.
    pub(super) fn referrers(&self, id: Uuid) -> u64 {
        self.referrers.get(&id).map_or(0, |by| by.len() as u64)
    }

    /// Works out what the changes come to, each seeing those before it; changes nothing.
    pub(super) fn plan(&self, scope: Scope, changes: &[Change]) -> Result<Plan, StoreError> {
        let mut plan = Plan::default();
        for change in changes {
            match change {
                Change::Put(put) => self.plan_put(&mut plan, scope, put)?,
                Change::Delete(kind, id) => {
                    let key = (*kind, *id);
                    check::delete(scope, *kind, *id, self.planned(&plan, key).map(Entry::found))?;
                    self.release(&mut plan, key);
                    plan.objects.insert(key, None);
                }
            }
        }
        Ok(plan)
    }

    fn plan_put(&self, plan: &mut Plan, scope: Scope, put: &Put) -> Result<(), StoreError> {
        let key = (put.kind, put.id);
        let entry = Entry {
            version: check::put(scope, put, self.planned(plan, key).map(Entry::found))?,
            tenant: put.tenant,
            fields: index::values(put)?,
            search: index::search(&put.search),
            keys: index::keys(put),
            refs: index::refs(put),
            doc: Arc::new(put.doc.clone()),
        };
        for unique in &entry.keys {
            let holder = plan.keys.get(unique).copied().unwrap_or_else(|| self.keys.get(unique).copied());
            if let Some(holder) = holder.filter(|holder| *holder != key) {
                return Err(StoreError::Conflict(Conflict::Taken { key: unique.clone(), holder: holder.1 }));
            }
        }
        self.release(plan, key);
        plan.keys.extend(entry.keys.iter().map(|unique| (unique.clone(), Some(key))));
        plan.objects.insert(key, Some(entry));
        Ok(())
    }

    /// Frees the keys of an object that is replaced or removed.
    fn release(&self, plan: &mut Plan, key: Key) {
        let freed: Vec<String> = self.planned(plan, key).into_iter().flat_map(|e| e.keys.iter().cloned()).collect();
        plan.keys.extend(freed.into_iter().map(|unique| (unique, None)));
    }

    fn planned<'a>(&'a self, plan: &'a Plan, key: Key) -> Option<&'a Entry> {
        match plan.objects.get(&key) {
            Some(planned) => planned.as_ref(),
            None => self.entry(key),
        }
    }

    /// Writes a plan; cannot fail. The state must not have changed since it was made.
    pub(super) fn write(&mut self, plan: Plan) {
        // Everything old goes first: a key may have moved from one object of the plan to another.
        for key in plan.objects.keys() {
            self.remove(*key);
        }
        for (key, entry) in plan.objects {
            if let Some(entry) = entry {
                self.insert(key, entry);
            }
        }
    }

    fn remove(&mut self, key: Key) {
        let Some(old) = self.tables.get_mut(&key.0).and_then(|table| table.remove(&key.1)) else { return };
        for unique in &old.keys {
            self.keys.remove(unique);
        }
        for target in &old.refs {
            if let Some(by) = self.referrers.get_mut(target) {
                by.remove(&key);
                if by.is_empty() {
                    self.referrers.remove(target);
                }
            }
        }
        if let Some(count) = self.counts.get_mut(&(key.0, old.tenant)) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&(key.0, old.tenant));
            }
        }
    }

    fn insert(&mut self, key: Key, entry: Entry) {
        self.keys.extend(entry.keys.iter().map(|unique| (unique.clone(), key)));
        for target in &entry.refs {
            self.referrers.entry(*target).or_default().insert(key);
        }
        *self.counts.entry((key.0, entry.tenant)).or_default() += 1;
        self.tables.entry(key.0).or_default().insert(key.1, entry);
    }

    /// The visible objects of these ids, each once.
    pub(super) fn rows(&self, scope: Scope, kind: Kind, ids: &[Uuid]) -> Vec<Row> {
        let ids: BTreeSet<Uuid> = ids.iter().copied().collect();
        ids.into_iter().filter_map(|id| self.row(scope, (kind, id))).collect()
    }

    /// The object of that kind that holds the key, if the scope sees it.
    pub(super) fn row_by_key(&self, scope: Scope, kind: Kind, key: &str) -> Option<Row> {
        let holder = self.keys.get(&index::key(key)).filter(|holder| holder.0 == kind)?;
        self.row(scope, *holder)
    }

    fn row(&self, scope: Scope, key: Key) -> Option<Row> {
        let entry = self.entry(key).filter(|entry| key.0.visible(scope, entry.tenant))?;
        Some(entry.row(key.0, key.1))
    }

    /// A page of a list.
    pub(super) fn list(&self, scope: Scope, query: &RawQuery) -> Result<RowPage, StoreError> {
        let kind = query.kind;
        let filter = index::filter(kind, &query.filter)?;
        let column = index::sort(kind, &query.sort)?.map(|f| position(kind, f.name));
        let total = query.count.then(|| self.count_simple(scope, kind, &filter));
        let matching = self.matching(scope, kind, &filter);
        let direction = query.sort.direction;
        let rows = match column {
            // In the order of ids nothing beyond the page is looked at.
            None if direction == Direction::Descending => rows(matching.rev(), query.page, kind),
            None => rows(matching, query.page, kind),
            Some(column) => {
                let mut all: Vec<_> = matching.collect();
                all.sort_by(|a, b| {
                    filter::compare_in(direction, (&a.1.fields[column], a.0), (&b.1.fields[column], b.0))
                });
                rows(all.into_iter(), query.page, kind)
            }
        };
        Ok(RowPage { rows, total })
    }

    /// How many objects match.
    pub(super) fn count(&self, scope: Scope, kind: Kind, filter: &Filter) -> Result<u64, StoreError> {
        Ok(self.count_simple(scope, kind, &index::filter(kind, filter)?))
    }

    fn count_simple(&self, scope: Scope, kind: Kind, filter: &Filter) -> u64 {
        if *filter == Filter::All {
            let seen = self.counts.iter().filter(|((k, tenant), _)| *k == kind && kind.visible(scope, *tenant));
            return seen.map(|(_, count)| count).sum();
        }
        self.matching(scope, kind, filter).count() as u64
    }

    fn matching<'a>(
        &'a self,
        scope: Scope,
        kind: Kind,
        filter: &'a Filter,
    ) -> impl DoubleEndedIterator<Item = (&'a Uuid, &'a Entry)> {
        let table = self.tables.get(&kind).into_iter().flatten();
        table.filter(move |(id, entry)| kind.visible(scope, entry.tenant) && entry.matches(kind, **id, filter))
    }

    fn entry(&self, key: Key) -> Option<&Entry> {
        self.tables.get(&key.0)?.get(&key.1)
    }
}

fn rows<'a>(matching: impl Iterator<Item = (&'a Uuid, &'a Entry)>, page: Page, kind: Kind) -> Vec<Row> {
    filter::page_of(matching, page).map(|(id, entry)| entry.row(kind, *id)).collect()
}

/// Where a declared field stands; `index` has checked that it is declared.
fn position(kind: Kind, name: &str) -> usize {
    kind.fields().iter().position(|f| f.name == name).unwrap_or_default()
}

impl Entry {
    fn found(&self) -> Found {
        Found { version: self.version, tenant: self.tenant }
    }

    fn row(&self, kind: Kind, id: Uuid) -> Row {
        Row { kind, id, version: self.version, tenant: self.tenant, doc: (*self.doc).clone() }
    }

    /// Whether a filter that came through [`index::filter`] finds this object.
    fn matches(&self, kind: Kind, id: Uuid, filter: &Filter) -> bool {
        let get = |name: &str| {
            if name == index::ID { Value::Id(id) } else { self.fields[position(kind, name)].clone() }
        };
        filter::matches(filter, get, &self.search)
    }
}
