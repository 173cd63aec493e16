//! The image that the demo's guest is made of: the one that `cargo xtask demo-guest` keeps, or one made on the spot.

use crate::config::Surroundings;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// What makes it, as `cargo xtask demo-guest` does.
const BUILD: &str = include_str!("../../../../../xtask/src/demo_guest/build.sh");
const INIT: &str = include_str!("../../../../../xtask/src/demo_guest/init.sh");
/// What that needs, beside what every Debian has.
const TOOLS: [&str; 9] = ["apt-get", "busybox", "cpio", "syslinux", "mcopy", "mkfs.fat", "mke2fs", "sfdisk", "objdump"];
/// How large its disk is.
const SIZE: &str = "2G";
/// How long making it may take; a quarter of a minute is usual, and most of that is downloads.
const LIMIT: Duration = Duration::from_secs(180);

/// The image that is there.
pub(super) fn there(around: &Surroundings) -> Option<PathBuf> {
    let named = around.get("PORTOLAN_DEMO_GUEST").map(PathBuf::from);
    Some(named.unwrap_or_else(|| cache(around).join("demo-guest.qcow2"))).filter(|image| image.is_file())
}

/// Why none can be made here, if so.
pub(super) fn obstacle() -> Option<String> {
    let places: Vec<PathBuf> = std::env::split_paths(&path()).collect();
    let missing = TOOLS.iter().filter(|tool| !places.iter().any(|place| place.join(tool).is_file()));
    let missing: Vec<&str> = missing.copied().collect();
    (!missing.is_empty()).then(|| {
        format!(
            "there is no image for it, and {} to make one: see `cargo xtask demo-guest --install`",
            match missing.as_slice() {
                [one] => format!("'{one}' is missing"),
                many => format!("{} are missing", many.join(", ")),
            }
        )
    })
}

/// Makes it, in the cache.
pub(super) async fn make(around: &Surroundings) -> Result<PathBuf, String> {
    let cache = cache(around);
    // Named by process, so that two that build at once do not write into each other's script.
    let scripts = cache.join(format!(".scripts-{}", std::process::id()));
    let made = run(&cache, &scripts).await;
    let _ = std::fs::remove_dir_all(&scripts);
    made.map_err(|why| format!("its image could not be made: {why}"))
}

async fn run(cache: &Path, scripts: &Path) -> Result<PathBuf, String> {
    let (build, init) = (scripts.join("build.sh"), scripts.join("init.sh"));
    let written = std::fs::create_dir_all(scripts)
        .and_then(|()| std::fs::write(&build, BUILD))
        .and_then(|()| std::fs::write(&init, INIT));
    written.map_err(|e| format!("{} cannot be written: {e}", scripts.display()))?;
    let mut command = Command::new("bash");
    command.arg(&build).arg(cache).arg(SIZE).arg(&init).env("PATH", path()).stdin(Stdio::null()).kill_on_drop(true);
    let done = tokio::time::timeout(LIMIT, command.output()).await;
    let done = done.map_err(|_| format!("it takes longer than {} s", LIMIT.as_secs()))?.map_err(|e| e.to_string())?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().lines().last().unwrap_or_default().to_owned();
    let image = PathBuf::from(said(&done.stdout));
    match done.status.success() && image.is_file() {
        true => Ok(image),
        false => Err(said(&done.stderr)),
    }
}

fn cache(around: &Surroundings) -> PathBuf {
    let named = |name: &str| around.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = named("PORTOLAN_CACHE")
        .or_else(|| named("XDG_CACHE_HOME").map(|dir| dir.join("portolan")))
        .unwrap_or_else(|| named("HOME").unwrap_or_else(std::env::temp_dir).join(".cache/portolan"));
    cache.join("guest")
}

/// Where programs are; those for administrators, too, which ordinary users may run as well.
fn path() -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_looked_for_where_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let around = |variables: &[(&str, String)]| Surroundings {
            variables: variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        };
        let home = around(&[("HOME", text(dir.path().to_owned()))]);
        assert_eq!(there(&home), None);
        let kept = dir.path().join(".cache/portolan/guest/demo-guest.qcow2");
        std::fs::create_dir_all(kept.parent().unwrap()).unwrap();
        std::fs::write(&kept, "an image").unwrap();
        assert_eq!(there(&home), Some(kept.clone()));
        assert_eq!(there(&around(&[("PORTOLAN_CACHE", text(dir.path().join(".cache/portolan")))])), Some(kept.clone()));
        // What is named counts, also when it is not there.
        let home = text(dir.path().to_owned());
        assert_eq!(there(&around(&[("HOME", home), ("PORTOLAN_DEMO_GUEST", text(dir.path().join("none")))])), None);
    }
}
