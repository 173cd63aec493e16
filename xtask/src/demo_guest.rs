//! `cargo xtask demo-guest`: a small Linux guest for demonstrations and tests, made of Debian packages on the spot.
//!
//! It boots by itself, says `GUEST-READY` on its serial line, runs the guest agent, has an ext4 file system at `/data`
//! and turns itself off when asked. Tests find it where `portolan_testkit::demo_guest` looks.

use crate::shell::{self, Result, Shell, XtaskError, output};
use crate::tools;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The size of the disk of the guest that tests boot.
pub(crate) const SIZE: &str = "2G";
const BUILD: &str = include_str!("demo_guest/build.sh");
const INIT: &str = include_str!("demo_guest/init.sh");

/// Makes the guest, unless it is there already, and says where it is. With `out`, a copy is put into that directory.
pub(crate) fn run(shell: &Shell, out: Option<&Path>, size: &str, install: bool) -> Result<()> {
    let began = Instant::now();
    let image = make(shell, size, install)?;
    let Some(out) = out else {
        println!("{} ({:.1} s)", image.display(), began.elapsed().as_secs_f64());
        return Ok(());
    };
    let file = |action, path: &Path| {
        let path = path.to_owned();
        move |source| XtaskError::File { action, path, source }
    };
    std::fs::create_dir_all(out).map_err(file("make", out))?;
    // The image lies beside the kernel and the first file system that it boots with.
    let real = image.canonicalize().map_err(file("find", &image))?;
    for name in ["demo-guest.qcow2", "vmlinuz", "initrd.img"] {
        let copy = out.join(name);
        std::fs::copy(real.with_file_name(name), &copy).map_err(file("write", &copy))?;
        println!("{}", copy.display());
    }
    Ok(())
}

/// Makes the guest in the cache, unless it is there already, and gives the image's path.
pub(crate) fn make(shell: &Shell, size: &str, install: bool) -> Result<PathBuf> {
    if size.is_empty() || !size.bytes().all(|b| b.is_ascii_digit() || b"KMG".contains(&b)) {
        return Err(XtaskError::Other(format!("'{size}' is no size: 2G, 512M")));
    }
    tools::need(shell, tools::GUEST, install)?;
    let cache = shell.cache.join("guest");
    let file = |path: &Path, source| XtaskError::File { action: "write", path: path.to_owned(), source };
    std::fs::create_dir_all(&cache).map_err(|e| file(&cache, e))?;
    // Named by process, so that two that build at once do not write into each other's script.
    let scripts = cache.join(format!(".scripts-{}", std::process::id()));
    std::fs::create_dir_all(&scripts).map_err(|e| file(&scripts, e))?;
    let (build, init) = (scripts.join("build.sh"), scripts.join("init.sh"));
    let written = std::fs::write(&build, BUILD).and_then(|()| std::fs::write(&init, INIT));
    let made = written.map_err(|e| file(&scripts, e)).and_then(|()| {
        let mut command = shell.command("bash");
        command.arg(&build).arg(&cache).arg(size).arg(&init);
        println!("$ {}", shell::shown(&command));
        output(&mut command)
    });
    let _ = std::fs::remove_dir_all(&scripts);
    let told = String::from_utf8_lossy(&made?).into_owned();
    told.lines()
        .last()
        .map(PathBuf::from)
        .filter(|image| image.is_file())
        .ok_or_else(|| XtaskError::Other("the guest was not made".into()))
}
