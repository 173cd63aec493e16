//! The log: set up once, by the binary.

use crate::error::Failure;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::util::SubscriberInitExt;

/// Log lines carry the time in UTC to the millisecond.
struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, w: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        use portolan_model::Clock;
        // The log's own: lines are written from everywhere, also before there is any other clock.
        static CLOCK: std::sync::LazyLock<portolan_access::SystemClock> =
            std::sync::LazyLock::new(portolan_access::SystemClock::new);
        w.write_str(&CLOCK.now().to_rfc3339())
    }
}

/// Writes the log to standard error, at `level` unless `RUST_LOG` says something else, and panics to the log.
///
/// # Errors
/// When `RUST_LOG` cannot be read.
pub(crate) fn start(level: &str, json: bool) -> Result<(), Failure> {
    let filter = match std::env::var("RUST_LOG").ok().filter(|v| !v.trim().is_empty()) {
        Some(text) => EnvFilter::try_new(&text).map_err(|e| {
            Failure::usage(format!("RUST_LOG={text:?} cannot be read"))
                .because(e)
                .hint("RUST_LOG=info,portolan_tasks=debug")
        })?,
        // What the database's driver says at `info` and `debug` is every statement.
        None => EnvFilter::new(format!("{level},sqlx={quiet},sea_orm={quiet}", quiet = quiet(level))),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_timer(Utc);
    let started = if json {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).finish().try_init()
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).finish().try_init()
    };
    // Somebody who embeds this has set up a log: theirs counts.
    if started.is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            let text = panic.payload().downcast_ref::<&str>().copied();
            let text = text.or_else(|| panic.payload().downcast_ref::<String>().map(String::as_str));
            let at = panic.location().map(ToString::to_string).unwrap_or_default();
            tracing::error!(panic = text.unwrap_or("no text"), at, "panicked");
        }));
    }
    Ok(())
}

fn quiet(level: &str) -> &str {
    match level {
        "trace" => "debug",
        "error" => "error",
        _ => "warn",
    }
}
