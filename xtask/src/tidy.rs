//! `cargo xtask tidy`: the rules of the source tree that no compiler knows.

mod arrows;
mod sources;

use crate::shell::{Result, Shell, XtaskError, output};
use serde_json::Value;

/// Checks every rule, prints what is broken, and fails if anything is.
pub(crate) fn run(shell: &Shell) -> Result<()> {
    let (broken, remarks) = findings(shell)?;
    for line in &remarks {
        println!("note: {line}");
    }
    for line in &broken {
        eprintln!("error: {line}");
    }
    if broken.is_empty() {
        println!("the source tree is tidy");
        return Ok(());
    }
    Err(XtaskError::Broken(broken.len()))
}

/// What is broken, and what will be soon.
fn findings(shell: &Shell) -> Result<(Vec<String>, Vec<String>)> {
    let metadata = metadata(shell)?;
    let mut broken = arrows::check(&metadata);
    broken.extend(sources::manifests(shell, &metadata)?);
    let (long, remarks) = sources::files(shell)?;
    broken.extend(long);
    Ok((broken, remarks))
}

fn metadata(shell: &Shell) -> Result<Value> {
    let text = output(&mut shell.cargo(["metadata", "--format-version", "1", "--locked"]))?;
    serde_json::from_slice(&text).map_err(|e| XtaskError::Output("cargo metadata", e.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_tree_is_tidy() {
        let (broken, _) = findings(&Shell::new().unwrap()).unwrap();
        assert!(broken.is_empty(), "{}", broken.join("\n"));
    }
}
