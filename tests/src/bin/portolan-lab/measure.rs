//! Time, processor and memory of what is measured, and tables of it.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

/// What one run took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    /// From beginning to end.
    pub(crate) wall: Duration,
    /// Of all threads, or of all children.
    pub(crate) cpu: Duration,
    /// The most memory that this process held meanwhile, in bytes; nothing for other programs.
    pub(crate) peak: Option<u64>,
}

/// Ticks of the kernel's accounts in a second; the same on every Linux that we build for.
const TICKS: u64 = 100;

/// Processor time of this process and of its children that have ended.
fn accounts() -> (Duration, Duration) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold blanks; times are the 14th to 17th fields.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<u64> = rest.split_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
    let ticks = |a: usize| fields.get(a).copied().unwrap_or(0) + fields.get(a + 1).copied().unwrap_or(0);
    let time = |ticks: u64| Duration::from_millis(ticks * 1000 / TICKS);
    (time(ticks(11)), time(ticks(13)))
}

/// A line of `/proc/<process>/status`, in bytes.
pub(crate) fn memory(process: &str, line: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let value = status.lines().find_map(|l| l.strip_prefix(line))?;
    let kib: u64 = value.trim_start_matches(':').trim().split(' ').next()?.parse().ok()?;
    Some(kib * 1024)
}

/// Measures work of this process.
pub(crate) async fn own<T>(work: impl Future<Output = T>) -> (Cost, T) {
    // Starts a new peak.
    let _ = fs::write("/proc/self/clear_refs", "5");
    let (before, start) = (accounts().0, Instant::now());
    let value = work.await;
    let wall = start.elapsed();
    (Cost { wall, cpu: accounts().0 - before, peak: memory("self", "VmHWM") }, value)
}

/// Measures another program, which must succeed.
pub(crate) fn program(command: &mut Command) -> Result<Cost, String> {
    let (before, start) = (accounts().1, Instant::now());
    let out = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let wall = start.elapsed();
    if !out.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&out.stderr)));
    }
    Ok(Cost { wall, cpu: accounts().1 - before, peak: None })
}

/// Several runs of each of several things, in the order of their first.
#[derive(Debug, Default)]
pub(crate) struct Runs(Vec<(String, Vec<Cost>)>);

impl Runs {
    pub(crate) fn add(&mut self, name: &str, cost: Cost) {
        match self.0.iter_mut().find(|(n, _)| n == name) {
            Some((_, costs)) => costs.push(cost),
            None => self.0.push((name.to_owned(), vec![cost])),
        }
    }

    fn fastest(&self, name: &str) -> Option<Duration> {
        self.0.iter().find(|(n, _)| n == name)?.1.iter().map(|c| c.wall).min()
    }

    /// The median of the times of that name, in seconds.
    pub(crate) fn median(&self, name: &str) -> Option<f64> {
        let costs = &self.0.iter().find(|(n, _)| n == name)?.1;
        Some(median(costs.iter().map(|c| c.wall.as_secs_f64()).collect()))
    }

    /// The most memory of the runs of that name, in bytes.
    pub(crate) fn peak(&self, name: &str) -> Option<u64> {
        self.0.iter().find(|(n, _)| n == name)?.1.iter().filter_map(|c| c.peak).max()
    }

    /// A table; rates are for `bytes` by the fastest run, ratios against the fastest run of `anchor`.
    pub(crate) fn table(&self, bytes: u64, anchor: &str) -> String {
        let mut text = format!("| what | wall s, min | median | MB/s | CPU s, min | peak MiB | min / {anchor} |\n");
        text.push_str("| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n");
        for (name, costs) in &self.0 {
            let mut walls: Vec<Duration> = costs.iter().map(|c| c.wall).collect();
            walls.sort();
            let (min, median) = (walls[0].as_secs_f64(), walls[walls.len() / 2].as_secs_f64());
            let cpu = costs.iter().map(|c| c.cpu).min().unwrap_or_default().as_secs_f64();
            let peak = costs.iter().filter_map(|c| c.peak).max();
            let peak = peak.map_or("–".to_owned(), |bytes| (bytes >> 20).to_string());
            let ratio = self.fastest(anchor).map_or("–".to_owned(), |a| format!("{:.2}", min / a.as_secs_f64()));
            let rate = bytes as f64 / 1e6 / min;
            text.push_str(&format!("| {name} | {min:.2} | {median:.2} | {rate:.0} | {cpu:.2} | {peak} | {ratio} |\n"));
        }
        text
    }
}

/// The middle one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The machine and the day, as a heading under which figures mean something.
pub(crate) fn heading(what: &str) -> String {
    let line = |program: &str, args: &[&str]| {
        let out = Command::new(program).args(args).output().ok();
        out.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
    };
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "### {what}, {}\n\n{} cores of {}, {} MiB, Linux {}, {}; load before: {}\n",
        line("date", &["+%F"]),
        line("nproc", &[]),
        model.trim_start_matches([' ', '\t', ':']),
        fs::read_to_string("/proc/meminfo")
            .ok()
            .and_then(|m| m.lines().next()?.split_whitespace().nth(1)?.parse::<u64>().ok())
            .unwrap_or(0)
            / 1024,
        line("uname", &["-r"]),
        line("sh", &["-c", "df -T /tmp | awk 'NR==2 {print $2}'"]),
        load.split(' ').next().unwrap_or_default(),
    )
}

/// Whether a program is installed.
pub(crate) fn installed(program: &str) -> bool {
    Command::new("sh").args(["-c", &format!("command -v {program} >/dev/null")]).status().is_ok_and(|s| s.success())
}
