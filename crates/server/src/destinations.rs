//! Backup destinations: each is opened with its own key, which is sealed in the database before the repository is
//! made, so that a crash at any point leaves a repository that opens or none.

use crate::config::{Config, DestinationConfig};
use crate::core::Core;
use crate::data_dir::{DataDir, write_private};
use crate::error::{Failure, OrFail};
use crate::keyfile;
use portolan::registry::{OpenedRepository, RegistryError, RepositoryPlan};
use portolan_model::query::Filter;
use portolan_model::{BackupDestination, BackupDestinationId, Caller, Name, Scope};
use portolan_protect::NewDestination;
use portolan_repository::{
    BackupRepository, LocalObjects, RecoveryKey, RepoError, Repository, RepositoryEnv, RepositoryKey,
};
use portolan_storage::{StorageExt, StoreError, UnitOfWork};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name of the destination that is there when nobody configures one.
pub const BUILT_IN: &str = "local";

/// A destination that is open.
#[derive(Debug)]
pub struct Opened {
    /// Its id.
    pub id: BackupDestinationId,
    /// Its name.
    pub name: String,
    /// The file with the recovery key, where it was written just now.
    pub recovery_file: Option<PathBuf>,
}

/// The configured destinations, and the built-in one where nothing is configured or something lies in it already.
pub fn planned(config: &Config, data: &DataDir) -> Vec<DestinationConfig> {
    let mut out = config.destinations.clone();
    let path = data.join("repository");
    let free = !out.iter().any(|d| d.name == BUILT_IN || d.path == path);
    if free && (out.is_empty() || path.exists()) {
        let default = !out.iter().any(|d| d.default);
        out.push(DestinationConfig { name: BUILT_IN.into(), path, default, recovery_key_file: None });
    }
    // Somebody who configures one destination means that one.
    if let [only] = out.as_mut_slice() {
        only.default = true;
    }
    out
}

/// Opens a destination's repository, making it when it has never been made, and registers it.
///
/// # Errors
/// When the repository is gone, belongs to somebody else, or cannot be reached. Nothing is made in the place of a
/// repository that was there before: its file system may just not be mounted.
pub async fn open(core: &Core, data: &DataDir, plan: &DestinationConfig) -> Result<Opened, Failure> {
    let what = || cannot_open(plan);
    let registry = &core.portolan.registry;
    if registry.repository_was_made(&plan.name).await.or_fail(what)? && !has_repository(&plan.path) {
        return Err(Failure::new(format!("{}: its repository is gone from {}", what(), plan.path.display()))
            .hint("is the file system mounted? Nothing was made in its place"));
    }
    let env = RepositoryEnv { clock: core.clock.clone(), ids: core.ids.clone() };
    let objects = open_objects(&plan.path).await.map_err(|e| Failure::new(what()).because(e))?;
    let opened = open_or_adopt(core, &objects, plan).await?;
    let mut recovery_file = None;
    if !opened.recoverable {
        let file = data.join(&format!("recovery-key-{}.txt", plan.name));
        let adopted = plan.recovery_key_file.is_some() && opened.fresh.is_none();
        if !adopted && !opens(&file, &objects, &env).await {
            let recovery = match opened.fresh {
                Some(recovery) => recovery,
                // A crash came between the repository and the file: that recovery key was never seen by anybody.
                None => opened.repository.add_recovery_slot().await.or_fail(what)?,
            };
            let id = opened.repository.describe().await.or_fail(what)?.id;
            write_private(&file, recovery_text(&plan.name, &plan.path, id, &recovery).as_bytes())
                .or_fail(|| format!("the recovery key cannot be written to {}", file.display()))?;
            recovery_file = Some(file);
        }
        registry.note_recoverable(&plan.name).await.or_fail(what)?;
    }
    let new = NewDestination {
        id: opened.id,
        name: Name::lossy(&plan.name, BUILT_IN),
        description: String::new(),
        kind: "local".into(),
        url: plan.path.display().to_string(),
        default: plan.default,
    };
    let registered = core.portolan.protect.register_destination(&Caller::system(), new, opened.repository).await;
    let destination = registered.or_fail(what)?;
    Ok(Opened { id: destination.id, name: plan.name.clone(), recovery_file })
}

/// Leaves the default where an operator has put it, unless the configuration itself names one.
///
/// # Errors
/// When the destinations cannot be read.
pub async fn heed_default(core: &Core, config: &Config, plans: &mut [DestinationConfig]) -> Result<(), Failure> {
    if config.destinations.iter().any(|d| d.default) {
        return Ok(());
    }
    let query = portolan_storage::Query::matching(Filter::eq("is_default", true));
    let found = core.storage.list_of::<BackupDestination>(Scope::All, query).await;
    let found = found.or_fail(|| "the destinations cannot be read from the database".into())?.items;
    let same = |plan: &DestinationConfig, d: &BackupDestination| d.name.as_str().eq_ignore_ascii_case(&plan.name);
    // One that stood in the configuration and no longer does has no say.
    let chosen = found.iter().find(|d| !d.declared || plans.iter().any(|plan| same(plan, d)));
    if let Some(chosen) = chosen {
        for plan in plans {
            plan.default = same(plan, chosen);
        }
    }
    Ok(())
}

/// Takes the mark of the default from every other destination: one that is no longer configured must not keep it.
/// Failing is logged; the next start tries again.
pub async fn settle_default(core: &Core, name: &str) {
    let settle = async {
        let query = portolan_storage::Query::matching(Filter::eq("is_default", true));
        for other in core.storage.list_of::<BackupDestination>(Scope::All, query).await?.items {
            if !other.name.as_str().eq_ignore_ascii_case(name) {
                let now = core.portolan.now();
                let unmark = |d: &mut BackupDestination| {
                    d.default.then(|| {
                        d.default = false;
                        UnitOfWork::new()
                    })
                };
                core.storage.change::<BackupDestination, _>(now, Scope::All, other.id, unmark).await?;
            }
        }
        Ok::<_, StoreError>(())
    };
    if let Err(error) = settle.await {
        tracing::warn!(error = %crate::error::OneLine(&error), "destinations could not be compared");
    }
}

fn cannot_open(plan: &DestinationConfig) -> String {
    format!("the destination '{}' cannot be opened", plan.name)
}

async fn open_or_adopt(
    core: &Core,
    objects: &LocalObjects,
    plan: &DestinationConfig,
) -> Result<OpenedRepository, Failure> {
    let attempt = async |recovery: Option<&RepositoryKey>| {
        let objects = Arc::new(objects.clone());
        let make = plan.recovery_key_file.is_none();
        core.portolan.registry.open_repository(RepositoryPlan { name: &plan.name, objects, make, recovery }).await
    };
    let failed = |e: RegistryError| Failure::new(cannot_open(plan)).because(e);
    match (attempt(None).await, &plan.recovery_key_file) {
        (Ok(opened), _) => Ok(opened),
        (Err(RegistryError::Repository(RepoError::WrongKey)), Some(file)) => {
            let recovery = keyfile::recovery(file)?;
            attempt(Some(&recovery)).await.map_err(failed)
        }
        (Err(e @ RegistryError::Repository(RepoError::WrongKey)), None) => {
            let hint = format!(
                "the repository in {} was made by another installation: give its recovery key with \
                 destination.{}.recovery_key_file, or choose an empty directory",
                plan.path.display(),
                plan.name
            );
            Err(failed(e).hint(hint))
        }
        (Err(e), _) => Err(failed(e)),
    }
}

/// Whether a repository's config, or the copy of it, is there.
pub fn has_repository(path: &Path) -> bool {
    ["config", "config.copy"].iter().any(|name| path.join(name).exists())
}

/// Opens the store in a directory, making it with its parents when it is missing.
pub async fn open_objects(path: &Path) -> Result<LocalObjects, Failure> {
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || {
        use std::os::unix::fs::DirBuilderExt;
        if !path.exists() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .or_fail(|| format!("the directory {} cannot be made", path.display()))?;
            if let Some(parent) = path.parent() {
                crate::data_dir::sync_dir(parent).or_fail(|| format!("{} cannot be written", parent.display()))?;
            }
        }
        LocalObjects::open(&path).or_fail(|| format!("the repository's directory {} cannot be used", path.display()))
    });
    opened.await.unwrap_or_else(|e| Err(Failure::new("a worker failed").because(e)))
}

/// Whether the recovery key in `file` opens the repository: it was written before a crash.
async fn opens(file: &Path, objects: &LocalObjects, env: &RepositoryEnv) -> bool {
    match keyfile::recovery(file) {
        Ok(key) => Repository::open(Arc::new(objects.clone()), env.clone(), &key).await.is_ok(),
        Err(_) => false,
    }
}

fn recovery_text(name: &str, path: &Path, id: uuid::Uuid, key: &RecoveryKey) -> String {
    format!(
        "# Recovery key of the backup repository '{name}' ({id})\n\
         # at {}\n\
         # Whoever has it can read every backup there, and without it a lost data directory means lost backups:\n\
         # keep it elsewhere, and remove this file. Lines with # are ignored.\n\
         # portolan repo list --repository DIR --recovery-key-file FILE\n\
         {}\n",
        path.display(),
        key.reveal().as_str()
    )
}
