//! `portolan demo`: a server with embedded defaults, and a walk through what it is for, by its own API.

mod api;
mod guest;
mod images;
pub mod ports;
mod walk;

use crate::cli::DemoArgs;
use crate::config::{self, Overrides, Surroundings};
use crate::error::{Failure, OrFail};
use crate::misconfigured;
use crate::output::{self, Paint};
use crate::serve::{Signals, wait};
use crate::server::{Server, Start};
use portolan_access::generate_password;
use portolan_model::Secret;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// Where the demo lives; a temporary directory goes with it.
struct Place {
    path: PathBuf,
    temporary: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        guest::end_all(&self.path);
        if self.temporary {
            // Best effort: it is under the system's directory for such.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Runs the demo.
///
/// # Errors
/// With exit code 3 when restored bytes differ from the originals.
pub async fn run(args: &DemoArgs, around: &Surroundings) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let place = place(args)?;
    let paint = Paint::stdout();
    output::line(paint.bold("Portolan demo"));
    output::line(format!(
        "  everything is in {}{}",
        place.path.display(),
        if place.temporary { ", and goes when the demo ends" } else { "" }
    ));
    let shown = tokio::select! {
        shown = show(&place, around) => shown?,
        _ = signals.stop() => return Ok(()),
    };
    let Shown { server, verdict } = shown;
    if let Err(failure) = verdict {
        server.stop().await;
        return Err(failure);
    }
    if args.exit {
        server.stop().await;
        return Ok(());
    }
    server.readiness.held.store(false, Ordering::SeqCst);
    invite(&server, &place)?;
    wait(server, signals).await
}

struct Shown {
    server: Server,
    verdict: Result<(), Failure>,
}

async fn show(place: &Place, around: &Surroundings) -> Result<Shown, Failure> {
    let guest = guest::prepare(&place.path, around).await;
    if let Err(why) = &guest {
        output::line(format!("  without a guest of QEMU: {why}"));
    }
    let guest = guest.is_ok();
    let file = write_config(&place.path, guest)?;
    let mut say = walk::Say::new(guest);
    let made = walk::make(&mut say, &place.path).await?;
    // What the operator has set for a real server must not leak in here.
    let home = around.get("HOME").map(|home| ("HOME".to_owned(), home.to_owned()));
    let surroundings = Surroundings { variables: home.into_iter().collect() };
    let overrides = Overrides { file: Some(file), keys: Vec::new() };
    let (config, _) = config::load(&surroundings, &overrides).map_err(misconfigured)?;
    // Known beforehand, so that the walk can log in; shown at the end by its file.
    let password = generate_password(&*crate::core::system().1);
    let start = Start { admin_password: Some(password.reveal().to_owned()), on_terminal: false, hold_ready: true };
    let server = Server::start(&config, &surroundings, start).await?;
    let verdict = walked(&mut say, &server, place, made, &password, guest).await;
    Ok(Shown { server, verdict })
}

async fn walked(
    say: &mut walk::Say,
    server: &Server,
    place: &Place,
    made: images::Made,
    password: &Secret,
    guest: bool,
) -> Result<(), Failure> {
    let file = password_file(place);
    crate::data_dir::write_private(&file, format!("{}\n", password.reveal()).as_bytes())
        .or_fail(|| format!("the password cannot be written to {}", file.display()))?;
    let (Some(url), Some(tls)) = (&server.vplus, server.certificate("vplus")) else {
        return Err(Failure::new("the vPlus API is not served"));
    };
    let api = api::Api::login(url, tls.pem(), "admin", password).await?;
    let near = walk::run(say, &api, made, &place.path.join("vms")).await?;
    if guest {
        guest::run(say, server, &api, &place.path, password, &near).await?;
    }
    Ok(())
}

fn password_file(place: &Place) -> PathBuf {
    place.path.join("password")
}

fn place(args: &DemoArgs) -> Result<Place, Failure> {
    use std::os::unix::fs::DirBuilderExt;
    let (path, temporary) = match &args.dir {
        Some(dir) => (std::path::absolute(dir).or_fail(|| format!("{} is no directory", dir.display()))?, false),
        None => {
            let id = crate::core::system().1.uuid().simple().to_string();
            (std::env::temp_dir().join(format!("portolan-demo-{}", &id[20..])), true)
        }
    };
    if std::fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some()) {
        let again = path.join("portolan.toml");
        let failure = Failure::usage(format!("{} is not empty", path.display()));
        return Err(match again.exists() {
            true => failure.hint(format!(
                "to run the server of an earlier demo again: portolan serve --config {}",
                again.display()
            )),
            false => failure.hint("name an empty directory, or one that is not there yet"),
        });
    }
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
    made.or_fail(|| format!("{} cannot be made", path.display()))?;
    Ok(Place { path, temporary })
}

/// Writes the server's configuration, so that it can be run again and changed.
fn write_config(place: &Path, guest: bool) -> Result<PathBuf, Failure> {
    let vplus = ports::free(ports::VPLUS);
    let orchestrator = ports::free(ports::ORCHESTRATOR);
    let management = ports::free(ports::MANAGEMENT);
    let mut text = format!(
        "# Made by `portolan demo`; run it again with `portolan serve --config` and this file.\n\
         data_dir = \"server\"\n\n\
         [listeners.vplus]\naddresses = [\"127.0.0.1:{vplus}\"]\n\n\
         [listeners.orchestrator]\naddresses = [\"127.0.0.1:{orchestrator}\"]\n\n\
         [listeners.management]\naddresses = [\"127.0.0.1:{management}\"]\n\n\
         [platform.federation]\ndriver = \"images\"\nroot = \"vms\"\n\n\
         [destination.near]\npath = \"repositories/near\"\ndefault = true\n\n\
         [destination.far]\npath = \"repositories/far\"\n"
    );
    if guest {
        let (name, root) = (guest::PLATFORM, guest::ROOT);
        text.push_str(&format!("\n[platform.{name}]\ndriver = \"qemu\"\nroot = \"{root}\"\nrestrict_network = true\n"));
    }
    let file = place.join("portolan.toml");
    std::fs::write(&file, text).or_fail(|| format!("{} cannot be written", file.display()))?;
    Ok(file)
}

/// Where everything is, and what to try.
fn invite(server: &Server, place: &Place) -> Result<(), Failure> {
    let (Some(url), Some(tls)) = (&server.vplus, server.certificate("vplus")) else { return Ok(()) };
    let management = server.management.clone().unwrap_or_default();
    let cert = tls.info().cert;
    let password = password_file(place);
    let jar = place.path.join("cookies");
    let (cert, password, jar) = (cert.display(), password.display(), jar.display());
    let paint = Paint::stdout();
    output::line("");
    output::line(paint.bold("The server stays up for you. Ctrl-C ends it."));
    output::line(format!("  vPlus API   {url}/api"));
    if let Some(url) = &server.orchestrator {
        output::line(format!("  Orchestrator {url}/api/v1"));
    }
    output::line(format!("  login       admin, password in {password}"));
    output::line(format!("  certificate {cert}"));
    output::line(format!("  management  {management}/readyz /metrics /openapi/vplus.json"));
    output::line(format!("  settings    {}", place.path.join("portolan.toml").display()));
    output::line("");
    output::line(paint.bold("Three commands to try:"));
    output::line(format!(
        "  curl -s --cacert {cert} -c {jar} --json \
         \"{{\\\"login\\\":\\\"admin\\\",\\\"password\\\":\\\"$(cat {password})\\\"}}\" {url}/api/session/login"
    ));
    output::line(format!("  curl -s --cacert {cert} -b {jar} {url}/api/backups"));
    output::line(format!("  curl -s {management}/metrics"));
    Ok(())
}
