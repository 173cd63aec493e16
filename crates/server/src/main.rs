//! The `portolan` command.

use clap::Parser;
use portolan_server::cli::Cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    portolan_server::allocator::settle(&cli);
    portolan_server::run(cli)
}
