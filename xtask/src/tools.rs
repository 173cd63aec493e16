//! The programs that tests and checks need, and how to get them.

use crate::shell::{Result, Shell, XtaskError, output, run};
use std::path::PathBuf;

/// A program, and where it comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    program: &'static str,
    from: From,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum From {
    /// A Debian package.
    Debian(&'static str),
    /// A package of crates.io, at this version or the newest.
    Cargo { package: &'static str, version: Option<&'static str>, debug: bool },
}

/// What `cargo xtask test` needs.
pub(crate) const TEST: &[Tool] = &[
    Tool { program: "initdb", from: From::Debian("postgresql") },
    Tool { program: "postgres", from: From::Debian("postgresql") },
    Tool { program: "mariadbd", from: From::Debian("mariadb-server") },
    Tool { program: "mariadb-install-db", from: From::Debian("mariadb-server") },
    Tool { program: "qemu-img", from: From::Debian("qemu-utils") },
    Tool { program: "qemu-nbd", from: From::Debian("qemu-utils") },
    Tool { program: "nbdinfo", from: From::Debian("libnbd-bin") },
    Tool { program: "nbdcopy", from: From::Debian("libnbd-bin") },
    Tool { program: "qemu-system-x86_64", from: From::Debian("qemu-system-x86") },
    Tool { program: "cargo-nextest", from: From::Cargo { package: "cargo-nextest", version: None, debug: false } },
];

/// What makes the demo guest. The last one is a file, no program.
pub(crate) const GUEST: &[Tool] = &[
    Tool { program: "apt-cache", from: From::Debian("apt") },
    Tool { program: "qemu-img", from: From::Debian("qemu-utils") },
    Tool { program: "busybox", from: From::Debian("busybox-static") },
    Tool { program: "cpio", from: From::Debian("cpio") },
    Tool { program: "syslinux", from: From::Debian("syslinux") },
    Tool { program: "mcopy", from: From::Debian("mtools") },
    Tool { program: "mkfs.fat", from: From::Debian("dosfstools") },
    Tool { program: "mke2fs", from: From::Debian("e2fsprogs") },
    Tool { program: "sfdisk", from: From::Debian("fdisk") },
    Tool { program: "objdump", from: From::Debian("binutils") },
    Tool { program: "/usr/lib/syslinux/mbr/mbr.bin", from: From::Debian("syslinux-common") },
];

/// What checks licences and sources. A debug build is done in a third of the time and takes seconds to run.
pub(crate) const DENY: &[Tool] = &[Tool {
    program: "cargo-deny",
    from: From::Cargo { package: "cargo-deny", version: Some("0.20.2"), debug: true },
}];

/// What `bench` compares with.
pub(crate) const BENCH: &[Tool] = &[
    Tool { program: "zstd", from: From::Debian("zstd") },
    Tool { program: "restic", from: From::Debian("restic") },
    Tool { program: "nbdcopy", from: From::Debian("libnbd-bin") },
];

/// What `bench qemu` cannot do without.
pub(crate) const QEMU_BENCH: &[Tool] = &[
    Tool { program: "qemu-system-x86_64", from: From::Debian("qemu-system-x86") },
    Tool { program: "qemu-img", from: From::Debian("qemu-utils") },
    Tool { program: "qemu-nbd", from: From::Debian("qemu-utils") },
];

impl Tool {
    fn is_there(&self, shell: &Shell) -> bool {
        shell.find(self.program).is_some() || postgres_places().iter().any(|dir| dir.join(self.program).is_file())
    }
}

/// Debian's PostgreSQL keeps its server programs in a directory of each version.
fn postgres_places() -> Vec<PathBuf> {
    let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") else { return Vec::new() };
    versions.flatten().map(|version| version.path().join("bin")).collect()
}

/// Fails with a text that says what is missing and how to get it, or with `install` gets it.
pub(crate) fn need(shell: &Shell, tools: &[Tool], install: bool) -> Result<()> {
    let missing: Vec<Tool> = tools.iter().filter(|tool| !tool.is_there(shell)).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !install {
        return Err(XtaskError::Missing(advice(&missing)));
    }
    let debian = packages(&missing);
    if !debian.is_empty() {
        apt(shell, &debian)?;
    }
    for tool in &missing {
        if let From::Cargo { package, version, debug } = tool.from {
            cargo_install(shell, package, version, debug)?;
        }
    }
    let still: Vec<Tool> = tools.iter().filter(|tool| !tool.is_there(shell)).copied().collect();
    if still.is_empty() { Ok(()) } else { Err(XtaskError::Missing(advice(&still))) }
}

fn packages(missing: &[Tool]) -> Vec<&'static str> {
    let mut names: Vec<&str> = Vec::new();
    for tool in missing {
        if let From::Debian(package) = tool.from
            && !names.contains(&package)
        {
            names.push(package);
        }
    }
    names
}

fn advice(missing: &[Tool]) -> String {
    let programs: Vec<&str> = missing.iter().map(|tool| tool.program).collect();
    let mut text = format!("these programs are missing: {}\nget them with\n", programs.join(", "));
    let debian = packages(missing);
    if !debian.is_empty() {
        text.push_str(&format!("  apt-get update && apt-get install --no-install-recommends {}\n", debian.join(" ")));
    }
    for tool in missing {
        if let From::Cargo { package, version, .. } = tool.from {
            let version = version.map(|v| format!("@{v}")).unwrap_or_default();
            text.push_str(&format!("  cargo install --locked {package}{version}\n"));
        }
    }
    text.push_str("or, as root on Debian, with the option --install");
    text
}

fn apt(shell: &Shell, packages: &[&str]) -> Result<()> {
    let user = output(shell.command("id").arg("-u"))?;
    if user.trim_ascii() != b"0" || shell.find("apt-get").is_none() {
        let list = packages.join(" ");
        return Err(XtaskError::Missing(format!("only root can install Debian packages: {list}")));
    }
    let apt = |words: &[&str]| {
        let mut command = shell.command("apt-get");
        // Servers that tests start themselves need not be started by their packages.
        command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
        // Somebody else may be installing something just now.
        run(command.args(["-o", "DPkg::Lock::Timeout=300"]).args(words))
    };
    // Nothing that is there is taken away: apt would, where packages do not fit each other.
    let install = |packages: &[&str], options: &[&str]| {
        let mut words = vec!["install", "-q", "-y", "--no-install-recommends", "--no-remove"];
        words.extend(options);
        words.extend(packages);
        apt(&words)
    };
    apt(&["update", "-q"])?;
    let (qemu, others): (Vec<&str>, Vec<&str>) = packages.iter().copied().partition(|name| QEMU.contains(name));
    if !others.is_empty() {
        install(&others, &[])?;
    }
    if qemu.is_empty() {
        return Ok(());
    }
    // Debian's packages of QEMU must be of one version: all of them, wherever some came from before. The backports
    // have the newer one.
    let Some(suite) = backports() else { return install(QEMU, &[]) };
    let source = std::path::Path::new("/etc/apt/sources.list.d/portolan-backports.list");
    if !has_source(&suite) {
        let line = format!("deb http://deb.debian.org/debian {suite} main\n");
        let failed = |source_error| XtaskError::File { action: "write", path: source.to_owned(), source: source_error };
        std::fs::write(source, line).map_err(failed)?;
        apt(&["update", "-q"])?;
    }
    install(QEMU, &["-t", &suite]).or_else(|_| {
        println!("{suite} does not have them: trying the plain ones");
        install(QEMU, &[])
    })
}

/// The packages that programs of QEMU are in.
const QEMU: &[&str] = &["qemu-utils", "qemu-system-x86"];

/// The suite of backports for this release of Debian.
fn backports() -> Option<String> {
    let release = std::fs::read_to_string("/etc/os-release").ok()?;
    let says = |key: &str| release.lines().find_map(|line| line.strip_prefix(key)).map(|word| word.trim_matches('"'));
    let debian = says("ID=") == Some("debian");
    says("VERSION_CODENAME=").filter(|name| debian && !name.is_empty()).map(|name| format!("{name}-backports"))
}

/// Whether apt asks that suite already.
fn has_source(suite: &str) -> bool {
    let files = std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|file| file.path());
    let kinds = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "list" || kind == "sources");
    let mut texts = files.filter(kinds).chain([PathBuf::from("/etc/apt/sources.list")]);
    texts.any(|path| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().any(|line| {
            let line = line.trim();
            !line.starts_with('#') && line.split_whitespace().any(|word| word == suite)
        })
    })
}

fn cargo_install(shell: &Shell, package: &str, version: Option<&str>, debug: bool) -> Result<()> {
    let root = shell.cache.join("tools");
    let mut command = shell.cargo(["install", "--locked"]);
    // Its own temporary directory to build in: gigabytes that nobody needs again.
    command.env_remove("CARGO_TARGET_DIR").arg("--root").arg(root);
    if debug {
        command.arg("--debug");
    }
    command.arg(version.map_or_else(|| package.to_owned(), |v| format!("{package}@{v}")));
    run(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_each_package_once() {
        let text = advice(TEST);
        assert_eq!(text.matches("postgresql").count(), 1, "{text}");
        let guest = advice(GUEST);
        assert!(guest.contains(" syslinux-common") && guest.contains(" mtools"), "{guest}");
        for word in ["initdb", "mariadbd", "qemu-utils", "cargo install --locked cargo-nextest", "--install"] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}
