//! What operators register while the server runs: platforms with their drivers, destinations with their stores.
//!
//! What stands in the configuration of the server (*declared*) is registered by the server itself at every start and
//! changed there only; everything here works on the rest, and shows both.

mod destinations;
mod error;
mod forget;
mod keys;
mod open;
mod platforms;
mod ports;
mod probe;
mod settings;

pub use destinations::{DestinationRequest, DestinationView};
pub use error::RegistryError;
pub use keys::{OpenedRepository, RepositoryPlan, key_owner};
pub use platforms::{PlatformRequest, PlatformView};
pub(crate) use ports::Nothing;
pub use ports::{
    BuiltDriver, DestinationDescription, DestinationFactory, DestinationSpec, DriverDescription, DriverFactory, Place,
    PlatformKind, PlatformSpec, SettingDescription,
};
pub use probe::{ProbeFailure, ProbeReport};

use portolan_access::Secrets;
use portolan_inventory::{Drivers, Inventory};
use portolan_model::caller::Denied;
use portolan_model::{Caller, Clock, IdSource, Privilege, Scope};
use portolan_protect::{Protect, Repositories};
use portolan_storage::{Storage, StorageExt};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use uuid::Uuid;

/// How long a platform or a destination may take to answer while an operator waits.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a unit is decided anew when others keep being faster.
const ROUNDS: u32 = 32;

/// The use cases of what operators register.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) secrets: Secrets,
    pub(crate) inventory: Inventory,
    pub(crate) protect: Protect,
    /// The drivers of this process.
    pub(crate) open: Drivers,
    pub(crate) repositories: Arc<Repositories>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdSource>,
    pub(crate) drivers: Arc<dyn DriverFactory>,
    pub(crate) places: Arc<dyn DestinationFactory>,
    /// Why what is stored could not be opened in this process, by id.
    pub(crate) problems: Mutex<BTreeMap<Uuid, String>>,
}

impl Registry {
    pub(crate) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// The drivers that platforms can be registered with.
    pub fn drivers(&self, caller: &Caller) -> Result<Vec<DriverDescription>, RegistryError> {
        caller.require(Privilege::InventoryRead)?;
        Ok(self.0.drivers.drivers())
    }

    /// The kinds of places that destinations can be registered with.
    pub fn destination_kinds(&self, caller: &Caller) -> Result<Vec<DestinationDescription>, RegistryError> {
        caller.require(Privilege::BackupRead)?;
        Ok(self.0.places.kinds())
    }
}

impl Inner {
    /// Awaits what an operator waits for.
    async fn bounded<T, E: Into<RegistryError>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, RegistryError> {
        match tokio::time::timeout(PATIENCE, work).await {
            Ok(done) => done.map_err(Into::into),
            Err(_) => Err(RegistryError::TimedOut(PATIENCE.as_secs())),
        }
    }

    fn note_problem(&self, id: Uuid, problem: Option<String>) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        match problem {
            Some(text) => problems.insert(id, text),
            None => problems.remove(&id),
        };
    }

    fn problem(&self, id: Uuid) -> Option<String> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// The secrets of a driver or place, by the names of its settings.
    async fn secrets_of(
        &self,
        described: &[SettingDescription],
        owner: impl Fn(&str) -> String,
    ) -> Result<BTreeMap<String, portolan_model::Secret>, RegistryError> {
        let mut secrets = BTreeMap::new();
        for setting in described.iter().filter(|d| d.secret) {
            if let Some(secret) = self.secrets.find(&owner(setting.name)).await? {
                secrets.insert(setting.name.to_owned(), secret);
            }
        }
        Ok(secrets)
    }

    /// Adds the forgetting of every secret whose owner begins with `prefix` to a unit.
    async fn without_secrets(
        &self,
        mut unit: portolan_storage::UnitOfWork,
        prefix: &str,
    ) -> Result<portolan_storage::UnitOfWork, RegistryError> {
        use portolan_model::query::Filter;
        use portolan_storage::{Query, Secured};
        let range = Filter::AtLeast("owner".into(), prefix.into())
            .and(Filter::Below("owner".into(), format!("{prefix}\u{7f}").into()));
        for secret in self.storage.list_of::<Secured>(Scope::All, Query::matching(range)).await?.items {
            // Sorting by a database's own rules may find more than what was asked for.
            if secret.owner.starts_with(prefix) {
                unit = unit.delete::<Secured>(secret.id);
            }
        }
        Ok(unit)
    }
}

/// Fails unless the caller may change what all tenants share.
fn operates(caller: &Caller) -> Result<(), RegistryError> {
    caller.require(Privilege::PlatformManage)?;
    match caller.scope {
        Scope::All => Ok(()),
        Scope::Tenant(_) => Err(Denied { privilege: Privilege::PlatformManage }.into()),
    }
}
