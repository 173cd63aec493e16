//! `portolan cert`: the self-signed certificate.

use crate::config::{Config, Listening};
use crate::core::system;
use crate::data_dir::sync_dir;
use crate::error::{Failure, OrFail};
use crate::listeners::self_signed_dir;
use crate::output;
use portolan_http::{CertificateInfo, TlsIdentityHandle, Validity};
use serde_json::json;
use std::path::PathBuf;

/// Prints where the certificate is, its fingerprint and its end.
///
/// # Errors
/// When there is none yet, or it cannot be read.
pub fn show(config: &Config, listener: &str, as_json: bool, pem: bool) -> Result<(), Failure> {
    let (clock, _) = system();
    let listening = listening(config, listener)?;
    let (cert, key) = files(config, listener, listening);
    if !cert.exists() {
        return Err(Failure::new(format!("there is no certificate at {}", cert.display()))
            .hint("`portolan serve` makes one on its first start, `portolan cert renew` at once"));
    }
    let loaded = TlsIdentityHandle::from_files(&cert, &key, clock.clone());
    let loaded = loaded.or_fail(|| "the certificate cannot be read".into())?;
    if pem {
        output::line(loaded.pem().trim_end());
        return Ok(());
    }
    let info = loaded.info();
    let validity = match info.validity(clock.now()) {
        Validity::Valid => "valid",
        Validity::EndsSoon => "ends soon",
        Validity::Expired => "expired",
    };
    print(&info, validity, listening.certificate.is_none(), as_json)
}

/// Makes a new self-signed certificate with a new key.
///
/// # Errors
/// When the certificate is the operator's own, or the files cannot be written.
pub fn renew(config: &Config, listener: &str) -> Result<(), Failure> {
    let listening = listening(config, listener)?;
    if let Some((cert, _)) = &listening.certificate {
        return Err(Failure::usage(format!("the certificate {} is your own", cert.display()))
            .hint("replace its file and its key, then send the server SIGHUP"));
    }
    let (clock, _) = system();
    let directory = self_signed_dir(&config.data_dir, listener);
    // Half a pair is made anew by whoever loads it: a crash between here and there leaves that.
    match std::fs::remove_file(directory.join("tls.crt")) {
        Ok(()) => sync_dir(&directory).or_fail(|| format!("{} cannot be written", directory.display()))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Failure::new(format!("{} cannot be written", directory.display())).because(e)),
    }
    let made = TlsIdentityHandle::self_signed(&directory, &listening.names, clock);
    let made = made.or_fail(|| "the certificate cannot be made".into())?;
    print(&made.info(), "valid", true, false)?;
    output::note("A running server takes it on SIGHUP. Clients that trusted the old one must be told the new one.");
    Ok(())
}

/// The listener of that name, which must speak TLS.
fn listening<'a>(config: &'a Config, name: &str) -> Result<&'a Listening, Failure> {
    let found = config.listeners().into_iter().find(|(listener, _)| *listener == name).map(|(_, listening)| listening);
    let found = found.ok_or_else(|| Failure::usage(format!("there is no listener '{name}'")))?;
    match found.tls {
        true => Ok(found),
        false => Err(Failure::usage(format!("the listener '{name}' speaks plain HTTP"))
            .hint(format!("turn TLS on with listeners.{name}.tls = true"))),
    }
}

fn files(config: &Config, name: &str, listening: &Listening) -> (PathBuf, PathBuf) {
    listening.certificate.clone().unwrap_or_else(|| {
        let directory = self_signed_dir(&config.data_dir, name);
        (directory.join("tls.crt"), directory.join("tls.key"))
    })
}

fn print(info: &CertificateInfo, validity: &str, self_signed: bool, as_json: bool) -> Result<(), Failure> {
    let ends = info.not_after.map(|at| at.to_rfc3339());
    if as_json {
        return output::json(&json!({
            "cert": info.cert,
            "key": info.key,
            "sha256": info.fingerprint.to_string(),
            "not_after": ends,
            "validity": validity,
            "self_signed": self_signed,
        }));
    }
    output::line(format!("certificate  {}", info.cert.display()));
    output::line(format!("private key  {}", info.key.display()));
    output::line(format!("SHA-256      {}", info.fingerprint));
    output::line(format!("ends         {} ({validity})", ends.as_deref().unwrap_or("unknown")));
    Ok(())
}
