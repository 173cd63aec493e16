//! What QEMU tells of its block layer: nodes and jobs.

use crate::QemuError;
use crate::qmp::{Qmp, QmpEvent};
use portolan_driver::HomeProgress;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::TryRecvError;

/// QEMU's nodes by their names. QEMU 10.0 dies of the question while a `block-stream` is ending.
pub(crate) async fn nodes(qmp: &Qmp) -> Result<BTreeMap<String, Value>, QemuError> {
    let told = qmp.execute("query-named-block-nodes", Some(json!({ "flat": true }))).await?;
    let all = told.as_array().cloned().unwrap_or_default();
    Ok(all.into_iter().filter_map(|node| Some((node["node-name"].as_str()?.to_owned(), node))).collect())
}

/// Removes a node that nobody uses. Fine where there is none.
pub(crate) async fn remove_node(qmp: &Qmp, name: &str) -> Result<(), QemuError> {
    if nodes(qmp).await?.contains_key(name) {
        qmp.execute("blockdev-del", Some(json!({ "node-name": name }))).await?;
    }
    Ok(())
}

/// The jobs that there are.
pub(crate) struct Jobs(Value);

impl Jobs {
    /// Asks for them.
    pub(crate) async fn query(qmp: &Qmp) -> Result<Self, QemuError> {
        Ok(Self(qmp.execute("query-jobs", None).await?))
    }

    /// The job of that id: how it is, `running`, `paused`, `ready`, and how far.
    pub(crate) fn get(&self, id: &str) -> Option<(&str, HomeProgress)> {
        let job = self.0.as_array().into_iter().flatten().find(|job| job["id"] == id)?;
        let number = |key: &str| job[key].as_u64().unwrap_or(0);
        let so_far = HomeProgress { done: number("current-progress"), total: number("total-progress") };
        Some((job["status"].as_str().unwrap_or_default(), so_far))
    }
}

/// How much of a disk of `size` bytes that is.
pub(crate) fn part(so_far: HomeProgress, size: u64) -> u64 {
    if so_far.total == 0 {
        return 0;
    }
    let share = u128::from(so_far.done.min(so_far.total)) * u128::from(size) / u128::from(so_far.total);
    u64::try_from(share).unwrap_or(size)
}

/// What QEMU last said of a job that failed.
pub(crate) fn failure(events: &mut broadcast::Receiver<QmpEvent>) -> Option<String> {
    let mut last = None;
    loop {
        match events.try_recv() {
            Ok(event) if event.name == "BLOCK_JOB_COMPLETED" => {
                last = event.data["error"].as_str().map(str::to_owned).or(last);
            }
            Ok(_) | Err(TryRecvError::Lagged(_)) => {}
            Err(_) => return last,
        }
    }
}

/// Makes what was written to a node durable. QEMU has no command of its own for this, short of holding the guest up.
pub(crate) async fn flush(qmp: &Qmp, node: &str) -> Result<(), QemuError> {
    let said = qmp.execute("human-monitor-command", Some(json!({ "command-line": format!("qemu-io {node} flush") })));
    match said.await?.as_str().map(str::trim) {
        Some("") => Ok(()),
        other => Err(QemuError::Conflict(format!("a disk cannot be flushed: {}", other.unwrap_or_default()))),
    }
}
