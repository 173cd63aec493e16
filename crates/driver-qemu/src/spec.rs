//! What a guest is: the document `guest.json` in its directory.

use portolan_driver::Extra;
use portolan_model::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The version of the document.
pub const SPEC_VERSION: u32 = 1;

/// A guest, as its document says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuestSpec {
    /// [`SPEC_VERSION`]; a document of a newer version is not touched.
    pub version: u32,
    /// The native id: the name of the guest's directory.
    pub id: String,
    /// The name.
    pub name: String,
    /// What the guest's firmware says, and what its process is known by.
    pub uuid: Uuid,
    /// Tells it from guests that had this id before.
    pub incarnation: String,
    /// The token that it was made with; empty for none.
    #[serde(default)]
    pub token: String,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// QEMU's machine type.
    pub machine: String,
    /// The disks, the first to boot from.
    pub disks: Vec<DiskSpec>,
    /// The network cards.
    #[serde(default)]
    pub nics: Vec<NicSpec>,
    /// Whether there is a seed for cloud-init.
    #[serde(default)]
    pub seed: bool,
    /// Labels.
    #[serde(default)]
    pub tags: Vec<String>,
    /// What callers keep with it.
    #[serde(default)]
    pub metadata: Extra,
    /// Id of the image that it was made from.
    #[serde(default)]
    pub image: Option<String>,
    /// Id of the size that it was made in.
    #[serde(default)]
    pub size: Option<String>,
    /// How it came out of a backup, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instant: Option<InstantSpec>,
    /// Its snapshots, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<SnapshotSpec>,
    /// The snapshot that it is being reverted to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverting: Option<Reverting>,
    /// The move of its disks to another datastore that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving: Option<Moving>,
    /// How far its making is.
    pub phase: Phase,
    /// What was last asked for.
    pub desired: Desired,
    /// When it was made.
    pub created_at: Timestamp,
    /// How it came to stop, the last time it ran.
    #[serde(default)]
    pub last_stop: Option<StopRecord>,
    /// The import that made it, if one did.
    #[serde(default)]
    pub import: Option<ImportMark>,
}

/// The import that made a guest: so a repeated commit finds what it made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportMark {
    /// What named it.
    pub token: String,
    /// The attempt's fence.
    pub fence: i64,
}

/// How far the making of a guest is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Its disks are being made.
    Preparing,
    /// It is whole.
    Ready,
    /// Its disks could not be made, for this reason.
    Failed(String),
    /// It is being destroyed, and is not there any more for anybody.
    Deleting,
}

/// Whether a guest should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Desired {
    /// It should.
    Running,
    /// It should not.
    Stopped,
}

/// How a guest came to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRecord {
    /// When that was noticed.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

/// The format of a disk image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// The bytes as they are.
    Raw,
    /// QEMU's own.
    Qcow2,
}

impl ImageFormat {
    /// QEMU's word, which is also the files' ending.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// `d0`, `d1`, …: its serial number in the guest, and what its nodes in QEMU are called after.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// The datastore that it lies on.
    pub datastore: String,
    /// The file's name, in the guest's directory of that datastore.
    pub file: String,
    /// Virtual size in bytes.
    pub size_bytes: u64,
    /// Its format.
    pub format: ImageFormat,
    /// The image below it, and what is below that: files of the directory of images. Empty for a disk of its own.
    #[serde(default)]
    pub base: Vec<BaseFile>,
    /// The image that it is a copy of.
    #[serde(default)]
    pub copy_of: Vec<BaseFile>,
    /// How often it was moved while the guest ran: each time it got another node.
    #[serde(default, skip_serializing_if = "is_never")]
    pub moved: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands it so")]
fn is_never(times: &u32) -> bool {
    *times == 0
}

impl DiskSpec {
    /// The name of its node in QEMU. A node cannot be given another name: a disk that is moved gets a new one.
    pub(crate) fn node(&self) -> String {
        if self.moved == 0 { self.id.clone() } else { format!("{}-m{}", self.id, self.moved) }
    }

    /// Where its file is.
    pub(crate) fn placed(&self) -> Placed {
        Placed { datastore: self.datastore.clone(), file: self.file.clone() }
    }

    /// The disk as it is when it was brought to that datastore: while the guest runs, and so under another node.
    pub(crate) fn moved_to(&self, datastore: &str, runs: bool) -> Self {
        let moved = self.moved.wrapping_add(u32::from(runs));
        Self { datastore: datastore.to_owned(), moved, ..self.clone() }
    }
}

/// A move of a guest's disks to another datastore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving {
    /// What named it.
    pub token: String,
    /// The newest fence that was seen.
    pub fence: i64,
    /// The datastore that the disks are brought to. A disk that the document has there is there.
    pub datastore: String,
    /// How far it is.
    pub stage: MoveStage,
    /// Whether the guest's processors may be held, and must go on.
    #[serde(default)]
    pub go_on: bool,
    /// What is left of disks that have been moved, and is to be removed.
    #[serde(default)]
    pub left: Vec<Placed>,
}

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MoveStage {
    /// The disks are being copied; what is there of copies is of no use to anybody else.
    Copying,
    /// QEMU may have some disks in their new places already; the guest stands still until the document says which.
    Switching,
    /// All disks are in their new places. Files are left in the former ones.
    Switched,
}

/// A file in a guest's directory of a datastore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// The datastore.
    pub datastore: String,
    /// The file's name.
    pub file: String,
}

/// How a guest comes out of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstantSpec {
    /// The newest fence that was seen.
    pub fence: i64,
    /// It is a trial: nobody sees it, and it goes with who made it.
    #[serde(default)]
    pub isolated: bool,
    /// The ids of the disks whose data is still in the backup: each lies over an export of its id, on the socket
    /// `backup.sock`. Without any, the guest stands alone.
    #[serde(default)]
    pub remote: Vec<String>,
}

/// A snapshot of a guest: one within each of its disks, all by its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSpec {
    /// The id.
    pub id: String,
    /// The token that it was made with.
    pub token: String,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Whether the first disk holds the guest's memory.
    #[serde(default)]
    pub memory: bool,
    /// How far it is.
    pub phase: SnapshotPhase,
}

/// How far a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotPhase {
    /// Some disks may have it.
    Making,
    /// All disks have it.
    Ready,
    /// Some disks may have it no more.
    Deleting,
}

/// A way back that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reverting {
    /// The snapshot's id.
    pub snapshot: String,
    /// Whether the guest is started then.
    pub start: bool,
    /// The disks are what they were: what is left is to load the memory when it is started.
    #[serde(default)]
    pub load: bool,
}

impl GuestSpec {
    /// Whether it is a trial, which is in no listing.
    pub(crate) fn is_hidden(&self) -> bool {
        self.instant.as_ref().is_some_and(|instant| instant.isolated)
    }

    /// What it names that is part of paths.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let disks = self.disks.iter().flat_map(|disk| [&disk.id, &disk.datastore, &disk.file]);
        let left = self.moving.iter().flat_map(|moving| &moving.left).flat_map(|left| [&left.datastore, &left.file]);
        let datastore = self.moving.iter().map(|moving| &moving.datastore);
        disks.chain(left).chain(datastore).map(String::as_str)
    }

    /// Whether its disks are being moved, and are not all where they are to be.
    pub(crate) fn is_moving(&self) -> bool {
        self.moving.as_ref().is_some_and(|moving| moving.stage != MoveStage::Switched)
    }

    /// Whether any of its data is still in a backup.
    pub(crate) fn is_remote_at_all(&self) -> bool {
        self.instant.as_ref().is_some_and(|instant| !instant.remote.is_empty())
    }

    /// Whether the disk's data is still in a backup.
    pub(crate) fn is_remote(&self, disk: &str) -> bool {
        self.instant.as_ref().is_some_and(|instant| instant.remote.iter().any(|id| id == disk))
    }
}

/// A file that a disk was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseFile {
    /// Its name in the directory of images.
    pub file: String,
    /// Its format.
    pub format: ImageFormat,
    /// Its length in bytes, and when it was changed last, in nanoseconds of 1970: when either is another one, what
    /// lies over it makes no sense any more.
    pub length: u64,
    /// See `length`.
    pub modified_ns: i64,
}

/// How a network card is connected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NicMode {
    /// By QEMU, which plays the network: needs nothing and reaches out, and nothing reaches in.
    #[default]
    User,
    /// To a bridge of the host, by QEMU's bridge helper.
    Bridge,
    /// By a tap device that is there.
    Tap,
    /// Not at all: there is no card.
    None,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicSpec {
    /// Its hardware address.
    pub mac: String,
    /// How it is connected.
    pub mode: NicMode,
    /// The bridge or the tap device.
    #[serde(default)]
    pub link: Option<String>,
    /// Whether the network that QEMU plays is shut off from the host's.
    #[serde(default)]
    pub restrict: bool,
    /// Its name where the guest came from; empty for one that was made here.
    #[serde(default)]
    pub name: String,
}

/// The most disks and cards of a guest: a machine has so many places.
pub(crate) const MOST_DISKS: usize = 16;
pub(crate) const MOST_NICS: usize = 8;

/// Whether it is a hardware address that a card can have: of one card, not of a group.
pub(crate) fn is_mac(text: &str) -> bool {
    let parts: Vec<_> = text.split(':').map(|part| (part.len(), u8::from_str_radix(part, 16))).collect();
    let bytes: Vec<u8> = parts.iter().filter_map(|(len, byte)| byte.clone().ok().filter(|_| *len == 2)).collect();
    parts.len() == 6 && bytes.len() == 6 && bytes[0] & 1 == 0 && bytes.iter().any(|byte| *byte != 0)
}

/// A hardware address made of the guest's uuid: QEMU's prefix, and three bytes.
pub(crate) fn mac_of(uuid: Uuid, nth: usize) -> String {
    let bytes = uuid.as_bytes();
    let last = bytes[15].wrapping_add(u8::try_from(nth % 256).unwrap_or_default());
    format!("52:54:00:{:02x}:{:02x}:{last:02x}", bytes[13], bytes[14])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_cards_are_told_from_others() {
        assert!(is_mac("52:54:00:00:00:01") && is_mac("AA:BB:CC:DD:EE:FF"));
        for wrong in [
            "",
            "52:54:00:00:00",
            "52:54:00:00:00:01:02",
            "53:54:00:00:00:01",
            "5:54:00:00:00:001",
            "+1:+1:+1:+1:+1:+1",
            "00:00:00:00:00:00",
        ] {
            assert!(!is_mac(wrong), "{wrong}");
        }
    }
}
