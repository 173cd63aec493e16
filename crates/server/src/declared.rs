//! Tenants and accounts of the configuration: made when they are missing, kept in step afterwards.

use crate::ask;
use crate::config::{AccountConfig, Config, FirstSecret, TenantConfig};
use crate::core::Core;
use crate::error::{Failure, OrFail};
use portolan_access::{AccessError, AccountChange, NewAccount};
use portolan_model::describe::Describe;
use portolan_model::query::Filter;
use portolan_model::{Caller, Role, Scope, Secret, Tenant, TenantId};
use portolan_storage::{Query, StorageExt, Stored, UnitOfWork};

/// Makes the declared tenants, and gives those that are there the external ids of the configuration.
///
/// # Errors
/// When one cannot be made, or its external id belongs to another one.
pub async fn tenants(core: &Core, config: &Config) -> Result<(), Failure> {
    for declared in &config.tenants {
        let what = || format!("the tenant '{}' of the configuration cannot be registered", declared.name);
        tenant(core, declared).await.or_fail(what)?;
    }
    Ok(())
}

async fn tenant(core: &Core, declared: &TenantConfig) -> Result<(), AccessError> {
    let tenants = &core.portolan.access.tenants;
    let Some(there) = named(core, &declared.name).await? else {
        return match tenants.create(&Caller::system(), &declared.name, &declared.external_id).await {
            // Another process has made it since; it comes here at its own start, too.
            Err(AccessError::Conflict(_)) if named(core, &declared.name).await?.is_some() => Ok(()),
            other => other.map(drop),
        };
    };
    if there.external_id == declared.external_id {
        return Ok(());
    }
    if !declared.external_id.is_empty()
        && let Ok(other) = tenants.by_external_id(&Caller::system(), &declared.external_id).await
        && other.id != there.id
    {
        return Err(AccessError::Conflict(format!("its external id belongs to the tenant '{}'", other.name)));
    }
    let keep = |tenant: &mut Tenant| {
        (tenant.external_id != declared.external_id).then(|| {
            tenant.external_id.clone_from(&declared.external_id);
            UnitOfWork::new()
        })
    };
    core.storage.change::<Tenant, _>(core.portolan.now(), Scope::All, there.id, keep).await?;
    Ok(())
}

async fn named(core: &Core, name: &str) -> Result<Option<Stored<Tenant>>, AccessError> {
    let list = core.storage.list_of::<Tenant>(Scope::All, Query::matching(Filter::eq("name", name))).await?;
    Ok(list.items.into_iter().next())
}

/// Whether a declared account can put everything right: then the built-in first account is not needed.
pub fn has_administrator(config: &Config) -> bool {
    config.accounts.iter().any(|a| a.role == Role::Administrator && a.tenant.is_none())
}

/// Makes the declared accounts, and gives those that are there the roles of the configuration. A password is only
/// looked at when an account is made.
///
/// # Errors
/// When one cannot be made, or its role cannot be changed because it is the last administrator.
pub async fn accounts(core: &Core, config: &Config) -> Result<(), Failure> {
    for declared in &config.accounts {
        account(core, declared).await?;
    }
    Ok(())
}

async fn account(core: &Core, declared: &AccountConfig) -> Result<(), Failure> {
    let what = || format!("the account '{}' of the configuration cannot be registered", declared.login);
    let accounts = &core.portolan.access.accounts;
    let caller = Caller::system();
    let tenant = match &declared.tenant {
        Some(name) => Some(tenant_id(core, name).await.map_err(|e| Failure { message: what(), ..e })?),
        None => None,
    };
    let there = match accounts.by_login(&caller, &declared.login).await {
        Ok(there) => there,
        Err(AccessError::NotFound { .. }) => {
            let made = make(core, declared, tenant).await;
            return match made {
                // Another process has made it since.
                Err(_) if accounts.by_login(&caller, &declared.login).await.is_ok() => Ok(()),
                other => other,
            };
        }
        Err(other) => return Err(Failure::new(what()).because(other)),
    };
    if there.tenant != tenant {
        let error = "an account cannot be given to another tenant: remove it to have it made anew";
        tracing::warn!(account = %declared.login, error, "the account does not belong to the tenant of the configuration");
    }
    if there.role != declared.role {
        let change = AccountChange { role: Some(declared.role), ..AccountChange::default() };
        accounts.change(&caller, there.id, change).await.or_fail(what)?;
    }
    Ok(())
}

async fn make(core: &Core, declared: &AccountConfig, tenant: Option<TenantId>) -> Result<(), Failure> {
    let what = || format!("the account '{}' of the configuration cannot be made", declared.login);
    let accounts = &core.portolan.access.accounts;
    let new = |password: Secret| NewAccount {
        login: declared.login.clone(),
        password,
        role: declared.role,
        tenant,
        time_zone: None,
    };
    let caller = Caller::system();
    let made = match &declared.password {
        FirstSecret::File(file) => accounts.create(&caller, new(ask::first_line(file)?)).await,
        FirstSecret::Hash(hash) => accounts.create_hashed(&caller, new(Secret::default()), hash).await,
    };
    let made = made.or_fail(what)?;
    tracing::info!(account = %made.login, role = %made.role.name(), "an account of the configuration was made");
    Ok(())
}

async fn tenant_id(core: &Core, name: &str) -> Result<TenantId, Failure> {
    let what = || format!("the tenant '{name}' cannot be looked up");
    match named(core, name).await.or_fail(what)? {
        Some(tenant) => Ok(tenant.id),
        None => Err(Failure::new(what()).because(format!("there is no tenant '{name}'")).hint(format!(
            "declare it beside the account: [tenant.{name}] with external_id = \"\" or what the system in front calls it"
        ))),
    }
}
