//! Running programs, and where things are.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// Why a task of this program failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum XtaskError {
    /// A program ended badly; it has said why itself.
    #[error("'{command}' failed: {status}")]
    Failed { command: String, status: ExitStatus },
    /// A program could not be started.
    #[error("cannot run '{command}'")]
    Spawn {
        command: String,
        #[source]
        source: io::Error,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {path}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Something needed is not on this machine.
    #[error("{0}")]
    Missing(String),
    /// A program's output made no sense.
    #[error("unexpected output of {0}")]
    Output(&'static str, #[source] Box<dyn std::error::Error>),
    /// Rules of the source tree are broken; they have been printed.
    #[error("{0} rules are broken")]
    Broken(usize),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

pub(crate) type Result<T> = std::result::Result<T, XtaskError>;

/// Where the workspace is, and what its programs are started with.
#[derive(Debug, Clone)]
pub(crate) struct Shell {
    /// The workspace.
    pub(crate) root: PathBuf,
    /// What cargo builds into.
    pub(crate) target: PathBuf,
    /// Tools that this program installs, kept from run to run.
    pub(crate) cache: PathBuf,
    path: OsString,
}

impl Shell {
    pub(crate) fn new() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default();
        let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let home = var("HOME").unwrap_or_else(|| PathBuf::from("/tmp"));
        let cache = var("PORTOLAN_CACHE")
            .or_else(|| var("XDG_CACHE_HOME").map(|dir| dir.join("portolan")))
            .unwrap_or_else(|| home.join(".cache/portolan"));
        let target = var("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
        let mut places = vec![cache.join("tools/bin")];
        places.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        // Debian keeps servers where a user's PATH does not look.
        places.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
        let path = std::env::join_paths(places).map_err(|e| XtaskError::Other(format!("PATH is malformed: {e}")))?;
        Ok(Self { root, target, cache, path })
    }

    /// A program, to be run in the workspace.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).env("PATH", &self.path).stdin(Stdio::null());
        command
    }

    /// `cargo` with these arguments. Options of the cargo that runs this program do not carry over.
    pub(crate) fn cargo<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = self.command("cargo");
        for (name, _) in std::env::vars_os() {
            // These describe the package `xtask`, and would make build scripts of others run again.
            if name.to_str().is_some_and(|n| n.starts_with("CARGO_PKG_") || n.starts_with("CARGO_MANIFEST_")) {
                command.env_remove(name);
            }
        }
        command.args(args);
        command
    }

    /// Where a program is, if it is installed.
    pub(crate) fn find(&self, program: &str) -> Option<PathBuf> {
        std::env::split_paths(&self.path).map(|dir| dir.join(program)).find(|file| file.is_file())
    }

    /// A program of this workspace, once it is built.
    pub(crate) fn built(&self, profile: &str, name: &str) -> PathBuf {
        self.target.join(profile).join(name)
    }
}

/// What a command is, for people.
pub(crate) fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Says what is run, runs it, and fails unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    println!("$ {}", shown(command));
    let status = command.status().map_err(|source| XtaskError::Spawn { command: shown(command), source })?;
    if status.success() { Ok(()) } else { Err(XtaskError::Failed { command: shown(command), status }) }
}

/// Runs it and gives what it printed; its complaints go through.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let done = command.stderr(Stdio::inherit()).output();
    let done = done.map_err(|source| XtaskError::Spawn { command: shown(command), source })?;
    if done.status.success() {
        Ok(done.stdout)
    } else {
        Err(XtaskError::Failed { command: shown(command), status: done.status })
    }
}

/// Reads a text file.
pub(crate) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| XtaskError::File { action: "read", path: path.to_owned(), source })
}
