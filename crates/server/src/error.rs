//! What ends a command: a sentence, its causes, a hint, and an exit code.

use std::error::Error;
use std::fmt;

/// Exit code of a command that did what it was asked.
pub const OK: u8 = 0;
/// Exit code of a command that failed.
pub const FAILED: u8 = 1;
/// Exit code of a command that was used or configured wrongly.
pub const USAGE: u8 = 2;
/// Exit code of a check that found damage, or of a comparison that found a difference.
pub const DAMAGE: u8 = 3;

/// Exit code of a command that needs a login, or one that may do more.
pub const DENIED: u8 = 4;

/// Why a command ended, for a person in front of a terminal. [`Failure::render`] is what they read.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What could not be done.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The exit code.
    pub code: u8,
    /// Why.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// A failure with a sentence of its own.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code: FAILED, source: None }
    }

    /// A failure of how the command was called or configured.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: USAGE, ..Self::new(message) }
    }

    /// Damage or a difference was found.
    pub fn damage(message: impl Into<String>) -> Self {
        Self { code: DAMAGE, ..Self::new(message) }
    }

    /// Nobody is logged in, or not somebody who may.
    pub fn denied(message: impl Into<String>) -> Self {
        Self { code: DENIED, ..Self::new(message) }
    }

    /// The same with a cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The sentence, one line a cause, and the hint. A cause that says what the line above said is left out.
    pub fn render(&self) -> String {
        let mut text = format!("error: {}", self.message);
        let mut said = self.message.clone();
        for cause in chain(self.source.as_deref().map(|e| e as &(dyn Error + 'static))) {
            let line = cause.to_string();
            if !said.ends_with(&line) {
                text.push_str("\n  because: ");
                text.push_str(&line);
            }
            said = line;
        }
        if let Some(hint) = &self.hint {
            text.push_str("\nhint: ");
            text.push_str(hint);
        }
        text
    }
}

/// An error and everything under it, outermost first.
pub fn chain<'a>(error: Option<&'a (dyn Error + 'static)>) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(error, |&e| e.source())
}

/// An error with its causes in one line, for the log.
pub struct OneLine<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = String::new();
        for (n, cause) in chain(Some(self.0)).enumerate() {
            let line = cause.to_string();
            if n > 0 && said.ends_with(&line) {
                continue;
            }
            write!(f, "{}{line}", if n > 0 { ": " } else { "" })?;
            said = line;
        }
        Ok(())
    }
}

/// Turns errors into failures.
pub trait OrFail<T> {
    /// The value, or a failure that says what could not be done.
    fn or_fail(self, message: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> OrFail<T> for Result<T, E> {
    fn or_fail(self, message: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|e| Failure::new(message()).because(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_that_repeat_the_line_above_are_left_out() {
        let inner = Failure::new("the disk is full");
        let outer = Failure::new("cannot write: the disk is full").because(inner).hint("make room");
        assert_eq!(outer.render(), "error: cannot write: the disk is full\nhint: make room");
        let outer = Failure::new("cannot write").because(Failure::new("the disk is full"));
        assert_eq!(outer.render(), "error: cannot write\n  because: the disk is full");
        assert_eq!(OneLine(&outer).to_string(), "cannot write: the disk is full");
    }
}
