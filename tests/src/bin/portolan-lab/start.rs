//! How soon the server is ready, what its waits for the disk cost, and its memory at rest.

use crate::measure::{heading, installed, median, memory};
use portolan_e2e::Site;
use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

pub(crate) async fn run(quick: bool) -> Result<(), String> {
    let (rounds, idle) = if quick { (2, 2) } else { (10, 30) };
    let head = heading("Start");
    let (mut first, mut again, mut fsyncs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let site = Site::empty();
        let start = Instant::now();
        let server = site.start().await;
        first.push(start.elapsed().as_secs_f64() * 1e3);
        server.stop().await;
        let start = Instant::now();
        let server = site.start().await;
        again.push(start.elapsed().as_secs_f64() * 1e3);
        server.stop().await;
        fsyncs.push(one_fsync(site.dir())?);
    }
    let site = Site::empty();
    let server = site.start().await;
    tokio::time::sleep(Duration::from_secs(idle)).await;
    let rss = memory(&server.pid().to_string(), "VmRSS").unwrap_or(0);
    server.stop().await;

    println!("{head}");
    println!("A release build in an empty directory, ready when `/readyz` says so; {rounds} rounds.\n");
    println!("| what | median | min |\n| --- | ---: | ---: |");
    let min = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
    let fsync = median(fsyncs.clone());
    println!("| first start, ms | {:.0} | {:.0} |", median(first.clone()), min(&first));
    println!("| later start, ms | {:.0} | {:.0} |", median(again.clone()), min(&again));
    println!("| one fsync of a growing file, ms | {fsync:.2} | {:.2} |", min(&fsyncs));
    println!("| memory after {idle} s at rest, MiB | {:.1} | |", rss as f64 / f64::from(1 << 20));
    match count_fsyncs().await {
        Some(count) => println!("| fsyncs of a first start (≈ {:.0} ms) | {count} | |", count as f64 * fsync),
        None => println!("| fsyncs of a first start | not counted: strace is not installed | |"),
    }
    println!();
    Ok(())
}

/// The median of writing 4 KiB and waiting for the disk, in milliseconds.
fn one_fsync(dir: &std::path::Path) -> Result<f64, String> {
    let mut file = File::create(dir.join("fsync")).map_err(|e| e.to_string())?;
    let mut times = Vec::new();
    for _ in 0..30 {
        let start = Instant::now();
        file.write_all(&[7; 4096]).and_then(|()| file.sync_all()).map_err(|e| e.to_string())?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(median(times))
}

/// How often a first start waits for the disk, counted by strace.
async fn count_fsyncs() -> Option<u64> {
    if !installed("strace") {
        return None;
    }
    let site = Site::empty();
    let log = site.dir().join("strace");
    let server = site.start_under(&["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o"], &log).await;
    server.stop().await;
    let text = std::fs::read_to_string(&log).ok()?;
    Some(text.lines().filter(|l| l.contains("sync(") && !l.contains("resumed>")).count() as u64)
}
