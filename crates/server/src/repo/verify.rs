//! `portolan repo verify`.

use super::{At, Bar};
use crate::cli::Depth;
use crate::core::system;
use crate::error::{Failure, OrFail};
use crate::output;
use portolan_model::RecoveryPointId;
use portolan_repository::{BackupRepository, VerifyDepth, VerifyReport, VerifyScope, verify_packs};

pub(super) async fn run(at: &At, depth: Depth, points: Vec<uuid::Uuid>, as_json: bool) -> Result<(), Failure> {
    let bar = Bar(output::bytes_bar("verifying"));
    let failed = || "the check could not be finished".to_owned();
    let report = if depth == Depth::Pack && at.key.is_none() {
        if !points.is_empty() {
            return Err(
                Failure::usage("which packs a point needs is encrypted").hint("leave --point out, or give a key")
            );
        }
        let (clock, _) = system();
        verify_packs(&at.objects().await?, &*clock, &bar).await.or_fail(failed)?
    } else {
        let repository = at.open().await?;
        let scope = match points.is_empty() {
            true => VerifyScope::All,
            false => VerifyScope::Points(points.into_iter().map(RecoveryPointId::from_uuid).collect()),
        };
        let depth = match depth {
            Depth::Structure => VerifyDepth::Structure,
            Depth::Pack => VerifyDepth::Pack,
            Depth::Data => VerifyDepth::Data,
        };
        repository.verify(scope, depth, &bar).await.or_fail(failed)?
    };
    bar.0.finish_and_clear();
    if as_json {
        output::json(&report)?;
    } else {
        print(&report);
    }
    match report.damage.len() {
        0 => Ok(()),
        n => Err(Failure::damage(format!("{n} places are damaged"))
            .hint("points that need none of them can be restored; `portolan repo list` shows the points")),
    }
}

fn print(report: &VerifyReport) {
    let seconds = report.took.as_secs_f64();
    let rate = if seconds > 0.0 { report.read_bytes as f64 / seconds } else { 0.0 };
    output::line(format!(
        "{} points, {} disks, {} chunks; {} read in {seconds:.1} s ({}/s)",
        report.points,
        report.disks,
        report.chunks,
        output::bytes(report.read_bytes),
        output::bytes(rate as u64),
    ));
    for d in &report.damage {
        let point = d.point.map(|p| format!(" point {p}")).unwrap_or_default();
        let disk = d.disk.as_ref().map(|disk| format!(" disk '{disk}'")).unwrap_or_default();
        let range = d.range.as_ref().map(|r| format!(" bytes {}..{}", r.start, r.end)).unwrap_or_default();
        output::line(format!("damaged: {} ({}){point}{disk}{range}", d.what, d.object));
    }
    if report.damage.is_empty() {
        output::line("no damage");
    }
    if report.marked > 0 {
        output::line(format!(
            "{} packs are marked as damaged: the next backups store anew what they still have of them",
            report.marked
        ));
    }
}
