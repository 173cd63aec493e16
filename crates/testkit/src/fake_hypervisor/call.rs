//! The fake's points of failure, and its log.

use std::ops::Range;

/// A point where the fake can be made to fail or to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Call {
    /// [`portolan_driver::Hypervisor::inventory`].
    Inventory,
    /// [`portolan_driver::Hypervisor::open_export`].
    OpenExport,
    /// [`portolan_block::BlockSource::extents`] of an exported disk.
    Extents,
    /// [`portolan_block::BlockSource::read_at`] of an exported disk, once for each range.
    Read,
    /// [`portolan_driver::ExportSession::release`], before it lets go.
    Release,
    /// [`portolan_driver::Hypervisor::begin_import`].
    BeginImport,
    /// [`portolan_driver::ImportSession::disk`].
    Disk,
    /// [`portolan_block::BlockSink::write_at`] and [`portolan_block::BlockSink::zero`] of a disk that is being imported.
    Write,
    /// [`portolan_block::BlockSink::flush`] of a disk that is being imported.
    Flush,
    /// [`portolan_driver::ImportSession::commit`], before it did anything.
    Commit,
    /// [`portolan_driver::ImportSession::commit`], after the machine is there: the answer gets lost.
    Committed,
    /// [`portolan_driver::ImportSession::abort`].
    Abort,
    /// [`portolan_driver::Hypervisor::power`].
    Power,
    /// [`portolan_driver::Hypervisor::create_snapshot`], [`portolan_driver::Hypervisor::revert_snapshot`], [`portolan_driver::Hypervisor::delete_snapshot`].
    Snapshot,
    /// [`portolan_driver::Hypervisor::begin_instant`].
    BeginInstant,
    /// [`portolan_driver::InstantSession::bring_home`], before each piece that is read.
    BringHome,
    /// [`portolan_driver::InstantSession::ready`].
    Ready,
    /// [`portolan_driver::Hypervisor::move_machine`], before each disk, and before the machine is switched over.
    Move,
}

/// One read of an exported disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadLog {
    /// The machine's native id.
    pub vm: String,
    /// The disk's native id.
    pub disk: String,
    /// Which bytes.
    pub range: Range<u64>,
}
