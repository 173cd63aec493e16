//! Random units against the in-memory adapter as the model: every answer and everything that can be read agrees.

use super::given::*;
use portolan_model::query::{Direction, Filter, Page, Sort, Value};
use portolan_model::{Scope, TaskState};
use portolan_storage::{
    Applied, Change, EventQuery, FieldType, Kind, MemoryStorage, NewEvent, Put, RawQuery, Require, StateStore, Storage,
    StoreError, UnitOfWork, Views,
};
use portolan_tasks::{Held, Outcome, TaskQuery, TaskStore};
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

const KINDS: [Kind; 4] = [Kind::Vm, Kind::Host, Kind::Policy, Kind::Copy];
const IDS: u64 = 7;
const NAMES: [&str; 4] = ["vm.start", "vm.stop", "vm", "vms.start"];
const ACTORS: [&str; 4] = ["", "ann", "Ann", "bob"];

/// Applies `steps` random units to `storage`, which must be empty, and to a model, and compares all that either
/// answers. The same seed gives the same units.
pub async fn agrees_with_model(storage: Arc<dyn Storage>, seed: u64, steps: u32) {
    let mut run = Run {
        rng: Rng(seed),
        model: MemoryStorage::new(),
        subject: storage,
        now: NOW,
        fences: HashMap::new(),
        held: Vec::new(),
        next_task: 1,
    };
    for step in 0..steps {
        run.now = run.now + Duration::from_secs(run.rng.below(20));
        run.step(&format!("seed {seed}, step {step}")).await;
    }
    run.compare_everything(&format!("seed {seed}, at the end")).await;
}

/// Splitmix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % n
    }
    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
    fn chance(&mut self, of_ten: u64) -> bool {
        self.below(10) < of_ten
    }
}

struct Run {
    rng: Rng,
    model: MemoryStorage,
    subject: Arc<dyn Storage>,
    now: portolan_model::Timestamp,
    /// The subject's proof for each of the model's: fences need not be the same numbers.
    fences: HashMap<Held, Held>,
    held: Vec<Held>,
    next_task: u64,
}

impl Run {
    async fn step(&mut self, about: &str) {
        let scope = *self.rng.pick(&[Scope::All, Scope::All, of_tenant(1), of_tenant(2)]);
        let unit = self.unit().await;
        let expected = self.model.apply(self.now, scope, unit.clone()).await;
        let got = self.subject.apply(self.now, scope, self.translated(unit.clone())).await;
        assert_eq!(summary(&got), summary(&expected), "{about}: {scope:?} {unit:#?}");
        if self.rng.chance(3) {
            self.claim(about).await;
        }
        if self.rng.chance(1) {
            let expected = self.model.sweep(self.now, 100).await.unwrap();
            assert_eq!(self.subject.sweep(self.now, 100).await.unwrap(), expected, "{about}: sweep");
        }
        if self.rng.chance(1) {
            let (before, limit) = (self.now - Duration::from_secs(self.rng.below(200)), self.rng.below(9) as u32);
            let expected = self.model.prune_events(before, limit).await.unwrap();
            assert_eq!(self.subject.prune_events(before, limit).await.unwrap(), expected, "{about}: {before} {limit}");
        }
        self.compare_some(about).await;
    }

    async fn unit(&mut self) -> UnitOfWork {
        let mut unit = UnitOfWork::new();
        for _ in 0..self.rng.below(3) {
            let require = self.require().await;
            unit.require.push(require);
        }
        for _ in 0..self.rng.below(5) {
            let change = self.change();
            unit.change.push(change);
        }
        if self.rng.chance(3) {
            let mut task = task(self.next_task);
            // Due at instants of their own, so that the order of claims is one.
            task.run_at = self.now + Duration::from_micros(self.next_task);
            task.priority = self.rng.below(101) as i16;
            task.tenant = self.tenant();
            if self.rng.chance(5) {
                task.unique_key = Some(format!("t:{}", self.rng.below(3)));
            }
            self.next_task += 1;
            unit.enqueue.push(task);
        }
        if !self.held.is_empty() && self.rng.chance(3) {
            let mut finish = success(*self.rng.pick(&self.held));
            finish.outcome = match self.rng.below(4) {
                0 => Outcome::Failed { error: "failed".into() },
                1 => Outcome::Released,
                2 => Outcome::Retry { error: "again".into(), at: self.now + Duration::from_secs(30) },
                _ => finish.outcome,
            };
            unit.finish.push(finish);
        }
        for e in 0..self.rng.below(3) {
            let tenant = self.tenant();
            let data = json!({ "e": e });
            let (name, actor) = (self.rng.pick(&NAMES).to_string(), self.rng.pick(&ACTORS).to_string());
            unit.events.push(NewEvent { name, tenant, subject: Some(id(e)), actor, data });
        }
        unit
    }

    async fn require(&mut self) -> Require {
        let (kind, n) = (*self.rng.pick(&KINDS), id(self.rng.below(IDS)));
        match self.rng.below(8) {
            0 => Require::Absent(self.key()),
            1 => Require::RefFree(kind, n),
            2 if !self.held.is_empty() => Require::TaskHeld(*self.rng.pick(&self.held)),
            3 => Require::Version(kind, n, self.rng.below(4) as i64),
            _ => Require::Version(kind, n, version(&self.model, kind, n).await),
        }
    }

    fn change(&mut self) -> Change {
        let (kind, n) = (*self.rng.pick(&KINDS), id(self.rng.below(IDS)));
        if self.rng.chance(2) {
            return Change::Delete(kind, n);
        }
        let fields = kind.fields().iter().map(|f| self.value(f.ty)).collect();
        let mut put = Put { fields, tenant: self.tenant(), ..object(kind, n) };
        put.doc = json!({ "by": self.rng.below(1000) });
        put.search = self.text().to_lowercase();
        if self.rng.chance(4) {
            put.unique.push(self.key());
        }
        for _ in 0..self.rng.below(3) {
            put.refs.push(id(self.rng.below(IDS)));
        }
        Change::Put(put)
    }

    fn key(&mut self) -> String {
        format!("k:{}", self.rng.below(6))
    }

    fn tenant(&mut self) -> Option<portolan_model::TenantId> {
        *self.rng.pick(&[None, Some(tenant(1)), Some(tenant(2))])
    }

    fn text(&mut self) -> String {
        let parts = ["a", "B", "%", "_", "\\", "ä", "Ä", "😀", " ", "'", "ab", ""];
        (0..self.rng.below(4)).map(|_| *self.rng.pick(&parts)).collect()
    }

    fn value(&mut self, ty: FieldType) -> Value {
        match ty {
            _ if self.rng.chance(2) => Value::Null,
            FieldType::Text => self.text().into(),
            FieldType::Int => (*self.rng.pick(&[i64::MIN, -1, 0, 1, 2, i64::MAX])).into(),
            FieldType::Bool => self.rng.chance(5).into(),
            FieldType::Id => id(self.rng.below(4)).into(),
        }
    }

    fn filter(&mut self, kind: Kind, depth: u32) -> Filter {
        let what = self.rng.below(if depth == 0 { 6 } else { 9 });
        if what >= 6 {
            let parts = |run: &mut Self| (0..run.rng.below(4)).map(|_| run.filter(kind, depth - 1)).collect();
            return match what {
                6 => Filter::And(parts(self)),
                7 => Filter::Or(parts(self)),
                _ => Filter::Not(Box::new(self.filter(kind, depth - 1))),
            };
        }
        let names: Vec<_> = kind.fields().iter().map(|f| (f.name, f.ty)).chain([("id", FieldType::Id)]).collect();
        let (name, ty) = *self.rng.pick(&names);
        let name = name.to_owned();
        match what {
            0 => Filter::All,
            1 => Filter::Eq(name, self.value(ty)),
            2 => Filter::In(name, (0..self.rng.below(4)).map(|_| self.value(ty)).collect()),
            3 => Filter::AtLeast(name, self.value(ty)),
            4 => Filter::Below(name, self.value(ty)),
            _ => Filter::Contains(self.text()),
        }
    }

    fn query(&mut self) -> RawQuery {
        let kind = *self.rng.pick(&KINDS);
        let names: Vec<_> = kind.fields().iter().map(|f| f.name).chain(["id"]).collect();
        let field = self.rng.chance(7).then(|| (*self.rng.pick(&names)).to_owned());
        let direction = if self.rng.chance(5) { Direction::Ascending } else { Direction::Descending };
        let limit = self.rng.chance(6).then(|| self.rng.below(5));
        let page = Page { offset: self.rng.below(4), limit };
        RawQuery {
            kind,
            filter: self.filter(kind, 2),
            sort: Sort { field, direction },
            page,
            count: self.rng.chance(5),
        }
    }

    fn event_query(&mut self) -> EventQuery {
        let mut names = ["vm.", "vm.start", "v.", "vms.start"].map(str::to_owned).to_vec();
        names.truncate(self.rng.below(4) as usize);
        let some_time = |run: &mut Self| {
            let ago = Duration::from_secs(run.rng.below(400));
            run.rng.chance(3).then(|| run.now - ago)
        };
        EventQuery {
            names,
            actor: self.rng.chance(4).then(|| self.rng.pick(&ACTORS).to_string()),
            subject: self.rng.chance(3).then(|| id(self.rng.below(3))),
            from: some_time(self),
            until: some_time(self),
            before: self.rng.chance(4).then(|| self.rng.below(200) as i64),
            limit: self.rng.below(30) as u32,
        }
    }

    /// The same unit with the subject's own fences.
    fn translated(&self, mut unit: UnitOfWork) -> UnitOfWork {
        for finish in &mut unit.finish {
            finish.held = self.fences[&finish.held];
        }
        for require in &mut unit.require {
            if let Require::TaskHeld(held) = require {
                *held = self.fences[held];
            }
        }
        unit
    }

    async fn claim(&mut self, about: &str) {
        let limit = self.rng.below(3) as u32;
        let model = claim(&self.model, self.now, limit).await;
        let subject = claim(&*self.subject, self.now, limit).await;
        let ids = |tasks: &[portolan_tasks::Task]| tasks.iter().map(|t| t.new.id).collect::<Vec<_>>();
        assert_eq!(ids(&subject), ids(&model), "{about}: claim");
        for (model, subject) in model.iter().zip(&subject) {
            // Old proofs stay among those that are tried.
            self.fences.insert(model.held(), subject.held());
            self.held.push(model.held());
        }
    }

    async fn compare_some(&mut self, about: &str) {
        for scope in [Scope::All, of_tenant(1), of_tenant(2)] {
            let query = self.query();
            let got = self.subject.list(scope, &query).await.unwrap();
            assert_eq!(got, self.model.list(scope, &query).await.unwrap(), "{about}: {scope:?} {query:?}");
            let kind = query.kind;
            let counted = self.subject.count(scope, query.kind, &query.filter).await.unwrap();
            let expected = self.model.count(scope, query.kind, &query.filter).await.unwrap();
            assert_eq!(counted, expected, "{about}: {scope:?} {query:?}");
            let query = self.event_query();
            let got = self.subject.find_events(scope, &query).await.unwrap();
            assert_eq!(got, self.model.find_events(scope, &query).await.unwrap(), "{about}: {scope:?} {query:?}");
            let key = self.key();
            let got = self.subject.holder(scope, kind, &key).await.unwrap();
            assert_eq!(got, self.model.holder(scope, kind, &key).await.unwrap(), "{about}: {scope:?} {key}");
        }
    }

    async fn compare_everything(&mut self, about: &str) {
        for scope in [Scope::All, of_tenant(1), of_tenant(2), of_tenant(3)] {
            for kind in KINDS {
                let query = matching(kind, Filter::All);
                let got = self.subject.list(scope, &query).await.unwrap();
                assert_eq!(got, self.model.list(scope, &query).await.unwrap(), "{about}: {kind} {scope:?}");
                assert_eq!(got.total, Some(got.rows.len() as u64), "{about}: the counter of {kind} {scope:?}");
            }
            let got = self.subject.events(scope, 0, u32::MAX).await.unwrap();
            assert_eq!(got, self.model.events(scope, 0, u32::MAX).await.unwrap(), "{about}: events {scope:?}");
            let all = TaskQuery { count: true, ..TaskQuery::default() };
            let states = |page: portolan_tasks::TaskPage| {
                let tasks = page.tasks.into_iter().map(|t| (t.new.id, t.state, t.attempt, t.finished));
                (page.total, tasks.collect::<Vec<(_, TaskState, _, _)>>())
            };
            let got = states(self.subject.query(scope, &all).await.unwrap());
            assert_eq!(got, states(self.model.query(scope, &all).await.unwrap()), "{about}: tasks {scope:?}");
        }
    }
}

/// What must be the same of an answer.
fn summary(answer: &Result<Applied, StoreError>) -> String {
    match answer {
        Ok(applied) => format!("{:?}", applied.tasks),
        Err(StoreError::Tasks(e)) => format!("tasks: {e}"),
        Err(StoreError::Internal(_)) => "internal".into(),
        Err(other) => format!("{other:?}"),
    }
}

/// See [`agrees_with_model`].
pub async fn agrees_with_the_model_one(s: Arc<dyn Storage>) {
    agrees_with_model(s, 1, 150).await;
}

/// See [`agrees_with_model`].
pub async fn agrees_with_the_model_two(s: Arc<dyn Storage>) {
    agrees_with_model(s, 2, 150).await;
}
