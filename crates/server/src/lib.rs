//! The parts of the `portolan` binary: configuration, composition root, subcommands.
//!
//! [`run`] is all that the binary calls. The parts are public for tests: [`config`] reads every layer of the
//! configuration, [`data_dir`] holds the data directory, [`server`] is a running server.

pub mod account;
pub mod admin;
pub mod allocator;
pub mod ask;
pub mod cert;
pub mod cli;
pub mod client;
pub mod config;
mod config_show;
pub mod core;
pub mod data_dir;
pub mod declared;
pub mod demo;
pub mod destinations;
pub mod error;
pub mod factories;
mod housekeeping;
pub mod keyfile;
mod listeners;
mod logging;
pub mod management;
pub mod metrics;
pub mod output;
mod platforms;
mod qemu;
pub mod replays;
pub mod repo;
pub mod serve;
pub mod server;
pub mod state;

use clap::CommandFactory;
use cli::{AccountCommand, CertCommand, Cli, Command, ConfigArgs, ConfigCommand, Dialect, StateCommand};
use config::settings::Settings;
use config::{Config, ConfigError, Surroundings};
use error::Failure;
use std::future::Future;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// Does what the command line says, and tells how it went.
pub fn run(cli: Cli) -> ExitCode {
    match dispatch(cli) {
        Ok(()) => ExitCode::from(error::OK),
        Err(failure) => {
            output::note(failure.render());
            ExitCode::from(failure.code)
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    let around = Surroundings::of_process();
    match cli.command {
        Command::Serve(args) => {
            let (config, _) = configured(&args, &around)?;
            logging::start(&config.log_level, config.log_json)?;
            block_on(config.threads, serve::run(&config, &around))
        }
        Command::Demo(args) => {
            logging::start(&args.log_level, false)?;
            block_on(None, demo::run(&args, &around))
        }
        Command::Repo(command) => {
            logging::start("warn", false)?;
            block_on(None, repo::run(command, &around))
        }
        Command::Config(ConfigCommand::Show { config, json }) => {
            let (config, settings) = configured(&config, &around)?;
            config_show::print(&config, &settings, json)
        }
        Command::Openapi(args) => output::json(&match args.dialect {
            Dialect::Vplus => portolan_api_vplus::document(),
            Dialect::Manage => portolan_api_manage::document(),
            Dialect::Orchestrator => portolan_api_orchestrator::document(),
        }),
        // Whoever names a data directory means a server that does not run.
        Command::Account { command: AccountCommand::Passwd { login, config }, .. } if config.is_given() => {
            let (config, _) = configured(&config, &around)?;
            logging::start("warn", false)?;
            block_on(None, account::passwd(&config, &around, login.as_deref().unwrap_or("admin")))
        }
        Command::State(command) => {
            logging::start("warn", false)?;
            match command {
                StateCommand::Export(args) => {
                    let (config, _) = configured(&args.config, &around)?;
                    block_on(None, state::export(&args, &config, &around))
                }
                StateCommand::Import(args) => {
                    let (config, _) = configured(&args.config, &around)?;
                    block_on(None, state::import(&args, &config))
                }
            }
        }
        Command::Cert(command) => {
            logging::start("warn", false)?;
            match command {
                CertCommand::Show { config, listener, json, pem } => {
                    cert::show(&configured(&config, &around)?.0, &listener, json, pem)
                }
                CertCommand::Renew { config, listener } => cert::renew(&configured(&config, &around)?.0, &listener),
            }
        }
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "portolan", &mut text);
            output::line(String::from_utf8_lossy(&text).trim_end());
            Ok(())
        }
        Command::Man { dir } => man(dir.as_deref()),
        client => {
            logging::start("warn", false)?;
            block_on(None, client::run(client, &around))
        }
    }
}

/// Prints the manual page of the whole, or writes one for every command.
fn man(dir: Option<&Path>) -> Result<(), Failure> {
    let Some(dir) = dir else {
        let mut text = Vec::new();
        let page = clap_mangen::Man::new(Cli::command()).render(&mut text);
        page.map_err(|e| Failure::new("the manual page cannot be written").because(e))?;
        output::line(String::from_utf8_lossy(&text).trim_end());
        return Ok(());
    };
    let written = std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
    written.map_err(|e| Failure::new(format!("the manual pages cannot be written to {}", dir.display())).because(e))
}

fn configured(args: &ConfigArgs, around: &Surroundings) -> Result<(Config, Settings), Failure> {
    let overrides = args.overrides().map_err(Failure::usage)?;
    config::load(around, &overrides).map_err(misconfigured)
}

/// A fault of the configuration, as a person should read it.
pub fn misconfigured(error: ConfigError) -> Failure {
    let hint = error.hint();
    let source = std::error::Error::source(&error).map(ToString::to_string);
    let failure = Failure { hint, ..Failure::usage(error.to_string()) };
    match source {
        Some(source) => failure.because(source),
        None => failure,
    }
}

/// Runs a command. Few threads with small stacks: the server's work is waiting.
fn block_on(threads: Option<usize>, work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().worker_threads(threads.unwrap_or(cores).max(2)).max_blocking_threads(64);
    // Unoptimised code needs deep stacks.
    if !cfg!(debug_assertions) {
        builder.thread_stack_size(1 << 20);
    }
    let runtime = builder.build().map_err(|e| Failure::new("the runtime cannot be started").because(e))?;
    let result = runtime.block_on(work);
    // What still runs on threads that may block is not waited for: nothing of it was promised to anybody.
    runtime.shutdown_timeout(Duration::from_millis(200));
    result
}
