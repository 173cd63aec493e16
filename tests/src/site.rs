//! An installation in a directory of its own.

use crate::images::Disk;
use crate::server::Server;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// The `portolan` binary: `PORTOLAN_BIN`, else the one that was built with this program.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("PORTOLAN_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().expect("this program's own path");
    // `target/debug/deps/e2e-…` and `target/debug/portolan-lab`.
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join("portolan")).find(|path| path.is_file());
    found.expect("the server is not built: run `cargo build --workspace` first, or set PORTOLAN_BIN")
}

/// A directory with a data directory, disk images, and a configuration file that can be changed between starts.
pub struct Site {
    dir: TempDir,
    /// Every key that the configuration file sets, as TOML values.
    keys: BTreeMap<String, String>,
    /// Whom the server and the commands run as, where that is somebody else than who runs the tests.
    user: Option<User>,
}

/// Somebody without privileges, and a copy of the binary that they can reach.
struct User {
    id: u32,
    binary: PathBuf,
}

/// The user that is nobody on every Linux.
const NOBODY: u32 = 65_534;

/// What a command that ran to its end said.
#[derive(Debug)]
pub struct Said {
    /// Its exit code; nothing when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Site {
    /// The built-in defaults, but ports that the system chooses.
    pub fn empty() -> Self {
        let dir = tempfile::Builder::new().prefix("portolan-e2e-").tempdir().unwrap();
        let mut site = Self { dir, keys: BTreeMap::new(), user: None };
        site.set("data_dir", "data");
        site.set("listeners.vplus.addresses", "127.0.0.1:0");
        site.set("listeners.orchestrator.addresses", "127.0.0.1:0");
        site.set("listeners.management.addresses", "127.0.0.1:0");
        site
    }

    /// A platform `lab` over disk images, with the directories for one datastore, and short leases.
    pub fn new() -> Self {
        let mut site = Self::empty();
        std::fs::create_dir_all(site.datastore()).unwrap();
        site.set("platform.lab.driver", "images");
        site.set("platform.lab.root", "vms");
        site.set("tasks.lease", "5s");
        site
    }

    /// A site like [`Site::new`] whose server is bound by what files permit: run by root, the tests have it run as
    /// nobody, who owns everything in [`Site::dir`] from each start of the server on.
    pub fn unprivileged() -> Self {
        let mut site = Self::new();
        if rustix::process::geteuid().is_root() {
            // Where the tests are built is root's own as a rule.
            let copy = site.dir().join("portolan");
            std::fs::copy(binary(), &copy).unwrap();
            site.user = Some(User { id: NOBODY, binary: copy });
        }
        site
    }

    /// A site whose state is in this database.
    pub fn on(url: &str) -> Self {
        let mut site = Self::new();
        site.set("database.url", url);
        site
    }

    /// Sets a key of the configuration file, for the next start: a text, `true` or `false`.
    pub fn set(&mut self, key: &str, value: &str) {
        let bare = matches!(value, "true" | "false");
        self.keys.insert(key.to_owned(), if bare { value.to_owned() } else { toml_text(value) });
    }

    /// Removes a key again.
    pub fn unset(&mut self, key: &str) {
        self.keys.remove(key);
    }

    /// Where everything is.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.dir().join("data")
    }

    /// The default repository.
    pub fn repository(&self) -> PathBuf {
        self.data().join("repository")
    }

    /// The file that the first start wrote the default repository's recovery key to.
    pub fn recovery_key(&self) -> PathBuf {
        let files = std::fs::read_dir(self.data()).unwrap().map(|entry| entry.unwrap().path());
        let mut keys = files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("recovery-key"));
        keys.next().expect("the first start wrote the recovery key")
    }

    /// The images platform's root.
    pub fn root(&self) -> PathBuf {
        self.dir().join("vms")
    }

    /// The platform's one datastore.
    pub fn datastore(&self) -> PathBuf {
        self.root().join("cluster/host/store")
    }

    /// Makes a machine with these disks.
    pub fn machine(&self, name: &str, disks: &[(&str, &Disk)]) {
        let dir = self.datastore().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        for (file, disk) in disks {
            disk.write(&dir.join(file));
        }
    }

    /// `portolan` with these arguments in surroundings of its own.
    pub fn command(&self, args: &[&str]) -> Command {
        self.wrapped(self.binary(), args)
    }

    fn binary(&self) -> PathBuf {
        self.user.as_ref().map_or_else(binary, |user| user.binary.clone())
    }

    fn wrapped(&self, program: impl AsRef<OsStr>, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.dir()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("PORTOLAN") || name.starts_with("XDG_") || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        command.env("HOME", self.dir()).env("PORTOLAN_ADMIN_PASSWORD", crate::PASSWORD);
        if let Some(User { id, .. }) = self.user {
            command.uid(id).gid(id);
        }
        command
    }

    /// Runs `portolan` with these arguments to its end.
    pub fn run(&self, args: &[&str]) -> Said {
        self.command(args).output().expect("the binary can be started").into()
    }

    /// The arguments of `serve`, with a configuration file of the present keys.
    pub fn serve_args(&self) -> Vec<String> {
        let mut text = String::new();
        for (key, value) in &self.keys {
            let _ = writeln!(text, "{key} = {value}");
        }
        let file = self.dir().join("portolan.toml");
        std::fs::write(&file, text).unwrap();
        vec!["serve".into(), "--config".into(), file.display().to_string()]
    }

    /// Starts the server, which must end by itself, and soon.
    pub fn refuses_to_serve(&self) -> Said {
        let args = self.serve_args();
        let mut command = self.command(&[]);
        // Stopped from outside where it does start, so that the test says so instead of waiting.
        let mut bounded = Command::new("timeout");
        bounded.args(["-s", "KILL", "60"]).arg(command.get_program()).args(&args);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => bounded.env(name, value),
                None => bounded.env_remove(name),
            };
        }
        command = bounded;
        let said = Said::from(command.current_dir(self.dir()).stdin(Stdio::null()).output().unwrap());
        assert!(said.code.is_some_and(|code| code != 0 && code != 137), "the server should not have started: {said:?}");
        said
    }

    /// Starts the server and waits until it is ready.
    ///
    /// # Panics
    /// When it ends instead, with what it said.
    pub async fn start(&self) -> Server {
        let server = self.spawn();
        server.ready().await
    }

    /// Starts the server without waiting for it.
    pub fn spawn(&self) -> Server {
        let args = self.serve_args();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        if let Some(User { id, .. }) = self.user {
            give(self.dir(), id);
        }
        Server::spawn(self, self.command(&args))
    }

    /// Starts the server by a command that was made from [`Site::command`], and waits until it is ready.
    pub async fn start_command(&self, command: Command) -> Server {
        Server::spawn(self, command).ready().await
    }

    /// Starts the server under another program, whose last argument is `log`.
    pub async fn start_under(&self, program: &[&str], log: &Path) -> Server {
        let args = self.serve_args();
        let mut command = self.wrapped(program[0], &program[1..]);
        command.arg(log).arg(self.binary()).args(args);
        Server::spawn(self, command).ready().await
    }
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

/// Gives a directory and what is in it to a user.
fn give(path: &Path, user: u32) {
    std::os::unix::fs::lchown(path, Some(user), Some(user)).unwrap();
    if path.symlink_metadata().unwrap().is_dir() {
        std::fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path(), user));
    }
}

fn toml_text(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}
