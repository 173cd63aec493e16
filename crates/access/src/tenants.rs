//! Tenants: made and removed by those who see all of them.

use crate::error::AccessError;
use crate::{Core, ROUNDS};
use portolan_model::query::Filter;
use portolan_model::{Caller, Name, Privilege, Scope, Tenant, TenantId};
use portolan_storage::{Conflict, Kind, ListOf, Query, Require, StorageExt, StoreError, Stored, UnitOfWork};
use std::sync::Arc;

/// What the system in front calls a tenant is no longer than this many characters.
const MAX_EXTERNAL: usize = 255;

/// Manages tenants.
#[derive(Debug, Clone)]
pub struct Tenants(Arc<Core>);

impl Tenants {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self(core)
    }

    /// Makes a tenant. `external_id` is what the system in front calls it, and may be empty.
    pub async fn create(&self, caller: &Caller, name: &str, external_id: &str) -> Result<Stored<Tenant>, AccessError> {
        manage_all(caller)?;
        let name = Name::new(name).map_err(|e| AccessError::Invalid(e.to_string()))?;
        let external_id = checked_external(external_id)?;
        if !external_id.is_empty() && self.find_external(Scope::All, &external_id).await?.is_some() {
            return Err(AccessError::Conflict("another tenant has this external id".into()));
        }
        let now = self.0.clock.now();
        let value = Tenant { id: TenantId::from_uuid(self.0.ids.uuid()), name, external_id, created: now };
        let unit = audit(UnitOfWork::new().create(&value), "tenant.created", &value, caller);
        self.0.storage.apply(now, Scope::All, unit).await?;
        Ok(Stored { version: 1, value })
    }

    /// The tenants that the caller sees.
    pub async fn list(&self, caller: &Caller, query: Query) -> Result<ListOf<Tenant>, AccessError> {
        caller.require(Privilege::InventoryRead)?;
        Ok(self.0.storage.list_of(caller.scope, query).await?)
    }

    /// One tenant.
    pub async fn get(&self, caller: &Caller, id: TenantId) -> Result<Stored<Tenant>, AccessError> {
        caller.require(Privilege::InventoryRead)?;
        Ok(self.0.storage.fetch(caller.scope, id).await?)
    }

    /// The tenant that the system in front calls `external_id`.
    pub async fn by_external_id(&self, caller: &Caller, external_id: &str) -> Result<Stored<Tenant>, AccessError> {
        caller.require(Privilege::InventoryRead)?;
        let found = if external_id.is_empty() { None } else { self.find_external(caller.scope, external_id).await? };
        found.ok_or(AccessError::NotFound { what: "tenant" })
    }

    /// The tenant of this name, whatever the case of its letters, or id.
    pub async fn find(&self, caller: &Caller, name_or_id: &str) -> Result<Stored<Tenant>, AccessError> {
        if let Ok(id) = name_or_id.parse() {
            return self.get(caller, id).await;
        }
        caller.require(Privilege::InventoryRead)?;
        let key = format!("tenant:{}", name_or_id.trim().to_lowercase());
        let found = self.0.storage.find_by_key::<Tenant>(caller.scope, &key).await?;
        found.ok_or(AccessError::NotFound { what: "tenant" })
    }

    /// Gives a tenant another name, another external id, or both; nothing leaves it as it is. `Conflict` when one is
    /// taken.
    pub async fn rename(
        &self,
        caller: &Caller,
        id: TenantId,
        name: Option<&str>,
        external_id: Option<&str>,
    ) -> Result<Stored<Tenant>, AccessError> {
        manage_all(caller)?;
        let name = name.map(Name::new).transpose().map_err(|e| AccessError::Invalid(e.to_string()))?;
        let external_id = external_id.map(checked_external).transpose()?;
        if let Some(asked) = external_id.as_deref().filter(|text| !text.is_empty())
            && self.find_external(Scope::All, asked).await?.is_some_and(|holder| holder.id != id)
        {
            return Err(AccessError::Conflict("another tenant has this external id".into()));
        }
        let decide = |tenant: &mut Tenant| {
            tenant.name = name.clone().unwrap_or_else(|| tenant.name.clone());
            tenant.external_id = external_id.clone().unwrap_or_else(|| tenant.external_id.clone());
            Some(audit(UnitOfWork::new(), "tenant.changed", tenant, caller))
        };
        Ok(self.0.storage.change(self.0.clock.now(), Scope::All, id, decide).await?)
    }

    /// Removes a tenant that nothing belongs to; `Conflict` otherwise.
    pub async fn delete(&self, caller: &Caller, id: TenantId) -> Result<(), AccessError> {
        manage_all(caller)?;
        for _ in 0..ROUNDS {
            // The version is read first: whoever adds an account to the tenant raises it.
            let tenant = self.0.storage.fetch::<Tenant>(Scope::All, id).await?;
            for kind in Kind::ALL.iter().filter(|kind| kind.tenanted() && **kind != Kind::Tenant) {
                let count = self.0.storage.count(Scope::Tenant(id), *kind, &Filter::All).await?;
                if count > 0 {
                    return Err(AccessError::Conflict(format!("the tenant still has objects of kind {kind}: {count}")));
                }
            }
            let unit = UnitOfWork::new()
                .require(Require::Version(Kind::Tenant, id.uuid(), tenant.version))
                .require(Require::RefFree(Kind::Tenant, id.uuid()))
                .delete::<Tenant>(id);
            let unit = audit(unit, "tenant.deleted", &tenant, caller);
            match self.0.storage.apply(self.0.clock.now(), Scope::All, unit).await {
                Err(StoreError::Conflict(Conflict::Version { .. })) => {}
                other => return other.map(drop).map_err(Into::into),
            }
        }
        Err(AccessError::Conflict("the tenant is being changed by others".into()))
    }

    async fn find_external(&self, scope: Scope, external_id: &str) -> Result<Option<Stored<Tenant>>, AccessError> {
        let query = Query::matching(Filter::eq("external_id", external_id));
        Ok(self.0.storage.list_of::<Tenant>(scope, query).await?.items.into_iter().next())
    }
}

fn checked_external(text: &str) -> Result<String, AccessError> {
    let text = text.trim();
    if text.chars().count() > MAX_EXTERNAL || text.chars().any(char::is_control) {
        return Err(AccessError::Invalid("the tenant's external id is not a plain text of 255 characters".into()));
    }
    Ok(text.to_owned())
}

fn audit(unit: UnitOfWork, what: &str, tenant: &Tenant, caller: &Caller) -> UnitOfWork {
    let data = serde_json::json!({ "name": tenant.name.as_str() });
    unit.event_by(&caller.login, what, Some(tenant.id), tenant.id.uuid(), data)
}

/// Tenants are made and removed by those who are bound to none.
fn manage_all(caller: &Caller) -> Result<(), AccessError> {
    caller.require(Privilege::AccessManage)?;
    match caller.scope {
        Scope::All => Ok(()),
        Scope::Tenant(_) => Err(portolan_model::caller::Denied { privilege: Privilege::AccessManage }.into()),
    }
}
