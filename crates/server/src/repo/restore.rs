//! `portolan repo restore`.

use super::{At, Bar, FileSink};
use crate::error::{Failure, OrFail};
use crate::output;
use portolan_model::RecoveryPointId;
use portolan_repository::{BackupRepository, PointManifest, RepoError, Repository, copy_disk};
use std::path::{Path, PathBuf};

/// Where disks are written to.
pub(super) enum Target {
    /// One disk, to this file.
    File(PathBuf),
    /// Disks by their names, to this directory.
    Directory(PathBuf),
}

pub(super) async fn run(
    at: &At,
    point: uuid::Uuid,
    disk: Option<&str>,
    target: Target,
    force: bool,
) -> Result<(), Failure> {
    let repository = at.open().await?;
    let point = repository.point(RecoveryPointId::from_uuid(point)).await.map_err(|e| match e {
        e @ RepoError::NotFound { .. } => {
            Failure::new("there is no such point").because(e).hint("`portolan repo list` shows the points")
        }
        e => damaged(Failure::new("the point cannot be read"), e),
    })?;
    let disks = chosen(&point, disk, &target)?;
    if let Target::Directory(directory) = &target {
        std::fs::create_dir_all(directory)
            .or_fail(|| format!("the directory {} cannot be made", directory.display()))?;
    }
    let files: Vec<(String, PathBuf)> = disks
        .into_iter()
        .map(|name| {
            let file = match &target {
                Target::File(file) => file.clone(),
                Target::Directory(directory) => directory.join(format!("{}.raw", file_name(&name))),
            };
            (name, file)
        })
        .collect();
    // Before hours of work, not after.
    for (_, file) in &files {
        if !force && std::fs::symlink_metadata(file).is_ok() {
            return Err(Failure::new(format!("{} is there already", file.display()))
                .hint("remove it, write elsewhere, or overwrite it with --force"));
        }
    }
    for (name, file) in files {
        restore(&repository, &point, &name, &file, force).await?;
    }
    Ok(())
}

fn chosen(point: &PointManifest, disk: Option<&str>, target: &Target) -> Result<Vec<String>, Failure> {
    let names: Vec<String> = point.disks.iter().map(|d| d.name.clone()).collect();
    let list = names.join(", ");
    match (disk, target) {
        (Some(disk), _) if names.iter().any(|n| n == disk) => Ok(vec![disk.to_owned()]),
        (Some(disk), _) => Err(Failure::new(format!("the point has no disk '{disk}'")).hint(format!("it has: {list}"))),
        (None, Target::File(_)) if names.len() != 1 => {
            Err(Failure::usage("the point has several disks, and one file to write was named")
                .hint(format!("choose with --disk one of: {list}; or write all with --output-dir")))
        }
        (None, _) => Ok(names),
    }
}

async fn restore(
    repository: &Repository,
    point: &PointManifest,
    name: &str,
    file: &Path,
    force: bool,
) -> Result<(), Failure> {
    let what = || format!("the disk '{name}' cannot be restored to {}", file.display());
    let source = repository.open_disk(point.id, name).await.map_err(|e| damaged(Failure::new(what()), e))?;
    let sink = FileSink::create(file, source.size()).or_fail(what)?;
    let bar = Bar(output::bytes_bar(name));
    let written = match copy_disk(&*source, &sink, &bar).await {
        Ok(written) => written,
        Err(e) => {
            bar.0.abandon();
            return Err(damaged(Failure::new(what()), e));
        }
    };
    bar.0.finish_and_clear();
    sink.publish(force).or_fail(what)?;
    output::line(format!(
        "{name}: {} of data on a disk of {}, in {}",
        output::bytes(written),
        output::bytes(source.size()),
        file.display()
    ));
    Ok(())
}

/// Damage has an exit code of its own.
fn damaged(failure: Failure, error: RepoError) -> Failure {
    let corrupt = matches!(error, RepoError::Corrupt { .. } | RepoError::Source { .. });
    let failure = failure.because(error);
    if corrupt { Failure { code: crate::error::DAMAGE, ..failure } } else { failure }
}

/// A disk's name as the name of a file.
fn file_name(disk: &str) -> String {
    let plain: String = disk.chars().map(|c| if c == '/' || c.is_control() { '_' } else { c }).collect();
    if plain.starts_with('.') { format!("_{plain}") } else { plain }
}

#[cfg(test)]
mod tests {
    use super::file_name;

    #[test]
    fn disk_names_cannot_leave_the_directory() {
        assert_eq!(file_name("root"), "root");
        assert_eq!(file_name("../../etc/passwd"), "_.._.._etc_passwd");
        assert_eq!(file_name(".."), "_..");
    }
}
