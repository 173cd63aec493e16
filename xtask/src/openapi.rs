//! `cargo xtask openapi`: the committed OpenAPI document of each dialect is the generated one.

use crate::shell::{Result, Shell, XtaskError, output, read};
use crate::test;

/// The dialects that are served.
const DIALECTS: &[&str] = &["manage", "orchestrator", "vplus"];

/// Builds the server and writes the documents, or with `check` only compares them.
pub(crate) fn run(shell: &Shell, check: bool) -> Result<()> {
    test::build(shell)?;
    compare(shell, check)
}

/// The same with the server that was built last.
pub(crate) fn compare(shell: &Shell, check: bool) -> Result<()> {
    for dialect in DIALECTS {
        let mut command = shell.command(shell.built("debug", "portolan"));
        let generated = output(command.args(["openapi", dialect]))?;
        let path = shell.root.join(format!("docs/openapi/{dialect}.json"));
        if !check {
            let failed = |source| XtaskError::File { action: "write", path: path.clone(), source };
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory).map_err(failed)?;
            }
            std::fs::write(&path, &generated).map_err(failed)?;
            println!("wrote {}", path.display());
        } else if read(&path)?.as_bytes() != generated {
            return Err(XtaskError::Other(format!(
                "{} is not what the server generates: run `cargo xtask openapi`, and look at the difference",
                path.display()
            )));
        } else {
            println!("{} is what the server generates", path.display());
        }
    }
    Ok(())
}
