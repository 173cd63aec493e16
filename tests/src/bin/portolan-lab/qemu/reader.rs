//! Reading a qcow2 image through `qemu-nbd`: our reader beside `nbdcopy`, and `dd` of the same bytes in a raw file.

use super::{shown, text};
use crate::measure::{Runs, installed, own, program};
use portolan_block::{BlockSource, ExtentKind};
use portolan_nbd::{Address, ClientOptions, NbdSource};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

pub(super) const NBDCOPY: &str = "nbdcopy to nothing";
pub(super) const DD: &str = "dd of the raw file";
pub(super) const OURS: &str = "Portolan's NBD reader, as backups use it";
const ONE: &str = "Portolan's NBD reader, one connection";

/// As much as a backup has under way on two processors.
const BATCH: u64 = 2 << 20;
const AT_ONCE: usize = 6;

/// A `qemu-nbd` that serves an image for reading. It ends with this.
struct Served {
    process: Child,
    socket: PathBuf,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Served {
    async fn start(image: &Path, dir: &Path) -> Result<Self, String> {
        let socket = dir.join("nbd.sock");
        let mut command = Command::new("qemu-nbd");
        command.args(["--read-only", "--persistent", "--shared=8", "--format=qcow2", "--socket"]);
        command.arg(&socket).arg(image).stdin(Stdio::null());
        let process = command.spawn().map_err(|e| format!("qemu-nbd: {e}"))?;
        let served = Self { process, socket };
        let start = Instant::now();
        while std::os::unix::net::UnixStream::connect(&served.socket).is_err() {
            if start.elapsed() > Duration::from_secs(20) {
                return Err("qemu-nbd does not listen".into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(served)
    }
}

/// Measures all of them, in turns.
pub(super) async fn run(raw: &Path, qcow2: &Path, dir: &Path, data: u64, rounds: usize) -> Result<Runs, String> {
    let served = Served::start(qcow2, dir).await?;
    let mut runs = Runs::default();
    for round in 0..=rounds {
        let mut add = |name: &str, cost| {
            // The first round brings everything into the page cache.
            if round > 0 {
                runs.add(name, cost);
            }
        };
        let dd = format!("if={}", shown(raw));
        add(DD, program(Command::new("dd").args([dd.as_str(), "of=/dev/null", "bs=1M", "status=none"]))?);
        if installed("nbdcopy") {
            let url = format!("nbd+unix:///?socket={}", shown(&served.socket));
            add(NBDCOPY, program(Command::new("nbdcopy").args([url.as_str(), "null:"]))?);
        }
        for (name, connections) in [(OURS, 2), (ONE, 1)] {
            let (cost, read) = own(read_all(&served.socket, connections)).await;
            let read = read?;
            if read < data {
                return Err(format!("{read} bytes were read of {data}"));
            }
            add(name, cost);
        }
    }
    Ok(runs)
}

/// Reads all data of the export, and how much that is.
async fn read_all(socket: &Path, connections: usize) -> Result<u64, String> {
    let address = Address::unix(socket, "");
    let source = NbdSource::connect(&address, &ClientOptions::default(), connections).await.map_err(text)?;
    let source = Arc::new(source);
    let extents = source.extents(0..source.size()).await.map_err(text)?;
    let data = extents.into_iter().filter(|e| e.kind == ExtentKind::Data).map(|e| e.range());
    let batches = data.flat_map(|range: Range<u64>| {
        (range.start..range.end)
            .step_by(BATCH as usize)
            .map(move |at| at..(at + BATCH).min(range.end))
            .collect::<Vec<_>>()
    });
    let (mut running, mut read) = (JoinSet::new(), 0);
    let mut take = |done: Result<Result<u64, String>, tokio::task::JoinError>| {
        read += done.map_err(text)??;
        Ok::<_, String>(())
    };
    for batch in batches {
        if running.len() >= AT_ONCE
            && let Some(done) = running.join_next().await
        {
            take(done)?;
        }
        let source = source.clone();
        running.spawn(async move {
            let bytes = source.read_at(batch.start, (batch.end - batch.start) as usize).await.map_err(text)?;
            Ok(bytes.len() as u64)
        });
    }
    while let Some(done) = running.join_next().await {
        take(done)?;
    }
    source.close().await.map_err(text)?;
    Ok(read)
}
