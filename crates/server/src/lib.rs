//! The parts of the `portolan` binary: configuration, composition root, subcommands.
//!
//! [`run`] is all that the binary calls. The parts are public for tests: [`config`] reads every layer of the
//! configuration, [`data_dir`] holds the data directory, [`server`] is a running server.

pub mod account;
pub mod admin;
pub mod allocator;
pub mod cert;
pub mod cli;
pub mod config;
mod config_show;
pub mod core;
pub mod data_dir;
pub mod demo;
pub mod destinations;
pub mod error;
pub mod factories;
mod housekeeping;
pub mod keyfile;
mod logging;
pub mod management;
pub mod metrics;
pub mod output;
pub mod replays;
pub mod repo;
pub mod serve;
pub mod server;

use clap::CommandFactory;
use cli::{AccountCommand, CertCommand, Cli, Command, ConfigArgs, ConfigCommand, Dialect};
use config::settings::Settings;
use config::{Config, ConfigError, Surroundings};
use error::Failure;
use std::future::Future;
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
        Command::Account(AccountCommand::Passwd { login, config }) => {
            let (config, _) = configured(&config, &around)?;
            logging::start("warn", false)?;
            block_on(None, account::passwd(&config, &around, &login))
        }
        Command::Cert(command) => {
            logging::start("warn", false)?;
            match command {
                CertCommand::Show { config, json, pem } => cert::show(&configured(&config, &around)?.0, json, pem),
                CertCommand::Renew { config } => cert::renew(&configured(&config, &around)?.0),
            }
        }
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "portolan", &mut text);
            output::line(String::from_utf8_lossy(&text).trim_end());
            Ok(())
        }
        Command::Man => {
            let mut text = Vec::new();
            let page = clap_mangen::Man::new(Cli::command()).render(&mut text);
            page.map_err(|e| Failure::new("the manual page cannot be written").because(e))?;
            output::line(String::from_utf8_lossy(&text).trim_end());
            Ok(())
        }
    }
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
