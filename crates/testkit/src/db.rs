//! Throw-away database servers, and a fresh database for each test.
//!
//! A test says `Database::fresh(Engine::Postgres)`. The server comes from [`POSTGRES_URL`] or [`MARIADB_URL`] where
//! these are set (a runner that gives each test its own process starts the servers once and exports them), else it is
//! started once for this process. Servers listen on a unix socket only, in a directory of their own under the
//! temporary one, and are gone with the process that started them, however that ends.
//!
//! Servers for tests do not wait for the disk; those for measurements do ([`Durability`]).

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The variable with the URL of a running PostgreSQL, any database of it: `postgres://postgres@%2Ftmp%2Fx/postgres`.
/// Its user must be able to create databases.
pub const POSTGRES_URL: &str = "PORTOLAN_TEST_PG_URL";
/// The variable with the URL of a running MariaDB, any database of it: `mysql://root@localhost/mysql?socket=/tmp/s`.
pub const MARIADB_URL: &str = "PORTOLAN_TEST_MARIADB_URL";

/// A database that storage runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// A file in a temporary directory.
    Sqlite,
    /// A database of a PostgreSQL server.
    Postgres,
    /// A database of a MariaDB server.
    MariaDb,
}

/// Whether a server waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It does not: a crash of the machine may lose everything, tests run several times as fast.
    Off,
    /// It does, as in production.
    Full,
}

/// A fresh, empty database, removed when it goes out of use.
#[derive(Debug)]
pub struct Database {
    /// What an adapter connects to.
    pub url: String,
    engine: Engine,
    name: String,
    admin: String,
    _dir: Option<tempfile::TempDir>,
}

impl Database {
    /// A fresh database.
    ///
    /// # Panics
    /// When there is no server and none can be started; the message says what to install.
    #[allow(clippy::panic)]
    pub fn fresh(engine: Engine) -> Self {
        match Self::try_fresh(engine) {
            Ok(database) => database,
            Err(e) => panic!("{e}"),
        }
    }

    fn try_fresh(engine: Engine) -> Result<Self, String> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let name = format!("portolan_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        if engine == Engine::Sqlite {
            let dir = tempfile::tempdir().map_err(|e| format!("no temporary directory: {e}"))?;
            let url = format!("sqlite://{}", dir.path().join("portolan.db").display());
            return Ok(Self { url, engine, name, admin: String::new(), _dir: Some(dir) });
        }
        let admin = server_url(engine)?;
        // An earlier process of the same id may have been killed.
        execute(engine, &admin, &format!("DROP DATABASE IF EXISTS {name}"))?;
        execute(engine, &admin, &format!("CREATE DATABASE {name}"))?;
        Ok(Self { url: with_database(&admin, &name), engine, name, admin, _dir: None })
    }

    /// Which engine it runs on.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// Runs a statement beside the adapter under test, through the server's own client program.
    ///
    /// # Errors
    /// What the client said. SQLite has no client here.
    pub fn execute(&self, sql: &str) -> Result<(), String> {
        execute(self.engine, &self.url, sql)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let force = match self.engine {
            Engine::Sqlite => return,
            Engine::Postgres => " WITH (FORCE)",
            Engine::MariaDb => "",
        };
        // What stays goes with the server.
        let _ = execute(self.engine, &self.admin, &format!("DROP DATABASE IF EXISTS {}{force}", self.name));
    }
}

/// A running server; stopped and removed when dropped, or when this process ends in any way.
#[derive(Debug)]
pub struct Server {
    url: String,
    keeper: Child,
}

impl Server {
    /// The URL to export as [`POSTGRES_URL`] or [`MARIADB_URL`].
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The keeper reads from us: the end of its input is the word to stop.
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// Starts a PostgreSQL server in `dir`, which is made, and removed when the server stops. As root it runs as the
/// user `postgres`, since it refuses to run as root.
///
/// # Errors
/// What is missing, or what the server said.
pub fn start_postgres(dir: &Path, durability: Durability) -> Result<Server, String> {
    let bin = postgres_bin().ok_or_else(|| missing("PostgreSQL", "postgresql"))?;
    let user = prepare(dir, "postgres")?;
    let data = dir.join("data");
    run(as_user(&bin.join("initdb"), user).args(["-A", "trust", "-U", "postgres", "-E", "UTF8"]).args([
        "--no-locale".as_ref(),
        "--no-sync".as_ref(),
        "-D".as_ref(),
        data.as_os_str(),
    ]))?;
    let lax: &[&str] = match durability {
        Durability::Off => &["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"],
        Durability::Full => &[],
    };
    let mut server = as_user(Path::new("sh"), user);
    server.args(["-c", KEEPER, "keeper"]).arg(dir).args(["INT"]).arg(bin.join("postgres"));
    server.arg("-D").arg(&data).arg("-k").arg(dir).args(["-c", "listen_addresses=", "-c", "max_connections=300"]);
    server.args(["-c", "shared_buffers=64MB", "-c", "log_min_messages=fatal"]).args(lax);
    let keeper = keep(server, dir)?;
    let host = dir.display().to_string().replace('/', "%2F");
    let server = Server { url: format!("postgres://postgres@{host}/postgres"), keeper };
    until_ready(Command::new(bin.join("pg_isready")).arg("-q").arg("-h").arg(dir), dir)?;
    Ok(server)
}

/// Starts a MariaDB server in `dir`, which is made, and removed when the server stops. As root it runs as the user
/// `mysql`.
///
/// # Errors
/// What is missing, or what the server said.
pub fn start_mariadb(dir: &Path, durability: Durability) -> Result<Server, String> {
    let absent = || missing("MariaDB", "mariadb-server");
    let daemon = find("mariadbd", &["/usr/sbin"]).ok_or_else(absent)?;
    let install = find("mariadb-install-db", &["/usr/bin"]).ok_or_else(absent)?;
    let admin = find("mariadb-admin", &["/usr/bin"]).ok_or_else(absent)?;
    let user = prepare(dir, "mysql")?;
    let data = format!("--datadir={}", dir.join("data").display());
    run(as_user(&install, user).args(["--no-defaults", "--auth-root-authentication-method=normal"]).args([
        "--skip-test-db",
        "--innodb-flush-log-at-trx-commit=0",
        &data,
    ]))?;
    let socket = dir.join("s");
    let lax: &[&str] = match durability {
        Durability::Off => {
            &["--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0", "--innodb-file-per-table=0"]
        }
        Durability::Full => &["--innodb-flush-log-at-trx-commit=1"],
    };
    let mut server = as_user(Path::new("sh"), user);
    server.args(["-c", KEEPER, "keeper"]).arg(dir).args(["KILL"]).arg(&daemon).arg("--no-defaults").arg(&data);
    server.arg(format!("--socket={}", socket.display())).arg(format!("--pid-file={}", dir.join("pid").display()));
    server.args(["--skip-networking", "--skip-log-bin", "--performance-schema=OFF", "--max-connections=500"]);
    server.args(["--innodb-buffer-pool-size=64M", "--innodb-log-file-size=64M"]).args(lax);
    let keeper = keep(server, dir)?;
    let server = Server { url: format!("mysql://root@localhost/mysql?socket={}", socket.display()), keeper };
    let ping = format!("--socket={}", socket.display());
    until_ready(Command::new(admin).args(["--no-defaults", &ping, "-u", "root", "--silent", "ping"]), dir)?;
    Ok(server)
}

/// Runs a server until its own input ends, then stops it and removes its directory: so nothing stays behind
/// whatever becomes of the process that holds the other end. Arguments: the directory, the signal, the command.
const KEEPER: &str = r#"dir=$1; signal=$2; shift 2
"$@" </dev/null >"$dir/log" 2>&1 & server=$!
read -r _
kill -s "$signal" "$server" 2>/dev/null
wait "$server" 2>/dev/null
cd / && rm -rf "$dir""#;

fn keep(mut server: Command, dir: &Path) -> Result<Child, String> {
    // The group of the terminal gets its interrupts; the keeper must outlive them to clean up.
    server.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir(dir);
    server.spawn().map_err(|e| format!("the server cannot be started: {e}"))
}

/// Waits until `probe` succeeds, at most a minute.
fn until_ready(probe: &mut Command, dir: &Path) -> Result<(), String> {
    let mut wait = Command::new("timeout");
    wait.args(["60", "sh", "-c", r#"until "$@" >/dev/null 2>&1; do sleep 0.05; done"#, "wait"]);
    wait.arg(probe.get_program()).args(probe.get_args());
    run(&mut wait).map_err(|_| {
        let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        format!("the server in {} does not answer:\n{log}", dir.display())
    })
}

fn missing(what: &str, package: &str) -> String {
    format!(
        "{what} is not installed: the Debian package `{package}` has it (both: `postgresql`, `mariadb-server`), and \
         `cargo xtask test --install` installs them"
    )
}

/// The newest installed PostgreSQL: Debian keeps its programs off the path.
fn postgres_bin() -> Option<PathBuf> {
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = installed.map(|e| e.path()).filter(|p| p.join("bin/initdb").exists()).max_by_key(|p| version(p));
    newest.map(|path| path.join("bin")).or_else(|| find("initdb", &[])?.parent().map(Path::to_owned))
}

fn find(program: &str, more: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(more.iter().map(PathBuf::from));
    dirs.map(|dir| dir.join(program)).find(|file| file.exists())
}

/// Makes the server's directory, its own when we are root; the user and group to run it as.
fn prepare(dir: &Path, user: &str) -> Result<Option<(u32, u32)>, String> {
    std::fs::create_dir_all(dir).map_err(|e| format!("{} cannot be made: {e}", dir.display()))?;
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let id = |flag: &str| -> Result<u32, String> {
        let out = Command::new("id").args([flag, user]).output().map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&out.stdout);
        text.trim().parse().map_err(|_| format!("there is no user {user}"))
    };
    let (uid, gid) = (id("-u")?, id("-g")?);
    chown(dir, Some(uid), Some(gid)).map_err(|e| format!("{} cannot be given away: {e}", dir.display()))?;
    Ok(Some((uid, gid)))
}

fn as_user(program: &Path, user: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").env_remove("HOME");
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}

fn run(command: &mut Command) -> Result<(), String> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let out = command.stdin(Stdio::null()).output().map_err(|e| format!("{shown} cannot be started: {e}"))?;
    if out.status.success() {
        return Ok(());
    }
    let said = [out.stdout, out.stderr].concat();
    Err(format!("{shown} failed: {}", String::from_utf8_lossy(&said)))
}

/// The server for tests of this process.
fn server_url(engine: Engine) -> Result<String, String> {
    static POSTGRES: OnceLock<Result<Server, String>> = OnceLock::new();
    static MARIADB: OnceLock<Result<Server, String>> = OnceLock::new();
    let (variable, server, name) = match engine {
        Engine::Postgres => (POSTGRES_URL, &POSTGRES, "pg"),
        _ => (MARIADB_URL, &MARIADB, "maria"),
    };
    if let Ok(url) = std::env::var(variable) {
        return Ok(url);
    }
    let dir = std::env::temp_dir().join(format!("portolan-{name}-{}", std::process::id()));
    let start = || match engine {
        Engine::Postgres => start_postgres(&dir, Durability::Off),
        _ => start_mariadb(&dir, Durability::Off),
    };
    server.get_or_init(start).as_ref().map(|server| server.url.clone()).map_err(Clone::clone)
}

/// The URL with another database in it.
fn with_database(url: &str, name: &str) -> String {
    let (base, query) = url.split_once('?').map_or((url, None), |(base, query)| (base, Some(query)));
    let start = base.find("://").map_or(0, |i| i + 3);
    let end = base[start..].find('/').map_or(base.len(), |i| start + i);
    let query = query.map(|q| format!("?{q}")).unwrap_or_default();
    format!("{}/{name}{query}", &base[..end])
}

/// Runs a statement through the server's client program.
fn execute(engine: Engine, url: &str, sql: &str) -> Result<(), String> {
    match engine {
        Engine::Sqlite => Err("SQLite has no client program here".to_owned()),
        Engine::Postgres => {
            let bin = postgres_bin().ok_or_else(|| missing("PostgreSQL", "postgresql"))?;
            run(Command::new(bin.join("psql")).args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql]))
        }
        Engine::MariaDb => {
            let client = find("mariadb", &["/usr/bin"]).ok_or_else(|| missing("MariaDB", "mariadb-server"))?;
            run(Command::new(client).arg("--no-defaults").args(mariadb_options(url)).args(["-e", sql]))
        }
    }
}

/// A URL as options of the client program.
fn mariadb_options(url: &str) -> Vec<String> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let rest = base.split_once("://").map_or(base, |(_, rest)| rest);
    let (login, rest) = rest.rsplit_once('@').unwrap_or(("root", rest));
    let (server, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = server.split_once(':').map_or((server, None), |(host, port)| (host, Some(port)));
    let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
    let mut options = vec![format!("--user={user}"), format!("--host={host}")];
    options.extend(port.map(|port| format!("--port={port}")));
    options.extend(password.map(|password| format!("--password={password}")));
    let socket = query.split('&').find_map(|part| part.strip_prefix("socket="));
    options.extend(socket.map(|socket| format!("--socket={socket}")));
    options.push(format!("--database={database}"));
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_get_another_database() {
        assert_eq!(with_database("postgres://p@%2Ftmp%2Fx/postgres", "t"), "postgres://p@%2Ftmp%2Fx/t");
        assert_eq!(with_database("mysql://root@localhost/mysql?socket=/s", "t"), "mysql://root@localhost/t?socket=/s");
        assert_eq!(with_database("postgres://h", "t"), "postgres://h/t");
    }

    #[test]
    fn urls_become_options() {
        assert_eq!(
            mariadb_options("mysql://root:pw@localhost:33/db?socket=/s"),
            ["--user=root", "--host=localhost", "--port=33", "--password=pw", "--socket=/s", "--database=db"]
        );
    }
}
