//! `portolan repo list`.

use super::At;
use crate::error::{Failure, OrFail};
use crate::output;
use portolan_repository::PointManifest;
use serde_json::json;

pub(super) async fn run(at: &At, as_json: bool) -> Result<(), Failure> {
    let repository = at.open().await?;
    let (points, damage) = repository.readable_points().await.or_fail(|| "the points cannot be listed".into())?;
    if as_json {
        output::json(&json!({ "points": points, "damage": damage }))?;
    } else {
        let rows: Vec<Vec<String>> = points.iter().map(row).collect();
        output::line(output::table(
            &["POINT", "MACHINE", "TAKEN", "TYPE", "DISKS", "SIZE", "READ", "ADDED"],
            &[5, 6, 7],
            &rows,
        ));
        for d in &damage {
            output::note(format!("damaged: {} ({})", d.what, d.object));
        }
    }
    if damage.is_empty() { Ok(()) } else { Err(Failure::damage(format!("{} objects are damaged", damage.len()))) }
}

fn row(point: &PointManifest) -> Vec<String> {
    let sum = |get: fn(&portolan_repository::DiskStats) -> u64| {
        output::bytes(point.disks.iter().map(|d| get(&d.stats)).sum())
    };
    vec![
        point.id.to_string(),
        point.meta.vm_name.clone(),
        point.meta.snapshot_time.to_rfc3339(),
        point.meta.backup_type.clone(),
        point.disks.iter().map(|d| d.name.as_str()).collect::<Vec<_>>().join(","),
        sum(|s| s.size_bytes),
        sum(|s| s.read_bytes),
        sum(|s| s.stored_bytes),
    ]
}
