//! A guest of QEMU: started, backed up while it writes, destroyed, restored, and booted again.

mod clients;
mod image;

use super::api::{Api, Figures, text};
use super::walk::{Say, blocking, machine};
use crate::config::Surroundings;
use crate::error::{Failure, OrFail};
use crate::output::{self, bytes_bar, spinner};
use crate::server::Server;
use clients::{Nodes, Operators};
use portolan_driver_qemu::{Programs, QemuSettings};
use portolan_model::Secret;
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How many steps this adds to the walk.
pub(super) const STEPS: u32 = 6;
/// The platform, as the configuration names it.
pub(super) const PLATFORM: &str = "drydock";
/// The host's directory, below that of the demo.
pub(super) const ROOT: &str = "qemu";
/// The guest's name, and its image.
const NAME: &str = "pilot01";
const IMAGE: &str = "demo";
/// How long a guest may take to boot, on a busy machine without help for virtual ones.
const BOOT: Duration = Duration::from_secs(120);
/// How often its console is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// What runs in the guest: it writes all the time, into the same few megabytes, and makes them last.
const WRITER: &str = "#!/bin/sh\n\
    (n=0; while :; do dd if=/dev/urandom of=/data/log$((n % 8)) bs=64k count=8 2>/dev/null; sync; n=$((n + 1)); \
    sleep 0.2; done) &\n";

/// Makes the host's directory with an image for the guest; or says in a line why there is none.
pub(super) async fn prepare(place: &Path, around: &Surroundings) -> Result<(), String> {
    let root = place.join(ROOT);
    Programs::find(&QemuSettings::new(root.clone())).await.map_err(|e| e.to_string())?;
    let image = match image::there(around) {
        Some(image) => image,
        None => {
            if let Some(why) = image::obstacle() {
                return Err(why);
            }
            output::line("  a small Linux guest is being made out of Debian packages; it is kept for the next time");
            image::make(around).await?
        }
    };
    let copied = tokio::task::spawn_blocking(move || {
        let images = root.join("images");
        std::fs::create_dir_all(&images)?;
        std::fs::copy(image, images.join(format!("{IMAGE}.qcow2")))
    });
    match copied.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) => Err(format!("its image cannot be copied: {e}")),
        Err(_) => Err("its image cannot be copied".into()),
    }
}

/// Walks through a guest's life.
pub(super) async fn run(
    say: &mut Say,
    server: &Server,
    api: &Api,
    place: &Path,
    password: &Secret,
    near: &str,
) -> Result<(), Failure> {
    let nodes = Nodes::new(server, password)?;
    let guests = place.join(ROOT).join("guests");

    let began = say.begin("start a guest of QEMU by way of the Orchestrator API; it begins to write at once");
    let id = nodes.start(NAME, IMAGE, WRITER).await?;
    booted(&guests.join(&id), 1).await?;
    api.sync().await?;
    let guest = machine(api, NAME).await?;
    say.done(began, &format!("{NAME} is ready, and a machine like the others"));

    let began = say.begin("full backup of it while it writes, by way of the vPlus API");
    let full = backup(api, &guest, "FULL", near).await?;
    say.frozen(began, &full.1);
    let began = say.begin("incremental backup of it, while it writes on");
    let increment = backup(api, &guest, "INCREMENTAL", near).await?;
    say.frozen(began, &increment.1);

    let began = say.begin("destroy it");
    nodes.stop(&id).await?;
    say.done(began, "it is gone, with its disk");

    let began = say.begin("restore it from its last backup");
    let bar = bytes_bar("restore");
    let chain = api.restore(&increment.0, NAME).await?;
    api.restored(&chain, &bar).await?;
    bar.finish_and_clear();
    let guest = machine(api, NAME).await?;
    say.done(began, "it is there again, off");

    let began = say.begin("boot it by way of the management API, until its agent answers");
    Operators::new(server, password)?.turn_on(&guest).await?;
    let id = only_guest(&guests)?;
    // It counts: the backup knows of the first one.
    booted(&guests.join(&id), 2).await?;
    let again = backup(api, &guest, "FULL", near).await?;
    if again.1.frozen_ms.is_none() {
        return Err(Failure::damage("the restored guest boots, but its agent does not freeze its file systems"));
    }
    say.done(began, "it counts its second boot; its agent has frozen it for one more backup");
    Ok(())
}

/// Ends what runs for guests below a demo's directory, for when the demo itself ends, however it does.
pub(super) fn end_all(place: &Path) {
    let entries = |dir: PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let root = place.join(ROOT);
    for dir in entries(root.join("guests")).chain(entries(root.join("imports"))) {
        for file in entries(dir.clone()).filter(|file| file.extension().is_some_and(|end| end == "pid")) {
            let number = std::fs::read_to_string(file).ok().and_then(|told| told.trim().parse().ok());
            let Some(pid) = number.and_then(Pid::from_raw) else { continue };
            // The number may be another's by now: ours work in that directory.
            let at = std::fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero()));
            if at.is_ok_and(|at| at.starts_with(&dir)) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

async fn backup(api: &Api, guest: &str, kind: &str, destination: &str) -> Result<(String, Figures), Failure> {
    let bar = bytes_bar("backup");
    let asked = api.export(&[guest.to_owned()], kind, destination).await?;
    let figures = api.stored(&asked, &bar).await?;
    bar.finish_and_clear();
    match (asked.into_iter().next(), figures.into_iter().next()) {
        (Some(asked), Some(figures)) => Ok((asked.backup, figures)),
        _ => Err(Failure::new("the backup of the guest is not known")),
    }
}

/// Waits until the guest's console says that it is ready, for so-manieth time.
async fn booted(guest: &Path, nth: u32) -> Result<(), Failure> {
    let console = guest.join("console.log");
    let ready = format!("GUEST-READY boots={nth} ");
    let wheel = spinner("boot");
    let waiting = async {
        loop {
            let (file, ready) = (console.clone(), ready.clone());
            let said = blocking(move || {
                let said = std::fs::read(file).unwrap_or_default();
                Ok(String::from_utf8_lossy(&said).contains(&ready))
            });
            if said.await? {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let outcome = tokio::time::timeout(BOOT, waiting).await;
    wheel.finish_and_clear();
    outcome.unwrap_or_else(|_| {
        let hint = format!("its console is in {}", console.display());
        Err(Failure::new(format!("the guest does not boot within {} s", BOOT.as_secs())).hint(hint))
    })
}

/// The only guest that there is.
fn only_guest(guests: &Path) -> Result<String, Failure> {
    let all = std::fs::read_dir(guests).or_fail(|| format!("{} cannot be read", guests.display()))?;
    let dirs: Vec<PathBuf> = all.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    let names = dirs.iter().filter_map(|path| path.file_name()?.to_str()).filter(|name| !name.starts_with('.'));
    match names.collect::<Vec<_>>().as_slice() {
        [one] => Ok((*one).to_owned()),
        many => Err(Failure::damage(format!("there are {} guests, not one", many.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    fn guest(place: &Path, name: &str, works_in: &Path) -> Child {
        let dir = place.join(ROOT).join("guests").join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let child = Command::new("sleep").arg("600").current_dir(works_in).spawn().unwrap();
        std::fs::write(dir.join("qemu.pid"), format!("{}\n", child.id())).unwrap();
        child
    }

    #[test]
    fn only_what_works_in_a_guests_directory_is_ended() {
        let place = tempfile::tempdir().unwrap();
        let own = place.path().join(ROOT).join("guests/own");
        std::fs::create_dir_all(&own).unwrap();
        let mut ours = guest(place.path(), "own", &own);
        let mut other = guest(place.path(), "other", place.path());
        end_all(place.path());
        let ended = ours.wait().unwrap();
        assert!(!ended.success());
        assert_eq!(other.try_wait().unwrap(), None, "it works elsewhere");
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn the_only_guest_is_found() {
        let guests = tempfile::tempdir().unwrap();
        assert!(only_guest(guests.path()).is_err());
        for name in [".gone", "i-1"] {
            std::fs::create_dir(guests.path().join(name)).unwrap();
        }
        assert_eq!(only_guest(guests.path()).unwrap(), "i-1");
        std::fs::create_dir(guests.path().join("i-2")).unwrap();
        assert!(only_guest(guests.path()).is_err());
    }
}
