//! Which accelerator guests run with.
//!
//! That `/dev/kvm` is there says little: in some virtual machines it takes a guest and then does not run it, or runs it
//! a thousand times slower. So `auto` believes only a guest that did what it should: a boot sector that goes into
//! protected mode, adds with SSE, counts to twenty million and reports through QEMU's exit device. That is done once,
//! when the first guest is started.

use crate::programs::Programs;
use crate::settings::AccelSetting;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::time::timeout;

/// How long the test guest may take.
pub const PROBE_LIMIT: Duration = Duration::from_secs(20);
/// What QEMU exits with when the boot sector reports: twice its number and one.
const PROVED: i32 = 0x2a * 2 + 1;

/// ```text
/// 7c00 cli; xor ax,ax; mov ds,ax; lgdt [7c70]; mov eax,cr0; or al,1; mov cr0,eax; jmp 8:7c1a
/// 7c1a mov ax,16; mov ds,ax                              ; flat 32 bit segments
/// 7c20 mov eax,cr0; and al,fb; or al,2; mov cr0,eax      ; the floating point unit is there
/// 7c2a mov eax,cr4; or ax,600; mov cr4,eax               ; and SSE may be used
/// 7c34 pcmpeqd xmm0,xmm0; paddd xmm0,xmm0                ; -1 + -1
/// 7c3c mov ecx,20000000; 7c41 dec ecx; jnz 7c41
/// 7c44 movd eax,xmm0; cmp eax,-2; jne 7c51; mov al,2a; out f4,al
/// 7c51 hlt; jmp 7c51
/// 7c58 the descriptor table: nothing, code, data; 7c70 its length and place
/// ```
const BOOT_SECTOR: [u8; 118] = [
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x0f, 0x01, 0x16, 0x70, 0x7c, 0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, 0x66,
    0xea, 0x1a, 0x7c, 0x00, 0x00, 0x08, 0x00, 0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8, 0x0f, 0x20, 0xc0, 0x24, 0xfb, 0x0c,
    0x02, 0x0f, 0x22, 0xc0, 0x0f, 0x20, 0xe0, 0x66, 0x0d, 0x00, 0x06, 0x0f, 0x22, 0xe0, 0x66, 0x0f, 0x76, 0xc0, 0x66,
    0x0f, 0xfe, 0xc0, 0xb9, 0x00, 0x2d, 0x31, 0x01, 0x49, 0x75, 0xfd, 0x66, 0x0f, 0x7e, 0xc0, 0x83, 0xf8, 0xfe, 0x75,
    0x04, 0xb0, 0x2a, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd, 0x8d, 0x74, 0x26, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0xff, 0xff, 0x00, 0x00, 0x00, 0x9a, 0xcf, 0x00, 0xff, 0xff, 0x00, 0x00, 0x00, 0x92, 0xcf, 0x00, 0x17, 0x00,
    0x58, 0x7c, 0x00, 0x00,
];

/// How guests' processors are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// By the host's processors.
    Kvm,
    /// Translated by QEMU.
    Tcg,
}

impl Accel {
    /// The words for the command line.
    pub fn argument(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg,thread=multi",
        }
    }

    /// The processor that a guest sees: all that there is.
    pub fn cpu(self) -> &'static str {
        match self {
            Self::Kvm => "host",
            Self::Tcg => "max",
        }
    }
}

/// Decides once.
#[derive(Debug, Default)]
pub(crate) struct AccelChoice(OnceCell<Accel>);

impl AccelChoice {
    /// The accelerator; the first call with `auto` may take up to [`PROBE_LIMIT`].
    pub(crate) async fn get(&self, setting: AccelSetting, programs: &Programs, machine: &str) -> Accel {
        match setting {
            AccelSetting::Kvm => Accel::Kvm,
            AccelSetting::Tcg => Accel::Tcg,
            AccelSetting::Auto => *self.0.get_or_init(|| detect(programs, machine)).await,
        }
    }
}

async fn detect(programs: &Programs, machine: &str) -> Accel {
    match probe(&programs.qemu, machine, Accel::Kvm).await {
        Ok(()) => {
            tracing::info!("a test guest ran with KVM");
            Accel::Kvm
        }
        Err(reason) => {
            tracing::warn!(reason, "guests are run without KVM, many times slower");
            Accel::Tcg
        }
    }
}

/// Boots the test guest; fails with the reason why it is not to be trusted.
async fn probe(qemu: &Path, machine: &str, accel: Accel) -> Result<(), String> {
    if accel == Accel::Kvm {
        let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
        opened.map_err(|e| format!("/dev/kvm cannot be opened: {e}"))?;
    }
    let mut sector = [0; 512];
    sector[..BOOT_SECTOR.len()].copy_from_slice(&BOOT_SECTOR);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let disk = ScratchFile::new(&sector).map_err(|e| format!("a test disk cannot be written: {e}"))?;
    let mut command = Command::new(qemu);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "16"]);
    command.args([
        "-machine",
        machine,
        "-accel",
        accel.argument(),
        "-cpu",
        accel.cpu(),
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=4",
    ]);
    // The path goes as JSON, so that no character in it means anything.
    let node = serde_json::json!({ "driver": "raw", "node-name": "d0", "read-only": true,
        "file": { "driver": "file", "filename": disk.0.to_string_lossy() } });
    command.arg("-blockdev").arg(node.to_string()).args(["-device", "virtio-blk-pci,drive=d0"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|e| format!("QEMU cannot be run: {e}"))?;
    let said = child.stderr.take().map(BufReader::new);
    // QEMU does not end by itself when KVM gives up: it says so, and holds the guest.
    let gave_up = async move {
        if let Some(mut said) = said {
            let mut line = Vec::new();
            while let Ok(1..) = said.read_until(b'\n', &mut line).await {
                let text = String::from_utf8_lossy(&line);
                if text.contains("internal error") || text.contains("emulation failure") {
                    return text.trim().to_owned();
                }
                line.clear();
            }
        }
        std::future::pending().await
    };
    let ended = async {
        tokio::select! {
            status = child.wait() => match status {
                Ok(status) if status.code() == Some(PROVED) => Ok(()),
                Ok(status) => Err(format!("the test guest did not run: {status}")),
                Err(e) => Err(format!("the test guest cannot be waited for: {e}")),
            },
            reason = gave_up => Err(format!("the test guest did not run: {reason}")),
        }
    };
    let slow = || Err(format!("the test guest was not done within {} s", PROBE_LIMIT.as_secs()));
    let done = timeout(PROBE_LIMIT, ended).await.unwrap_or_else(|_| slow());
    let _ = child.kill().await;
    done
}

/// A file of 1 MiB that is gone when this is dropped.
struct ScratchFile(std::path::PathBuf);

impl ScratchFile {
    fn new(begin: &[u8]) -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("portolan-accel-{}.raw", uuid::Uuid::new_v4().simple()));
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
        let made = Self(path);
        file.write_all(begin)?;
        // Firmware wants no disk that is smaller.
        file.set_len(1 << 20)?;
        Ok(made)
    }
}

impl Drop for ScratchFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::QemuSettings;

    #[tokio::test]
    async fn the_test_guest_runs_where_guests_run() {
        let programs = Programs::find(&QemuSettings::new("/nowhere".into())).await.unwrap();
        probe(&programs.qemu, "q35", Accel::Tcg).await.unwrap();
        assert!(probe(Path::new("/bin/true"), "q35", Accel::Tcg).await.unwrap_err().contains("did not run"));
        assert!(probe(Path::new("/no/such/qemu"), "q35", Accel::Tcg).await.unwrap_err().contains("cannot be run"));
    }

    #[tokio::test]
    async fn kvm_is_believed_only_where_it_works() {
        let programs = Programs::find(&QemuSettings::new("/nowhere".into())).await.unwrap();
        let choice = AccelChoice::default();
        let found = choice.get(AccelSetting::Auto, &programs, "q35").await;
        // A machine whose processor's own virtualisation is not in the kernel cannot run stock guests, whatever
        // /dev/kvm says. Where it is, both answers may be right.
        let has = |module: &str| Path::new("/sys/module").join(module).exists();
        if !has("kvm_intel") && !has("kvm_amd") {
            assert_eq!(found, Accel::Tcg);
        }
        assert_eq!(choice.get(AccelSetting::Auto, &programs, "q35").await, found, "decided once");
        assert_eq!(choice.get(AccelSetting::Tcg, &programs, "q35").await, Accel::Tcg);
    }
}
