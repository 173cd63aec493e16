//! `cargo xtask test`: everything is built once, the database servers are started once, then all tests run.

use crate::demo_guest;
use crate::shell::{self, Result, Shell, XtaskError, shown};
use crate::tools;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// All tests.
pub(crate) fn run(shell: &Shell, install: bool, nextest: &[String]) -> Result<()> {
    tools::need(shell, tools::TEST, install)?;
    demo_guest::make(shell, demo_guest::SIZE, install)?;
    build(shell)?;
    documentation_tests(shell)?;
    let databases = Databases::start(shell)?;
    let mut tests = nextest_command(shell, &databases);
    shell::run(tests.args(nextest).stdin(Stdio::inherit()))
}

/// Builds every target of every package. Always the whole workspace: naming one package would change the features
/// of what it depends on, and build half of that again.
pub(crate) fn build(shell: &Shell) -> Result<()> {
    shell::run(&mut shell.cargo(["build", "--workspace", "--all-targets"]))
}

/// The examples in documentation, which nextest does not run.
pub(crate) fn documentation_tests(shell: &Shell) -> Result<()> {
    shell::run(&mut shell.cargo(["test", "--workspace", "--doc", "--quiet"]))
}

/// `cargo nextest run` on all packages, with the servers of `databases`.
pub(crate) fn nextest_command(shell: &Shell, databases: &Databases) -> Command {
    let mut command = shell.cargo(["nextest", "run", "--workspace"]);
    if std::env::var_os("CI").is_some_and(|v| !v.is_empty()) {
        command.args(["--profile", "ci"]);
    } else if !is_root() {
        println!("not root: the test that fills a small file system is left out");
        command.args(["--profile", "unprivileged"]);
    }
    for (name, url) in &databases.urls {
        command.env(name, url);
    }
    command
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout.trim_ascii() == b"0")
}

/// What a run of tests came to.
pub(crate) struct Told {
    /// Nextest's closing line.
    pub(crate) summary: String,
    /// What the tests said in lines that begin with `soak: `.
    pub(crate) lines: Vec<String>,
}

/// Runs nextest with its words passed on, and gives what is to be shown once more at the very end, also where a
/// test failed.
pub(crate) fn run_for_summary(command: &mut Command) -> (Told, Result<()>) {
    println!("$ {}", shown(command));
    let mut told = Told { summary: String::new(), lines: Vec::new() };
    let name = shown(command);
    let failed = |source| XtaskError::Spawn { command: name.clone(), source };
    let mut child = match command.stderr(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(source) => return (told, Err(failed(source))),
    };
    if let Some(words) = child.stderr.take() {
        for line in BufReader::new(words).split(b'\n').map_while(std::result::Result::ok) {
            let line = String::from_utf8_lossy(&line);
            eprintln!("{line}");
            if line.trim_start().starts_with("Summary [") {
                told.summary = line.trim().to_owned();
            }
            told.lines.extend(line.trim().strip_prefix("soak: ").map(str::to_owned));
        }
    }
    let done = match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(XtaskError::Failed { command: name.clone(), status }),
        Err(source) => Err(failed(source)),
    };
    (told, done)
}

/// Running PostgreSQL and MariaDB servers. They stop when this is dropped, and also when this process is killed:
/// their keeper reads from it, and stops them at the end of its input.
pub(crate) struct Databases {
    keeper: Child,
    urls: Vec<(String, String)>,
}

impl Databases {
    pub(crate) fn start(shell: &Shell) -> Result<Self> {
        let mut command = shell.command(shell.built("debug", "portolan-lab"));
        command.arg("databases").stdin(Stdio::piped()).stdout(Stdio::piped());
        let keeper = command.spawn();
        let keeper = keeper.map_err(|source| XtaskError::Spawn { command: shown(&command), source })?;
        let mut databases = Self { keeper, urls: Vec::new() };
        let lines = databases.keeper.stdout.take().map(BufReader::new);
        for line in lines.into_iter().flat_map(BufRead::lines).map_while(std::result::Result::ok) {
            if line == "ready" {
                println!("database servers are up");
                return Ok(databases);
            }
            if let Some((name, url)) = line.split_once('=') {
                databases.urls.push((name.to_owned(), url.to_owned()));
            }
        }
        Err(XtaskError::Other("the database servers for tests cannot be started".into()))
    }
}

impl Drop for Databases {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
