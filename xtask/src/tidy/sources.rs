//! What files and manifests must and must not say.

use crate::shell::{Result, Shell, XtaskError, read};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Lines that a file holds with ease.
const EASY: usize = 500;
/// Lines that no file of the product may have.
const MOST: usize = 600;

/// Words that must not be committed, each in two parts so that this file does not have them.
const WORDS: &[(&str, &str)] = &[("todo", "!("), ("dbg", "!("), ("unimplemented", "!("), ("FIX", "ME"), ("XX", "X")];

/// Every crate says what it is for and obeys the lints of the workspace; the licences are there.
pub(super) fn manifests(shell: &Shell, metadata: &Value) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    let members = metadata["workspace_members"].as_array().cloned().unwrap_or_default();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        if !members.contains(&package["id"]) {
            continue;
        }
        let name = package["name"].as_str().unwrap_or_default();
        if package["description"].as_str().unwrap_or_default().is_empty() {
            broken.push(format!("{name}: Cargo.toml has no description"));
        }
        let manifest = read(Path::new(package["manifest_path"].as_str().unwrap_or_default()))?;
        if !manifest.contains("[lints]\nworkspace = true") {
            broken.push(format!("{name}: Cargo.toml does not say [lints] workspace = true"));
        }
    }
    for file in ["LICENSE-APACHE", "LICENSE-MIT"] {
        // Both licences, in a file each or together in one.
        if !shell.root.join(file).is_file() && !shell.root.join("LICENSE").is_file() {
            broken.push(format!("there is no {file}"));
        }
    }
    Ok(broken)
}

/// What is wrong with source files, and which are about to be too long.
pub(super) fn files(shell: &Shell) -> Result<(Vec<String>, Vec<String>)> {
    let (mut broken, mut remarks) = (Vec::new(), Vec::new());
    for place in ["crates", "tests", "xtask"] {
        for path in rust_files(&shell.root.join(place))? {
            let text = read(&path)?;
            let name = path.strip_prefix(&shell.root).unwrap_or(&path);
            let lines = text.lines().count();
            if lines > MOST && !is_test(name) {
                broken.push(format!("{}: {lines} lines, {MOST} are the most", name.display()));
            } else if lines > EASY {
                remarks.push(format!("{}: {lines} lines, split it soon", name.display()));
            }
            broken.extend(words(&text).into_iter().map(|(line, word)| format!("{}:{line}: {word}", name.display())));
        }
    }
    Ok((broken, remarks))
}

/// Tests and what they are made of may be long lists.
fn is_test(path: &Path) -> bool {
    let inside = |name: &str| path.components().any(|part| part.as_os_str() == name);
    inside("tests") || inside("testkit") || path.file_name().is_some_and(|name| name == "tests.rs")
}

fn words(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for (first, second) in WORDS {
            let word = format!("{first}{second}");
            let before = |at: usize| line[..at].chars().next_back();
            let whole = |at: usize| !before(at).is_some_and(|c| c.is_alphanumeric() || c == '_');
            if line.match_indices(&word).any(|(at, _)| whole(at)) {
                found.push((number + 1, word));
            }
        }
    }
    found
}

fn rust_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = |source| XtaskError::File { action: "list", path: dir.to_owned(), source };
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                out.extend(rust_files(&path)?);
            }
        } else if path.extension().is_some_and(|end| end == "rs") {
            out.push(path);
        }
    }
    out.sort();
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_whole_only() {
        let text = format!("fine\n  {}{}x)\nmy_{}{}x)\n", "todo", "!(", "todo", "!(");
        assert_eq!(words(&text).iter().map(|f| f.0).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn tests_are_told_from_the_product() {
        assert!(is_test(Path::new("crates/http/src/auth/tests.rs")));
        assert!(is_test(Path::new("tests/src/lib.rs")));
        assert!(is_test(Path::new("crates/model/tests/values.rs")));
        assert!(!is_test(Path::new("crates/http/src/client.rs")));
    }
}
