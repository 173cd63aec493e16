//! QEMU guests that Portolan itself owns: it makes, starts, watches and destroys them, over QEMU's machine protocol
//! and the guest agent. See `docs/drivers/qemu.md`.
//!
//! * [`QemuHost`] is a directory of images, guests and disks. QEMU's processes outlive Portolan; the next one takes
//!   them over. A lock on each guest's directory sees to it that no two do.
//! * [`QemuCloud`] is the host as a [`portolan_driver::CloudDriver`], [`QemuHypervisor`] as a
//!   [`portolan_driver::Hypervisor`].
//! * [`Qmp`] and [`Qga`] are the two protocols.
//!
//! Guests, and images, are not trusted: what they say is bounded, and an image that names a file outside of the
//! directory of images is refused before QEMU sees it.

mod accel;
mod block;
mod cloud;
mod command;
mod daemon;
mod disk;
mod error;
mod export;
#[cfg(test)]
mod fixture;
mod guest;
mod host;
mod hypervisor;
mod image;
mod import;
mod instant;
mod layout;
mod moving;
mod power;
mod process;
mod programs;
mod qga;
mod qmp;
mod seed;
mod settings;
mod snapshot;
mod spec;
mod wire;

pub use accel::{Accel, PROBE_LIMIT};
pub use cloud::{QemuCloud, USER_DATA};
pub use error::QemuError;
pub use guest::{AgentSession, Guest, GuestState, Observed};
pub use host::{NewGuest, QemuHost, Seen};
pub use hypervisor::QemuHypervisor;
pub use layout::DEFAULT_DATASTORE;
pub use programs::{OLDEST, Programs};
pub use qga::{ExecResult, FreezeStatus, GuestAddress, GuestInterface, MOST_OUTPUT, Qga, QgaError, ShutdownMode};
pub use qmp::{BlockCounters, BlockStats, QemuVersion, Qmp, QmpError, QmpEvent, RunStatus};
pub use settings::{AccelSetting, DiskMode, QemuSettings, SizeSetting};
pub use spec::{
    BaseFile, Desired, DiskSpec, GuestSpec, ImageFormat, ImportMark, InstantSpec, MoveStage, Moving, NicMode, NicSpec,
    Phase, Placed, Reverting, SPEC_VERSION, SnapshotPhase, SnapshotSpec, StopRecord,
};
