//! The rules that a unit of work is checked by: scopes and preconditions, as plain functions that every adapter
//! calls with what it found.

use crate::error::{Conflict, StoreError};
use crate::kind::Kind;
use crate::unit::Put;
use portolan_model::{Scope, TenantId};
use portolan_tasks::TaskError;
use uuid::Uuid;

/// What an adapter found stored under a kind and an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The stored version, from 1.
    pub version: i64,
    /// The tenant that it belongs to.
    pub tenant: Option<TenantId>,
}

/// `Require::Version`. An object that the scope does not see is `NotFound`, whatever was expected; one that is not
/// there has version 0.
pub fn version(scope: Scope, kind: Kind, id: Uuid, expected: i64, found: Option<Found>) -> Result<(), StoreError> {
    visible(scope, kind, id, found)?;
    let found = found.map_or(0, |f| f.version);
    if found == expected {
        return Ok(());
    }
    Err(StoreError::Conflict(Conflict::Version { kind, id, expected, found }))
}

/// `Require::Absent`, with the object that holds the key.
pub fn absent(key: &str, holder: Option<Uuid>) -> Result<(), StoreError> {
    match holder {
        None => Ok(()),
        Some(holder) => Err(StoreError::Conflict(Conflict::Taken { key: key.to_owned(), holder })),
    }
}

/// `Require::RefFree`, with the number of other objects that refer to this one. References are by id alone, whatever
/// the kind, and those from objects that the scope does not see count too.
pub fn ref_free(scope: Scope, kind: Kind, id: Uuid, found: Option<Found>, by: u64) -> Result<(), StoreError> {
    visible(scope, kind, id, found)?;
    if by == 0 {
        return Ok(());
    }
    Err(StoreError::Conflict(Conflict::InUse { kind, id, by }))
}

/// Whether the put may be done over `old`; returns the version that the object then has. From a tenant's scope both
/// the object there and the one that is written must be that tenant's, else it is `NotFound`.
pub fn put(scope: Scope, put: &Put, old: Option<Found>) -> Result<i64, StoreError> {
    if !scope.can_write(put.tenant) || old.is_some_and(|old| !scope.can_write(old.tenant)) {
        return Err(StoreError::NotFound { kind: put.kind, id: put.id });
    }
    Ok(old.map_or(0, |old| old.version).saturating_add(1))
}

/// Whether the object may be removed. One that is not there is fine; one that the scope may not write is `NotFound`.
pub fn delete(scope: Scope, kind: Kind, id: Uuid, old: Option<Found>) -> Result<(), StoreError> {
    match old {
        Some(old) if !scope.can_write(old.tenant) => Err(StoreError::NotFound { kind, id }),
        _ => Ok(()),
    }
}

/// Whether an event may be heard from the scope: a tenant hears its own, `Scope::All` everything.
pub fn hears(scope: Scope, tenant: Option<TenantId>) -> bool {
    scope.can_write(tenant)
}

/// What a failed task operation means for the unit that carries it.
pub fn task_error(error: TaskError) -> StoreError {
    match error {
        TaskError::Lost(id) => StoreError::Conflict(Conflict::TaskLost(id)),
        other => StoreError::Tasks(other),
    }
}

fn visible(scope: Scope, kind: Kind, id: Uuid, found: Option<Found>) -> Result<(), StoreError> {
    match found {
        Some(found) if !kind.visible(scope, found.tenant) => Err(StoreError::NotFound { kind, id }),
        _ => Ok(()),
    }
}
