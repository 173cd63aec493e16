//! The first account's password, brought to its owner.

use crate::core::Core;
use crate::data_dir::{DataDir, write_private};
use crate::error::{Failure, OrFail};
use portolan_access::AccessError;
use portolan_model::Secret;
use std::path::PathBuf;

/// The variable that holds the password of the first account.
pub const VARIABLE: &str = "PORTOLAN_ADMIN_PASSWORD";
/// The file that a generated password is written to where nobody looks at a terminal.
const FILE: &str = "initial-admin-password";

/// What became of the first account's password.
#[derive(Debug)]
pub enum FirstPassword {
    /// There is nothing to say: the account was there, or its password was given.
    Known,
    /// It was generated and must be shown now; call `first_password_delivered` after that.
    Show {
        /// The login.
        login: String,
        /// The password.
        password: Secret,
    },
    /// It was generated and lies in this file.
    Written(PathBuf),
}

/// Makes the account `admin` where there is none. A generated password is told again at each start until it was
/// shown or written.
///
/// # Errors
/// When the given password is not acceptable, or the file cannot be written.
pub async fn ensure(
    core: &Core,
    data: &DataDir,
    given: Option<&str>,
    on_terminal: bool,
) -> Result<FirstPassword, Failure> {
    let accounts = &core.portolan.access.accounts;
    let first = accounts.ensure_admin(given.map(Secret::new)).await.map_err(|e| {
        let failure = Failure::new("the account 'admin' cannot be made");
        match e {
            AccessError::Invalid(_) => {
                failure.because(e).hint(format!("set {VARIABLE} to something else, or unset it to have one generated"))
            }
            other => failure.because(other),
        }
    })?;
    let Some(password) = first.generated_password else { return Ok(FirstPassword::Known) };
    if on_terminal {
        return Ok(FirstPassword::Show { login: first.login, password });
    }
    let file = data.join(FILE);
    write_private(&file, format!("{}\n", password.reveal()).as_bytes())
        .or_fail(|| format!("the password of '{}' cannot be written to {}", first.login, file.display()))?;
    accounts.first_password_delivered().await.or_fail(|| "the database failed".into())?;
    Ok(FirstPassword::Written(file))
}
