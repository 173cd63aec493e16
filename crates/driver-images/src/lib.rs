//! A hypervisor over a directory of raw and qcow2 disk images.
//!
//! The tree is `<root>/<cluster>/<host>/<datastore>/<machine>/<disk>.{raw,qcow2}`. Native ids are the paths below
//! the root, disks are known by their file names. A file `vm.json` beside the images may describe the machine (see
//! [`VmFile`]). What begins with a dot is hidden, and so is `lost+found`.
//!
//! * **Nothing leaves the root.** Symbolic links and backing files are followed only to places under it; whatever
//!   leads out is refused by name.
//! * **A machine's incarnation** is a random id in the file `.portolan-id` in its directory, written when the
//!   machine is first seen, and durable before it is reported. It survives restarts, renames of the root and copies
//!   of the whole tree; a machine that is deleted and made again gets another. Where the directory is not writable,
//!   the directory's inode number and time of birth stand in for it.
//! * **The moment of an export.** The images are taken as they are, as is right for stopped machines. After each
//!   read the driver looks whether any image of the session, backing files included, changed since the session was
//!   opened (inode, size, times of modification and of change); if so, the read fails with
//!   [`portolan_block::BlockError::Changed`], so that a backup fails rather than being torn.
//! * **Imports** are written to a hidden directory in the datastore, and renamed into place at the commit.

mod image;
mod import;
mod inventory;
mod meta;
mod qcow2;
mod source;
mod staging;
mod tree;

pub use meta::{ImportMark, VmFile};

use async_trait::async_trait;
use portolan_block::BlockError;
use portolan_driver::{
    AbandonedExport, Capabilities, Changes, DriverError, ExportRequest, ExportSession, Exported, ExportedDisk,
    Hypervisor, ImportRequest, ImportSession, Inventory, NativeDisk,
};
use portolan_model::{Consistency, IdSource};
use source::{ImageSource, Moment};
use std::path::PathBuf;
use std::sync::Arc;
use tree::Tree;

/// A hypervisor over a directory. Holds no state of its own: any number of processes may work on one directory.
#[derive(Debug, Clone)]
pub struct ImagesHypervisor {
    root: PathBuf,
    ids: Arc<dyn IdSource>,
}

impl ImagesHypervisor {
    /// A driver over `root`, which need not be there yet: every call looks anew, and fails with
    /// [`DriverError::NotFound`] while it is missing. `ids` makes incarnations.
    pub fn new(root: PathBuf, ids: Arc<dyn IdSource>) -> Self {
        Self { root, ids }
    }

    /// Runs file system work where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(Tree, Arc<dyn IdSource>) -> Result<T, DriverError> + Send + 'static,
    ) -> Result<T, DriverError> {
        let (root, ids) = (self.root.clone(), self.ids.clone());
        run_blocking(move || work(Tree::open(&root)?, ids)).await
    }
}

/// Runs `work` on a thread that may block. A panic in it, which only an image that misleads the reader could
/// cause, is an error of that call.
pub(crate) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DriverError> + Send + 'static,
) -> Result<T, DriverError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(DriverError::Malformed("reading the directory failed midway".into())),
    }
}

#[async_trait]
impl Hypervisor for ImagesHypervisor {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            changed_blocks: false,
            live_export: false,
            import: true,
            power: false,
            ..Capabilities::default()
        }
    }

    async fn inventory(&self) -> Result<Inventory, DriverError> {
        self.blocking(|tree, ids| inventory::list(&tree, &*ids)).await
    }

    async fn open_export(&self, request: ExportRequest) -> Result<Box<dyn ExportSession>, DriverError> {
        let session = self.blocking(move |tree, ids| open_export(&tree, &*ids, &request)).await?;
        Ok(Box::new(session))
    }

    async fn abandon_export(&self, _: AbandonedExport) -> Result<(), DriverError> {
        // A session holds open files and nothing else.
        Ok(())
    }

    async fn begin_import(&self, request: ImportRequest) -> Result<Box<dyn ImportSession>, DriverError> {
        let session = self.blocking(move |tree, ids| import::begin(tree, ids, request)).await?;
        Ok(Box::new(session))
    }
}

fn open_export(tree: &Tree, ids: &dyn IdSource, request: &ExportRequest) -> Result<Export, DriverError> {
    let missing = || DriverError::NotFound { what: "virtual machine", id: request.vm.clone() };
    let path = tree::parse_id(&request.vm, 4).ok_or_else(missing)?;
    let described = inventory::describe(tree, ids, &path)?.ok_or_else(missing)?;
    let vm = described.vm;
    if vm.incarnation != request.incarnation {
        return Err(missing());
    }
    let disks: Vec<&NativeDisk> = match &request.disks {
        None => vm.disks.iter().filter(|disk| disk.supported).collect(),
        Some(wanted) => {
            if let Some(id) = wanted.iter().find(|id| !vm.disks.iter().any(|disk| disk.native_id == **id)) {
                return Err(DriverError::NotFound { what: "disk", id: id.clone() });
            }
            vm.disks.iter().filter(|disk| wanted.contains(&disk.native_id)).collect()
        }
    };
    let mut opened = Vec::new();
    for disk in disks {
        opened.push((disk.clone(), image::open(tree, &path.join(&disk.native_id))?));
    }
    let moment = Arc::new(Moment::new(opened.iter().flat_map(|(_, image)| image.files.clone()).collect()));
    let disks = opened
        .into_iter()
        .map(|(disk, image)| ExportedDisk {
            native_id: disk.native_id,
            name: disk.name,
            source: Arc::new(ImageSource::new(image, moment.clone())),
            changes: Changes::Unknown,
        })
        .collect();
    // The tables were read while the images were opened: they, too, must be of this moment.
    moment.check().map_err(DriverError::Block)?;
    let exported = Exported {
        vm,
        disks,
        moment: moment.text(),
        checkpoint: None,
        // Images of stopped machines have nothing to be brought to rest.
        consistency: Consistency::NotApplicable,
        frozen: None,
        notes: Vec::new(),
    };
    Ok(Export { exported, moment })
}

struct Export {
    exported: Exported,
    moment: Arc<Moment>,
}

#[async_trait]
impl ExportSession for Export {
    fn exported(&self) -> &Exported {
        &self.exported
    }

    /// Holds nothing, so there is nothing to let go of; it looks once more whether the images stood still.
    async fn release(&self, _keep_checkpoint: bool) -> Result<(), DriverError> {
        let moment = self.moment.clone();
        run_blocking(move || {
            moment.check().map_err(|error| match error {
                BlockError::Changed(what) => {
                    DriverError::Conflict(format!("the disk changed while it was read: {what}"))
                }
                other => DriverError::Block(other),
            })
        })
        .await
    }
}
