//! The figures of the dashboard (section 11).

use super::Ref;
use super::inventory::{Destination, destination};
use portolan::{BackupFigures, Protection};
use portolan_model::{BackupDestination, Node};
use serde::Serialize;
use utoipa::ToSchema;

/// How many protected entities are protected, by kind. Portolan protects machines only.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Protection)]
pub(crate) struct ProtectionByKind {
    all_entities: ProtectionOf,
    vm: ProtectionOf,
    app: ProtectionOf,
    storage: ProtectionOf,
    cloud: ProtectionOf,
    cloud_user: ProtectionOf,
    cloud_site: ProtectionOf,
    cloud_group: ProtectionOf,
    endpoints: ProtectionOf,
}

/// How many entities of one kind are protected.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProtectionOf {
    protected_no: u64,
    not_protected: u64,
    no_schedule: u64,
}

/// Protection on the wire.
pub(crate) fn protection(p: Protection) -> ProtectionByKind {
    let none = ProtectionOf::default();
    let vm = ProtectionOf { protected_no: p.protected, not_protected: p.unprotected, no_schedule: p.unscheduled };
    ProtectionByKind {
        all_entities: vm,
        vm,
        app: none,
        storage: none,
        cloud: none,
        cloud_user: none,
        cloud_site: none,
        cloud_group: none,
        endpoints: none,
    }
}

/// What became of the backups of the last 24 hours.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BackupStats {
    successful: u64,
    failed: u64,
    in_progress: u64,
    queued: u64,
    /// What the successful ones read, for people: `1.2 GiB`.
    total_data: String,
}

/// Backup figures on the wire.
pub(crate) fn stats(figures: BackupFigures) -> BackupStats {
    BackupStats {
        successful: figures.successful,
        failed: figures.failed,
        in_progress: figures.in_progress,
        queued: figures.queued,
        total_data: for_people(figures.bytes),
    }
}

/// How full a node's staging space is, in bytes.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeSpace {
    node: Ref,
    total_space: u64,
    available_space: u64,
}

/// A node's staging space on the wire.
pub(crate) fn space(node: &Node) -> NodeSpace {
    NodeSpace {
        node: Ref::new(node.id, node.name.to_string()),
        total_space: node.staging_total_bytes,
        available_space: node.staging_total_bytes.saturating_sub(node.staging_used_bytes),
    }
}

/// How full the destinations are, in bytes.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DestinationStats {
    total_used_space: u64,
    total_available_space: u64,
    backup_destinations: Vec<Destination>,
}

/// The destinations' figures on the wire.
pub(crate) fn destinations<'a>(all: impl Iterator<Item = &'a BackupDestination> + Clone) -> DestinationStats {
    let sum = |of: fn(&BackupDestination) -> u64| all.clone().map(of).fold(0, u64::saturating_add);
    DestinationStats {
        total_used_space: sum(|d| d.logical_bytes),
        total_available_space: sum(|d| d.free_bytes),
        backup_destinations: all.clone().map(destination).collect(),
    }
}

/// `1.2 GiB`
fn for_people(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        // What would be rounded up to 1024.0 is shown in the next unit.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_the_fitting_unit() {
        let told: Vec<String> =
            [0, 1023, 1024, 1536, 1_048_575, 1_288_490_189, u64::MAX].into_iter().map(for_people).collect();
        assert_eq!(told, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "1.2 GiB", "16.0 EiB"]);
    }
}
