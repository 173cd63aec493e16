//! Certificate files: written so that a crash leaves all or nothing, read with errors that name them.

use crate::error::HttpError;
use portolan_model::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

/// Largest file that is taken for a certificate or key, in bytes.
const LARGEST: u64 = 1 << 20;

/// This machine's name, when it has one that fits into a certificate.
pub fn host_name() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok())?;
    let name = name.trim().to_owned();
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    (!name.is_empty() && name.len() < 254 && name.chars().all(fits)).then_some(name)
}

/// Makes a key and a certificate for it.
pub(super) fn make(dir: &Path, cert: &Path, key: &Path, names: &[String], now: Timestamp) -> Result<(), HttpError> {
    let (cert_pem, key_pem) = generate(names, now)?;
    let fail = |what, path: &Path| {
        let path = path.to_owned();
        move |source| HttpError::WriteFile { what, path, source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail("certificate directory", dir))?;
    // Half of a pair is of no use and must not be joined with half of another: should we die between the two writes,
    // the next start finds a key alone and makes both anew.
    match fs::remove_file(cert) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail("certificate", cert)(error)),
        Ok(()) => sync_dir(dir).map_err(fail("certificate directory", dir))?,
        Err(_) => {}
    }
    write_atomically(dir, key, key_pem.as_bytes(), 0o600).map_err(fail("private key", key))?;
    write_atomically(dir, cert, cert_pem.as_bytes(), 0o644).map_err(fail("certificate", cert))?;
    tracing::info!(cert = %cert.display(), "made a self-signed certificate");
    Ok(())
}

/// Certificate and key as PEM.
fn generate(names: &[String], now: Timestamp) -> Result<(String, String), HttpError> {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let mut all: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    for name in host_name().into_iter().chain(names.iter().cloned()) {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    let mut params = CertificateParams::new(all).map_err(HttpError::Generate)?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, "Portolan");
    subject.push(DnType::OrganizationName, "Portolan self-signed");
    params.distinguished_name = subject;
    // A day back, for clients whose clock is behind. Ten years on: clients pin this certificate, and a pin that ends
    // with nobody looking after it is an outage.
    let (from, to) = (date(now - DAY), date(now + 3650 * DAY));
    params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
    params.not_after = rcgen::date_time_ymd(to.0, to.1, to.2);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(HttpError::Generate)?;
    let cert = params.self_signed(&key).map_err(HttpError::Generate)?;
    Ok((cert.pem(), key.serialize_pem()))
}

/// Year, month and day of an instant. Clamped to years that X.509 can write, so that no clock can make it panic.
fn date(at: Timestamp) -> (i32, u8, u8) {
    let day = at.to_jiff().to_zoned(jiff::tz::TimeZone::UTC).date();
    let day = day.clamp(jiff::civil::date(1970, 1, 1), jiff::civil::date(9999, 12, 31));
    (i32::from(day.year()), day.month().unsigned_abs(), day.day().unsigned_abs())
}

/// Writes a new file beside `path`, brings it to disk and puts it in place.
fn write_atomically(dir: &Path, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let beside = path.with_extension("new");
    // A leftover of a crash may have other permissions; create_new makes sure that ours apply from the first byte.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Reads a whole file, bounded.
pub(super) fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, HttpError> {
    let fail = |source| HttpError::ReadFile { what, path: path.to_owned(), source };
    if fs::metadata(path).map_err(fail)?.len() > LARGEST {
        let reason = "it is larger than 1 MiB".to_owned();
        return Err(HttpError::BadPem { what, path: path.to_owned(), reason });
    }
    fs::read(path).map_err(fail)
}

/// Whether group or others can read a file.
pub(super) fn others_can_read(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0)
}
