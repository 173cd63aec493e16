//! A guest's disks in the hands of `qemu-img`: each alone, without what lies below it.

use crate::QemuError;
use crate::command::text;
use crate::guest::Guest;
use crate::programs::run;
use crate::spec::DiskSpec;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::process::Command;

impl Guest {
    /// What `qemu-img` knows of a disk, also while the guest runs.
    pub(crate) async fn disk_info(&self, disk: &DiskSpec, limit: Duration) -> Result<Value, QemuError> {
        let told = self.qemu_img(&["info", "--output=json", "--force-share"], disk, &[], limit).await?;
        serde_json::from_str(&told).map_err(|e| QemuError::Program(format!("qemu-img says what it should not: {e}")))
    }

    /// Runs `qemu-img` on a disk, whose name stands between these words.
    pub(crate) async fn qemu_img(
        &self,
        before: &[&str],
        disk: &DiskSpec,
        after: &[&str],
        limit: Duration,
    ) -> Result<String, QemuError> {
        let mut command = Command::new(&self.shared.programs.qemu_img);
        command.args(before).arg(self.alone(disk)).args(after);
        run(&mut command, limit).await
    }

    /// The disk in QEMU's words. Bitmaps and snapshots have nothing to do with what lies below, and nothing is left to
    /// the disk's header.
    fn alone(&self, disk: &DiskSpec) -> String {
        let path = self.shared.layout.file(self.id(), &disk.placed());
        let file = json!({ "driver": "file", "filename": text(&path) });
        format!("json:{}", json!({ "driver": disk.format.name(), "backing": null, "file": file }))
    }
}
