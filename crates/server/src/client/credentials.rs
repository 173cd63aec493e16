//! The tokens that `portolan login` stores, by server.

use super::credentials_file;
use crate::config::Surroundings;
use crate::data_dir::write_private;
use crate::error::{Failure, OrFail};
use portolan_model::Secret;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::PathBuf;
use toml::{Table, Value};

/// Stored tokens.
#[derive(Default)]
pub struct Credentials(Table);

impl Credentials {
    /// What is stored; nothing where there is no file.
    ///
    /// # Errors
    /// When the file cannot be read, is no TOML, or others can read it.
    pub fn load(around: &Surroundings) -> Result<Self, Failure> {
        let Some(file) = credentials_file(around) else { return Ok(Self::default()) };
        let what = || format!("the credentials in {} cannot be used", file.display());
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(Failure::new(what()).because(e)),
        };
        let mode = std::fs::metadata(&file).or_fail(what)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(Failure::new(what())
                .because("others can read them")
                .hint(format!("chmod 600 {}; whoever has read them can do what you can", file.display())));
        }
        Ok(Self(text.parse().or_fail(what)?))
    }

    /// Writes them, for their owner alone.
    ///
    /// # Errors
    /// When there is no home to put them in, or they cannot be written.
    pub fn save(&self, around: &Surroundings) -> Result<PathBuf, Failure> {
        let file = credentials_file(around).ok_or_else(|| {
            Failure::new("there is no home directory to store the token in").hint("set XDG_CONFIG_HOME")
        })?;
        let what = || format!("the token cannot be stored in {}", file.display());
        if let Some(dir) = file.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).or_fail(what)?;
        }
        let text = format!("# Made by `portolan login`: whoever reads this can do what you can.\n{}", self.0);
        write_private(&file, text.as_bytes()).or_fail(what)?;
        Ok(file)
    }

    /// The server that was logged in to last.
    pub fn current(&self) -> Option<&str> {
        self.0.get("current")?.as_str()
    }

    /// The token for a server.
    pub fn token(&self, url: &str) -> Option<Secret> {
        self.server(url)?.get("token")?.as_str().map(Secret::new)
    }

    /// The certificate that a server must have.
    pub fn ca(&self, url: &str) -> Option<PathBuf> {
        self.server(url)?.get("ca")?.as_str().map(PathBuf::from)
    }

    /// Notes a login.
    pub fn put(&mut self, url: &str, login: &str, token: &Secret, ca: Option<PathBuf>) {
        let mut server = Table::new();
        server.insert("login".into(), login.into());
        server.insert("token".into(), token.reveal().into());
        if let Some(ca) = ca {
            server.insert("ca".into(), ca.to_string_lossy().into_owned().into());
        }
        self.0.insert("current".into(), url.into());
        let servers = self.0.entry("server").or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(servers) = servers {
            servers.insert(url.into(), Value::Table(server));
        }
    }

    /// Forgets a login; whether there was one.
    pub fn remove(&mut self, url: &str) -> bool {
        if self.current() == Some(url) {
            self.0.remove("current");
        }
        let servers = self.0.get_mut("server").and_then(Value::as_table_mut);
        servers.is_some_and(|servers| servers.remove(url).is_some())
    }

    fn server(&self, url: &str) -> Option<&Table> {
        self.0.get("server")?.as_table()?.get(url)?.as_table()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_for_the_owner_alone_and_found_again() {
        let home = tempfile::tempdir().unwrap();
        let variables = [("XDG_CONFIG_HOME".to_owned(), home.path().to_str().unwrap().to_owned())];
        let around = Surroundings { variables: variables.into_iter().collect() };
        let mut credentials = Credentials::load(&around).unwrap();
        assert!(credentials.current().is_none() && credentials.token("http://a:1").is_none());
        credentials.put("http://a:1", "admin", &Secret::new("t\"1"), None);
        credentials.put("https://b:2", "eve", &Secret::new("t2"), Some("/ca.pem".into()));
        let file = credentials.save(&around).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

        let mut again = Credentials::load(&around).unwrap();
        assert_eq!(again.current(), Some("https://b:2"));
        assert_eq!(again.token("http://a:1").unwrap().reveal(), "t\"1");
        assert_eq!(again.ca("https://b:2"), Some("/ca.pem".into()));
        assert!(again.remove("https://b:2") && !again.remove("https://b:2"));
        assert!(again.current().is_none() && again.token("https://b:2").is_none());

        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Credentials::load(&around).err().unwrap().hint.unwrap().contains("chmod 600"));
    }
}
