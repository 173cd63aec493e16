//! Checkpoints: dirty bitmaps that QEMU keeps in a disk's file.

use super::PREFIX;
use super::record::{self, Checkpoints, Record};
use crate::guest::Guest;
use crate::layout::is_plain;
use crate::spec::{DiskSpec, ImageFormat};
use portolan_driver::{DriverError, ExportRequest};
use serde_json::Value;

/// A bitmap of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bitmap {
    pub(super) name: String,
    /// Why nobody can rely on it.
    pub(super) wrong: Option<&'static str>,
}

const IN_USE: &str = "QEMU was killed or crashed, and did not write down what changed";
/// QEMU keeps bitmaps in memory, and writes them when it ends.
const GONE: &str = "the record of what changed since the last backup is gone: QEMU was killed or crashed before it wrote \
                    it down, or somebody removed it";
const DISABLED: &str = "the record of changes was switched off";

/// Only this format has a place for bitmaps.
pub(super) fn can_have(disk: &DiskSpec) -> bool {
    disk.format == ImageFormat::Qcow2
}

/// Those of a node, as `query-named-block-nodes` tells of them.
pub(super) fn of_node(node: &Value) -> Vec<Bitmap> {
    let all = node["dirty-bitmaps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let bitmap = |told: &Value| {
        let wrong = if told["inconsistent"].as_bool() == Some(true) {
            Some(IN_USE)
        } else if told["recording"].as_bool() != Some(true) {
            Some(DISABLED)
        } else {
            None
        };
        Some(Bitmap { name: told["name"].as_str()?.to_owned(), wrong })
    };
    all.iter().filter_map(bitmap).collect()
}

/// Those of a file, as `qemu-img info` tells of them.
pub(super) fn of_file(info: &Value) -> Vec<Bitmap> {
    let all = info["format-specific"]["data"]["bitmaps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let bitmap = |told: &Value| {
        let has = |flag: &str| told["flags"].as_array().is_some_and(|flags| flags.iter().any(|one| one == flag));
        let wrong = if has("in-use") {
            Some(IN_USE)
        } else if !has("auto") {
            Some(DISABLED)
        } else {
            None
        };
        Some(Bitmap { name: told["name"].as_str()?.to_owned(), wrong })
    };
    all.iter().filter_map(bitmap).collect()
}

/// Why the checkpoint says nothing about that disk, in words for people.
pub(super) fn why_lost(since: &str, disk: &DiskSpec, there: &[Bitmap], known: &Checkpoints) -> Option<String> {
    if !since.starts_with(PREFIX) || !is_plain(since) {
        return Some("the last backup's checkpoint is none of this driver".into());
    }
    let found = there.iter().find(|bitmap| bitmap.name == since);
    let sizes = known.get(since);
    match (found, sizes.map(|sizes| sizes.get(&disk.id))) {
        (_, Some(None)) => Some("the disk was added after the last backup".into()),
        (None, Some(Some(_))) => Some(GONE.into()),
        (None, _) => Some("the disk has no record of what changed since the last backup".into()),
        (Some(Bitmap { wrong: Some(why), .. }), _) => Some((*why).to_owned()),
        (Some(_), None) => Some("the size of the disk at the last backup is not known".into()),
        (Some(_), Some(Some(size))) if *size != disk.size_bytes => {
            Some(format!("the disk was resized from {size} to {} bytes after the last backup", disk.size_bytes))
        }
        _ => None,
    }
}

/// Whether a bitmap is a checkpoint that nobody will ask for.
pub(super) fn is_spare(name: &str, own: Option<&str>, request: &ExportRequest) -> bool {
    name.starts_with(PREFIX)
        && own != Some(name)
        && request.since.as_deref() != Some(name)
        && !request.keep.iter().any(|kept| kept == name)
}

/// Writes down the sizes of the disks at the new checkpoint, and forgets those that are spare.
pub(super) async fn note(guest: &Guest, record: &Record, request: &ExportRequest) -> Result<(), DriverError> {
    let Some(own) = &record.checkpoint else { return Ok(()) };
    let spec = guest.spec();
    let sizes = spec.disks.iter().filter(|disk| can_have(disk) && record.disks.iter().any(|one| one.id == disk.id));
    let mut known = record::checkpoints(guest).await?;
    known.retain(|id, _| !is_spare(id, Some(own), request));
    known.insert(own.clone(), sizes.map(|disk| (disk.id.clone(), disk.size_bytes)).collect());
    record::write_checkpoints(guest, &known).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_lost_has_a_reason() {
        let disk = DiskSpec {
            id: "d0".into(),
            name: "root".into(),
            datastore: "default".into(),
            file: "d0.qcow2".into(),
            size_bytes: 4096,
            format: ImageFormat::Qcow2,
            base: Vec::new(),
            copy_of: Vec::new(),
            moved: 0,
        };
        let node = json!({ "dirty-bitmaps": [
            { "name": "portolan-a", "recording": true, "persistent": true, "busy": false },
            { "name": "portolan-b", "recording": false, "persistent": true, "inconsistent": true },
            { "name": "portolan-c", "recording": false, "persistent": true },
            { "recording": true },
        ] });
        let file = json!({ "format-specific": { "data": { "bitmaps": [
            { "name": "portolan-a", "flags": ["auto"] },
            { "name": "portolan-b", "flags": ["in-use", "auto"] },
            { "name": "portolan-c", "flags": [] },
        ] } } });
        assert_eq!(of_node(&node), of_file(&file));
        assert!(of_node(&json!({})).is_empty() && of_file(&json!({})).is_empty());
        let sizes = |id: &str, size: u64| [(id.to_owned(), size)].into_iter().collect();
        let known: Checkpoints = ["a", "b", "c"].iter().map(|n| (format!("portolan-{n}"), sizes("d0", 4096))).collect();
        let why = |since: &str, known: &Checkpoints| why_lost(since, &disk, &of_node(&node), known).unwrap_or_default();
        assert_eq!(why("portolan-a", &known), "");
        assert!(why("portolan-b", &known).contains("killed"));
        assert!(why("portolan-c", &known).contains("switched off"));
        assert!(why("portolan-d", &known).contains("no record"));
        assert!(why("theirs", &known).contains("none of this driver"));
        let other = |id: &str, size| [("portolan-a".to_owned(), sizes(id, size))].into_iter().collect();
        assert!(why("portolan-a", &other("d0", 512)).contains("resized from 512"));
        assert!(why("portolan-a", &other("d1", 4096)).contains("added"));
        let known = [("portolan-d".to_owned(), sizes("d0", 4096))].into_iter().collect();
        assert!(why("portolan-d", &known).contains("gone"));
        assert!(why("portolan-a", &Checkpoints::new()).contains("not known"));
    }
}
