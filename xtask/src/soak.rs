//! `cargo xtask soak`: the long figures, which CI has no time for.

use crate::shell::{Result, Shell, output};
use crate::{test, tools};
use std::time::Instant;

/// What soaks, and the tests behind it. Each of them reads `PORTOLAN_SOAK`.
const SUITES: &[(&str, &str)] = &[
    ("kills in export, store and restore", "package(portolan-e2e) & test(kill)"),
    ("histories of a repository against a model", "package(portolan-repository) & binary(model)"),
    ("streams of tasks against a model, all stores", "package(portolan-e2e) & test(agree)"),
    (
        "kills in starts and stops of nodes, a thousand starts at once",
        "package(portolan-e2e) & test(nodes::starts_and_stops) | test(nodes::a_thousand)",
    ),
    (
        "NBD: spoiled conversations, and copy-on-write against a model",
        "package(portolan-nbd) & (binary(fuzz) | binary(model))",
    ),
];

/// Runs each suite and prints a table for docs/performance.md, and what the tests say of their rounds.
pub(crate) fn run(shell: &Shell, rounds: u32, install: bool) -> Result<()> {
    tools::need(shell, tools::TEST, install)?;
    test::build(shell)?;
    let databases = test::Databases::start(shell)?;
    let mut rows = Vec::new();
    let mut lines = Vec::new();
    let mut failed = None;
    for (name, filter) in SUITES {
        let mut command = test::nextest_command(shell, &databases);
        command.args(["--profile", "soak", "--success-output", "immediate", "-E", filter]);
        command.env("PORTOLAN_SOAK", rounds.to_string());
        let start = Instant::now();
        let (told, done) = test::run_for_summary(&mut command);
        let verdict = match done {
            Ok(()) => told.summary,
            Err(error) => {
                failed.get_or_insert(error);
                "**FAILED**, see its output".to_owned()
            }
        };
        rows.push(format!("| {name} | {rounds} | {:.0} | {verdict} |", start.elapsed().as_secs_f64()));
        lines.extend(told.lines.into_iter().map(|line| format!("* {line}")));
    }
    let day = String::from_utf8_lossy(&output(shell.command("date").arg("+%F"))?).trim().to_owned();
    println!("\n### Soak of {day}\n\n| what | multiplier | seconds | verdict |\n| --- | --- | --- | --- |");
    println!("{}\n\n{}", rows.join("\n"), lines.join("\n"));
    failed.map_or(Ok(()), Err)
}
