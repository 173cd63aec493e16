//! The C library's allocator, told to give memory back after a backup.
//!
//! By default it keeps an arena for nearly every thread, and raises its own thresholds after each large buffer that
//! was freed: a server that has once taken a backup would hold hundreds of megabytes for ever. It reads its settings
//! from the environment when a process begins, and there only; so the process begins anew, with the same number.

use crate::cli::{Cli, Command};
use std::os::unix::process::CommandExt;

/// Few arenas; buffers of a megabyte and more are mapped by themselves, and the ends of arenas are returned.
/// Measured on backups and restores of some hundred megabytes: as fast as without, at a fifth of what stays behind.
const SETTINGS: [(&str, &str); 3] =
    [("MALLOC_ARENA_MAX", "2"), ("MALLOC_MMAP_THRESHOLD_", "1048576"), ("MALLOC_TRIM_THRESHOLD_", "4194304")];

/// Begins the process anew with the settings, for commands that run for long. Does nothing where the environment
/// has settings already, or where another allocator is in use. Call it first, and from `main` only.
pub fn settle(cli: &Cli) {
    let long = matches!(cli.command, Command::Serve(_) | Command::Demo(_));
    let mut names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    let settled = names.any(|name| name.starts_with("MALLOC_") || name == "GLIBC_TUNABLES");
    if !long || settled || !cfg!(all(target_os = "linux", target_env = "gnu")) {
        return;
    }
    let mut arguments = std::env::args_os();
    if let (Ok(program), Some(name)) = (std::env::current_exe(), arguments.next()) {
        // Returns only when it fails: a program file that was replaced meanwhile, say. Then all stays as it is.
        let _ = std::process::Command::new(program).arg0(name).args(arguments).envs(SETTINGS).exec();
    }
}
