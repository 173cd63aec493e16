//! `cargo xtask ci`: exactly what CI runs.

use crate::shell::{self, Result, Shell};
use crate::{demo_guest, openapi, test, tidy, tools};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What all of it may take on two cores when nothing has to be built that was built before.
const WARM: Duration = Duration::from_secs(25 * 60);

/// Runs every suite, in the order in which they fail fastest, and stops at the first that fails.
pub(crate) fn run(shell: &Shell) -> Result<()> {
    let mut sheet = Sheet::default();
    let done = suites(shell, &mut sheet);
    sheet.print();
    match done {
        Ok(summary) => {
            println!("\n{summary}");
            Ok(())
        }
        Err(error) => {
            eprintln!("\nci: '{}' failed; what would follow it was not run", sheet.last());
            Err(error)
        }
    }
}

/// The suites; gives the closing line of the test runner.
fn suites(shell: &Shell, sheet: &mut Sheet) -> Result<String> {
    let cargo = |words: &[&str]| shell::run(&mut shell.cargo(words.iter().copied()));
    sheet.suite("install", 30, || {
        tools::need(shell, tools::TEST, true)?;
        tools::need(shell, tools::DENY, true)
    })?;
    sheet.suite("format", 10, || cargo(&["fmt", "--all", "--check"]))?;
    sheet.suite("tidy", 10, || tidy::run(shell))?;
    sheet.suite("deny", 15, || {
        cargo(&["deny", "--offline", "--locked", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"])
    })?;
    sheet.suite("clippy", 150, || {
        cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])
    })?;
    sheet.suite("build", 240, || test::build(shell))?;
    sheet.suite("demo guest", 5, || demo_guest::make(shell, demo_guest::SIZE, true))?;
    sheet.suite("openapi", 5, || openapi::compare(shell, true))?;
    sheet.suite("doc", 60, || {
        let words = ["doc", "--workspace", "--no-deps", "--locked"];
        shell::run(shell.cargo(words).env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    sheet.suite("documentation tests", 60, || test::documentation_tests(shell))?;
    let summary = sheet.suite("tests", 600, || {
        let databases = test::Databases::start(shell)?;
        let (told, done) = test::run_for_summary(&mut test::nextest_command(shell, &databases));
        done.map(|()| told.summary)
    })?;
    sheet.suite("release build", 420, || cargo(&["build", "--release", "--workspace", "--bins", "--locked"]))?;
    sheet.suite("demo, release", 120, || demo(shell))?;
    sheet.notes.push(advisories(shell).into());
    Ok(summary)
}

/// The first thing that a new user runs, in a home of its own.
fn demo(shell: &Shell) -> Result<()> {
    let home = shell.target.join("demo-home");
    let _ = std::fs::remove_dir_all(&home);
    let mut command = shell.command(shell.built("release", "portolan"));
    command.args(["demo", "--exit"]).env("HOME", &home).env_remove("XDG_DATA_HOME");
    let done = shell::run(command.env("PORTOLAN_CACHE", &shell.cache));
    let _ = std::fs::remove_dir_all(&home);
    done
}

/// Known holes in dependencies. Their list comes from outside, which many machines that build this cannot reach: its
/// absence is said and is no failure. Nor is a finding, which has nothing to do with the change under test.
fn advisories(shell: &Shell) -> &'static str {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    // The directory is made by a failed attempt too: a list has a directory of its own in there.
    let lists = home.and_then(|home| std::fs::read_dir(home.join("advisory-dbs")).ok());
    if !lists.into_iter().flatten().flatten().any(|entry| entry.path().is_dir()) {
        return "advisories: not run, their database is not on this machine";
    }
    match shell::run(&mut shell.cargo([
        "deny",
        "--offline",
        "--locked",
        "check",
        "--hide-inclusion-graph",
        "advisories",
    ])) {
        Ok(()) => "advisories: none known",
        Err(_) => "advisories: FOUND, see above",
    }
}

/// What ran, how long it took, and how long it may take.
#[derive(Debug, Default)]
struct Sheet {
    rows: Vec<(&'static str, Duration, Duration)>,
    notes: Vec<String>,
}

impl Sheet {
    /// Runs a suite. `budget` is in seconds, for a machine with two cores that has built all this before.
    fn suite<T>(&mut self, name: &'static str, budget: u64, work: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("\n=== {name}");
        let start = Instant::now();
        let done = work();
        self.rows.push((name, start.elapsed(), Duration::from_secs(budget)));
        done
    }

    fn last(&self) -> &'static str {
        self.rows.last().map_or("", |row| row.0)
    }

    fn print(&self) {
        println!("\n{:<24} {:>9} {:>9}", "suite", "seconds", "budget");
        let over = |took: Duration, budget: Duration| if took > budget { "  over" } else { "" };
        for (name, took, budget) in &self.rows {
            println!("{name:<24} {:>9.1} {:>9}{}", took.as_secs_f64(), budget.as_secs(), over(*took, *budget));
        }
        let total: Duration = self.rows.iter().map(|row| row.1).sum();
        println!("{:<24} {:>9.1} {:>9}{}", "all", total.as_secs_f64(), WARM.as_secs(), over(total, WARM));
        for note in &self.notes {
            println!("{note}");
        }
    }
}
