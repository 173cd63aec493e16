//! Requests that are carried out again, because the first time ended in doubt: they find what was begun then.

use crate::error::ProtectError;
use crate::service::Protect;
use portolan_model::query::Filter;
use portolan_model::*;
use portolan_tasks::{Task, TaskQuery};
use std::collections::BTreeMap;
use uuid::Uuid;

/// The ids of what one request begins: always the same where its sender named it, else drawn.
#[derive(Clone, Copy)]
pub(crate) struct Begins<'a> {
    request: Option<RequestKey>,
    ids: &'a dyn IdSource,
}

impl Begins<'_> {
    /// The id of the part `role`, `export.task`, of what begins for the object `of`.
    pub(crate) fn id<T: TypedId>(&self, role: &str, of: impl TypedId) -> T {
        T::from_uuid(match self.request {
            Some(request) => derived(request, role, of.uuid()),
            None => self.ids.uuid(),
        })
    }

    /// Whether there may be something from before.
    pub(crate) fn may_repeat(&self) -> bool {
        self.request.is_some()
    }
}

/// One request may begin the same for several objects, in several calls: the object tells them apart.
fn derived(request: RequestKey, role: &str, of: Uuid) -> Uuid {
    request.derive(&format!("{role}:{of}"), 0)
}

impl Protect {
    pub(crate) fn begins(&self, caller: &Caller) -> Begins<'_> {
        Begins { request: caller.request, ids: &*self.ids }
    }

    /// Those of these tasks that are there, in that order.
    pub(crate) async fn tasks_there(&self, scope: Scope, ids: &[TaskId]) -> Result<Vec<Task>, ProtectError> {
        let mut found = BTreeMap::new();
        for some in ids.chunks(500) {
            let filter = Filter::any("id", some.iter().map(|id| id.uuid()));
            let page = self.storage.query(scope, &TaskQuery { filter, ..TaskQuery::default() }).await?;
            found.extend(page.tasks.into_iter().map(|t| (t.new.id, t)));
        }
        Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
    }
}

/// What was begun before is there, the tasks that would be the answer are not.
pub(crate) fn tasks_removed() -> ProtectError {
    ProtectError::Conflict("the request was carried out before, and its tasks have been removed since".into())
}
