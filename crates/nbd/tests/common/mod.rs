//! What the tests share.
#![allow(clippy::unwrap_used, dead_code, reason = "each test uses its own part, and stops when it cannot go on")]

pub(crate) mod script;

use portolan_block::{BlockExtent, BlockSource, ExtentKind};
use portolan_nbd::{Address, ClientOptions, Connection, Export, ExportDevice, Server, ServerOptions};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

pub(crate) const KIB: usize = 1 << 10;
pub(crate) const MIB: usize = 1 << 20;

/// Numbers that look random and are the same each time.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            // Never zero, so that it counts as data.
            out.extend(self.next().to_le_bytes().map(|byte| byte | 1));
        }
        out.truncate(len);
        out
    }
}

/// How much more than usual to do.
pub(crate) fn soak() -> u64 {
    std::env::var("PORTOLAN_SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// A disk with data, zeros and short holes.
pub(crate) fn patchy(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut out = vec![0; len];
    let mut at = 0;
    while at < len {
        let run = (random.below(300) * KIB / 2 + random.below(5000)).min(len - at);
        if random.below(3) > 0 {
            out[at..at + run].copy_from_slice(&random.bytes(run));
        }
        at += run;
    }
    out
}

/// A server with one export behind a Unix socket in a directory of its own.
pub(crate) struct Fixture {
    pub(crate) server: Server,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) socket: PathBuf,
}

impl Fixture {
    pub(crate) async fn new(device: Arc<dyn ExportDevice>) -> Self {
        Self::with(Export::new("disk", device)).await
    }

    pub(crate) async fn with(export: Export) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("nbd.sock");
        let server = Server::new(ServerOptions::default());
        server.add(export).unwrap();
        server.listen_unix(&socket).await.unwrap();
        Self { server, directory, socket }
    }

    pub(crate) fn address(&self) -> Address {
        Address::unix(&self.socket, "disk")
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection::connect(&self.address(), &ClientOptions::default()).await.unwrap()
    }
}

/// Runs a program to its end. Fails with advice when it is missing.
pub(crate) fn run(program: &str, words: &[&str]) -> Output {
    let package = match program {
        "nbdinfo" | "nbdcopy" => "libnbd-bin",
        _ => "qemu-utils",
    };
    match Command::new(program).args(words).output() {
        Ok(output) => output,
        Err(error) => panic!("cannot run {program}: {error}; get it with `apt-get install {package}`"),
    }
}

/// Runs a program that must succeed; what it printed.
pub(crate) fn succeed(program: &str, words: &[&str]) -> String {
    let output = run(program, words);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {words:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// The same on a thread of its own, while a server works on this one.
pub(crate) async fn succeed_beside(program: &'static str, words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let work = move || succeed(program, &words.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// A path as text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `qemu-nbd`, serving an image until it is dropped.
pub(crate) struct QemuNbd {
    pid: String,
    pub(crate) socket: PathBuf,
}

impl QemuNbd {
    pub(crate) fn start(directory: &Path, image: &Path, words: &[&str]) -> Self {
        let (socket, pid) = (directory.join("qemu.sock"), directory.join("qemu.pid"));
        let mut all = vec!["--fork", "--persistent", "--shared=4", "-k", text(&socket), "--pid-file", text(&pid)];
        all.extend(words);
        all.push(text(image));
        // It returns once it listens.
        succeed("qemu-nbd", &all);
        Self { pid: std::fs::read_to_string(pid).unwrap().trim().to_owned(), socket }
    }

    pub(crate) fn address(&self) -> Address {
        Address::unix(&self.socket, "")
    }
}

impl Drop for QemuNbd {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(&self.pid).status();
        // It has let go of its image and its socket only when it is gone.
        while runs(&self.pid) {
            std::thread::yield_now();
        }
    }
}

/// Whether the process runs. Where nobody fetches what orphans ended with, they stay as zombies.
fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with(['Z', 'X']))
}

/// A disk read through its extents only: what is not data must be zeros.
pub(crate) async fn read_by_extents(source: &dyn BlockSource) -> Vec<u8> {
    let mut out = vec![0; source.size() as usize];
    let extents = source.extents(0..source.size()).await.unwrap();
    check_cover(&extents, 0..source.size());
    for extent in extents.iter().filter(|extent| extent.kind == ExtentKind::Data) {
        let data = source.read_at(extent.offset, extent.len as usize).await.unwrap();
        out[extent.offset as usize..extent.end() as usize].copy_from_slice(&data);
    }
    out
}

/// Extents are in order and cover exactly the range.
pub(crate) fn check_cover(extents: &[BlockExtent], range: Range<u64>) {
    let mut at = range.start;
    for extent in extents {
        assert_eq!(extent.offset, at);
        assert!(extent.len > 0);
        at = extent.end();
    }
    assert_eq!(at, range.end);
}
