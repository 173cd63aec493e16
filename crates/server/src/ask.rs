//! Questions to a person, and secrets from a person or a pipe.

use crate::error::{Failure, OrFail};
use crate::output;
use portolan_model::Secret;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{BufRead, IsTerminal, Read};
use std::path::Path;

/// No file with a secret is longer, in bytes.
const MOST: u64 = 64 * 1024;

/// A secret: asked for without showing it on a terminal, else the next line of standard input.
///
/// # Errors
/// When it cannot be read.
pub fn secret(prompt: &str) -> Result<Secret, Failure> {
    let mut line = String::new();
    let read = {
        let _silent = std::io::stdin().is_terminal().then(|| {
            output::note(prompt);
            Silence::new()
        });
        std::io::stdin().lock().read_line(&mut line)
    };
    read.or_fail(|| "the answer cannot be read".into())?;
    Ok(Secret::new(line.trim_end_matches(['\r', '\n'])))
}

/// A new password: asked for twice on a terminal. Empty has one generated.
///
/// # Errors
/// When it cannot be read, or the second is another one.
pub fn new_password(login: &str) -> Result<Secret, Failure> {
    let of = format!("New password of '{login}'");
    let first = secret(&format!("{of} (not shown while you type; empty to have one generated):"))?;
    if std::io::stdin().is_terminal() && !first.reveal().is_empty() {
        let again = secret("The same once more:")?;
        if !again.matches(first.reveal()) {
            return Err(Failure::usage("the two are not the same").hint("nothing was changed; try again"));
        }
    }
    Ok(first)
}

/// Whether somebody is there to answer.
pub fn is_terminal() -> bool {
    std::io::stdin().is_terminal()
}

/// A line that may be shown; `usual` when it is left empty or nobody is there to ask.
///
/// # Errors
/// When it cannot be read.
pub fn line(prompt: &str, usual: &str) -> Result<String, Failure> {
    if !std::io::stdin().is_terminal() {
        return Ok(usual.to_owned());
    }
    output::note(format!("{prompt} [{usual}]:"));
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).or_fail(|| "the answer cannot be read".into())?;
    Ok(Some(line.trim()).filter(|line| !line.is_empty()).unwrap_or(usual).to_owned())
}

/// Asks whether to go on, where somebody is there to ask.
///
/// # Errors
/// With exit code 1 when they say no.
pub fn confirm(what: &str, yes: bool) -> Result<(), Failure> {
    if yes || !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Ok(());
    }
    output::note(format!("{what} [y/N]"));
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).or_fail(|| "the answer cannot be read".into())?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::new("nothing was done").hint("--yes does not ask")),
    }
}

/// The first line of a file, or of standard input for `-`.
///
/// # Errors
/// When it cannot be read, is empty, or is longer than any secret.
pub fn first_line(file: &Path) -> Result<Secret, Failure> {
    let text = whole(file)?;
    let line = text.reveal().lines().next().unwrap_or_default().trim_end();
    match line.is_empty() {
        true => Err(Failure::new(format!("the first line of {} is empty", file.display()))),
        false => Ok(Secret::new(line)),
    }
}

/// A whole file, or all of standard input for `-`: keys in PEM have many lines. One line break at the end is dropped.
///
/// # Errors
/// When it cannot be read, or is longer than any secret.
pub fn whole(file: &Path) -> Result<Secret, Failure> {
    let what = || format!("the file {} cannot be read", file.display());
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(MOST + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).or_fail(what)?.take(MOST + 1).read_to_string(&mut text)
    };
    read.or_fail(what)?;
    if text.len() as u64 > MOST {
        return Err(Failure::new(what()).because("it is longer than any secret"));
    }
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Secret::new(text.strip_suffix('\r').unwrap_or(text)))
}

/// Keeps the terminal from showing what is typed, until it is dropped. Where that cannot be had, it shows it.
struct Silence(Option<Termios>);

impl Silence {
    fn new() -> Self {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok();
        if let Some(before) = &before {
            let mut silent = before.clone();
            silent.local_modes.remove(LocalModes::ECHO);
            silent.local_modes.insert(LocalModes::ECHONL);
            let _ = tcsetattr(&stdin, OptionalActions::Flush, &silent);
        }
        Self(before)
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, before);
        }
    }
}
