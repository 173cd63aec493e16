//! Secrets at rest: sealed by the master key, bound to their row and owner.

use crate::ROUNDS;
use crate::error::AccessError;
use crate::seal::Sealer;
use crate::vault::Vault;
use portolan_model::{Caller, Clock, CredentialId, IdSource, Privilege, Scope, Secret};
use portolan_storage::{Conflict, Secured, Storage, StorageExt, StoreError, UnitOfWork};
use std::fmt;
use std::sync::Arc;

/// The purpose that stored secrets are sealed for.
pub(crate) const PURPOSE: &str = "secret";
/// An owner's text is no longer than this many bytes.
const MAX_OWNER: usize = 200;

/// Keeps secrets by owner, such as `destination:<id>:key`.
#[derive(Clone)]
pub struct Secrets {
    storage: Arc<dyn Storage>,
    sealer: Arc<Sealer>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").field("sealer", &self.sealer).finish_non_exhaustive()
    }
}

impl Secrets {
    /// Secrets in `storage`, sealed by the vault's key.
    pub fn new(storage: Arc<dyn Storage>, vault: &Vault, clock: Arc<dyn Clock>, ids: Arc<dyn IdSource>) -> Self {
        Self { storage, sealer: Arc::new(vault.sealer(PURPOSE)), clock, ids }
    }

    /// Keeps a secret; takes the place of the owner's former one.
    pub async fn put(&self, owner: &str, secret: &Secret) -> Result<(), AccessError> {
        for _ in 0..ROUNDS {
            let unit = self.put_in(UnitOfWork::new(), owner, secret).await?;
            match self.storage.apply(self.clock.now(), Scope::All, unit).await {
                // Somebody else has put or removed it at the same time.
                Err(StoreError::Conflict(Conflict::Version { .. } | Conflict::Taken { .. })) => {}
                other => return other.map(drop).map_err(Into::into),
            }
        }
        Err(AccessError::Conflict("the secret is being changed by others".into()))
    }

    /// The owner's secret; `NotFound` without one, `Damaged` when its row was tampered with.
    pub async fn get(&self, owner: &str) -> Result<Secret, AccessError> {
        self.find(owner).await?.ok_or(AccessError::NotFound { what: "secret" })
    }

    /// The owner's secret, if there is one.
    pub async fn find(&self, owner: &str) -> Result<Option<Secret>, AccessError> {
        match self.storage.find_by_key::<Secured>(Scope::All, &key(owner)?).await? {
            Some(stored) => open(&self.sealer, &stored).map(Some),
            None => Ok(None),
        }
    }

    /// Forgets the owner's secret; one that is not there is fine.
    pub async fn remove(&self, owner: &str) -> Result<(), AccessError> {
        let unit = self.remove_in(UnitOfWork::new(), owner).await?;
        if !unit.change.is_empty() {
            self.storage.apply(self.clock.now(), Scope::All, unit).await?;
        }
        Ok(())
    }

    /// Adds the keeping of a secret to a unit, so that it comes with the object that it belongs to. The unit must
    /// be applied in `Scope::All`, and fails with a conflict when the secret is changed before.
    pub async fn put_in(&self, unit: UnitOfWork, owner: &str, secret: &Secret) -> Result<UnitOfWork, AccessError> {
        let present = self.storage.find_by_key::<Secured>(Scope::All, &key(owner)?).await?;
        let id = present.as_ref().map_or_else(|| CredentialId::from_uuid(self.ids.uuid()), |stored| stored.id);
        let sealed = self.sealer.seal(self.ids.as_ref(), id.uuid(), owner, secret.reveal().as_bytes());
        let sealed = sealed.map_err(|e| AccessError::Internal(e.to_string()))?;
        Ok(match present {
            Some(mut stored) => {
                stored.sealed = sealed;
                unit.update(&stored)
            }
            None => unit.create(&Secured { id, owner: owner.to_owned(), sealed }),
        })
    }

    /// Adds the forgetting of a secret to a unit. The unit must be applied in `Scope::All`.
    pub async fn remove_in(&self, unit: UnitOfWork, owner: &str) -> Result<UnitOfWork, AccessError> {
        let present = self.storage.find_by_key::<Secured>(Scope::All, &key(owner)?).await?;
        Ok(match present {
            Some(stored) => unit.delete::<Secured>(stored.id),
            None => unit,
        })
    }

    /// The owner's secret for somebody who asks for it in the open: takes the privilege `SecretRead` over all
    /// tenants, and leaves an audit event before it answers.
    pub async fn disclose(&self, caller: &Caller, owner: &str) -> Result<Secret, AccessError> {
        caller.require(Privilege::SecretRead)?;
        if caller.scope != Scope::All {
            return Err(AccessError::NotFound { what: "secret" });
        }
        let stored = self.storage.find_by_key::<Secured>(Scope::All, &key(owner)?).await?;
        let stored = stored.ok_or(AccessError::NotFound { what: "secret" })?;
        let secret = open(&self.sealer, &stored)?;
        let data = serde_json::json!({ "owner": owner });
        let unit = UnitOfWork::new().event_by(&caller.login, "secret.disclosed", None, stored.id.uuid(), data);
        self.storage.apply(self.clock.now(), Scope::All, unit).await?;
        Ok(secret)
    }
}

/// Opens a stored secret.
pub(crate) fn open(sealer: &Sealer, secured: &Secured) -> Result<Secret, AccessError> {
    let damaged = || AccessError::Damaged { owner: secured.owner.clone() };
    let plain = sealer.open(secured.id.uuid(), &secured.owner, &secured.sealed).map_err(|_| damaged())?;
    std::str::from_utf8(&plain).map(Secret::new).map_err(|_| damaged())
}

/// The unique key of an owner's secret.
fn key(owner: &str) -> Result<String, AccessError> {
    let plain = !owner.is_empty() && owner.len() <= MAX_OWNER && owner.bytes().all(|b| b.is_ascii_graphic());
    if plain {
        Ok(format!("secured:{owner}"))
    } else {
        Err(AccessError::Invalid("a secret needs a plain owner".into()))
    }
}
