//! Templates: what a file in the directory of images is, and whether it may be used.
//!
//! An image says in its header what lies below it and where its data is, and QEMU would open that. So the header is
//! read here first, without QEMU, and an image that names anything but a file beside it is refused. Then `qemu-img`
//! must find the same. QEMU is always told the whole chain, with each format: it takes nothing from a header.

use crate::QemuError;
use crate::layout::is_plain;
use crate::programs::run_within;
use crate::spec::{BaseFile, ImageFormat};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;
use tokio::process::Command;

/// How deep a chain of images may be.
const DEEPEST: usize = 8;
/// How long `qemu-img` may look at an image.
const LOOK_LIMIT: Duration = Duration::from_secs(20);
/// How much memory it may take for that.
const LOOK_MEMORY: u64 = 1 << 30;
/// The longest name of a backing file that the format knows.
const LONGEST_NAME: u32 = 1023;
/// Data of the image lies in another file.
const EXTERNAL_DATA: u64 = 1 << 2;
const DATA_FILE_NAME: u32 = 0x4441_5441;
const BACKING_FORMAT: u32 = 0xe279_2aca;

/// A template that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    /// The file's name without its ending.
    pub(crate) id: String,
    /// Virtual size in bytes.
    pub(crate) size_bytes: u64,
    /// The file, and those below it.
    pub(crate) chain: Vec<BaseFile>,
}

/// The names of the images in the directory, and their files.
pub(crate) fn list(dir: &Path) -> Result<Vec<(String, String)>, QemuError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(QemuError::file("list", dir))? {
        let entry = entry.map_err(QemuError::file("list", dir))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if let Some((id, _)) = split(&name)
            && entry.file_type().is_ok_and(|kind| kind.is_file())
        {
            found.push((id.to_owned(), name.clone()));
        }
    }
    found.sort_unstable();
    // Of a raw and a qcow2 file of one name, the qcow2 one counts.
    found.dedup_by(|later, first| later.0 == first.0);
    Ok(found)
}

/// The file of an image; nothing when there is none.
pub(crate) fn file_of(dir: &Path, id: &str) -> Option<String> {
    if !is_plain(id) {
        return None;
    }
    let names = [ImageFormat::Qcow2, ImageFormat::Raw].map(|format| format!("{id}.{}", format.name()));
    names.into_iter().find(|name| std::fs::symlink_metadata(dir.join(name)).is_ok_and(|file| file.is_file()))
}

fn split(name: &str) -> Option<(&str, ImageFormat)> {
    if !is_plain(name) {
        return None;
    }
    let formats = [ImageFormat::Qcow2, ImageFormat::Raw];
    formats.into_iter().find_map(|format| {
        let id = name.strip_suffix(format.name())?.strip_suffix('.')?;
        (!id.is_empty()).then_some((id, format))
    })
}

/// Reads the headers of an image and of all below it, and refuses what leads anywhere else.
pub(crate) fn inspect(dir: &Path, file: &str) -> Result<Template, QemuError> {
    let refuse = |reason: String| QemuError::Image { image: file.to_owned(), reason };
    let (id, mut format) = split(file).ok_or_else(|| refuse("it is neither .qcow2 nor .raw".into()))?;
    let (mut chain, mut size_bytes, mut name) = (Vec::new(), None, file.to_owned());
    loop {
        if chain.len() == DEEPEST {
            return Err(refuse(format!("more than {DEEPEST} files lie over each other")));
        }
        let path = dir.join(&name);
        let kind = std::fs::symlink_metadata(&path).map_err(|e| refuse(format!("'{name}' cannot be opened: {e}")))?;
        if !kind.is_file() {
            return Err(refuse(format!("'{name}' is no regular file")));
        }
        let mut image = File::open(&path).map_err(|e| refuse(format!("'{name}' cannot be opened: {e}")))?;
        let stat = image.metadata().map_err(|e| refuse(e.to_string()))?;
        let header = match format {
            ImageFormat::Raw => Header { size_bytes: stat.len(), ..Header::default() },
            ImageFormat::Qcow2 => read_header(&mut image).map_err(&refuse)?,
        };
        let modified_ns = stat.mtime().saturating_mul(1_000_000_000).saturating_add(stat.mtime_nsec());
        chain.push(BaseFile { file: name, format, length: stat.len(), modified_ns });
        size_bytes.get_or_insert(header.size_bytes);
        let Some(backing) = header.backing else { break };
        let Some((_, below)) = split(&backing) else {
            return Err(refuse(format!("it lies over '{}', which is no image beside it", backing.escape_debug())));
        };
        if header.backing_format.is_some_and(|said| said != below.name()) {
            return Err(refuse("it says another format of what is below it".into()));
        }
        (name, format) = (backing, below);
    }
    Ok(Template { id: id.to_owned(), size_bytes: size_bytes.unwrap_or(0), chain })
}

/// Has `qemu-img` look at an image whose header is fine.
pub(crate) async fn confirm(qemu_img: &Path, dir: &Path, template: &Template) -> Result<(), QemuError> {
    let Some(top) = template.chain.first() else { return Ok(()) };
    let refuse = |reason: String| QemuError::Image { image: top.file.clone(), reason };
    let mut command = Command::new(qemu_img);
    command.args(["info", "--output=json", "--force-share", "--image-opts"]);
    command.arg(image_options(&dir.join(&top.file), top.format));
    let told = run_within(&mut command, LOOK_LIMIT, Some(LOOK_MEMORY)).await.map_err(|e| refuse(e.to_string()))?;
    let info: serde_json::Value = serde_json::from_str(&told).map_err(|e| refuse(e.to_string()))?;
    let specific = &info["format-specific"]["data"];
    if specific["data-file"].is_string() {
        return Err(refuse("its data is in another file".into()));
    }
    if specific["corrupt"].as_bool() == Some(true) {
        return Err(refuse("it is marked as corrupt".into()));
    }
    if info["encrypted"].as_bool() == Some(true) {
        return Err(refuse("it is encrypted".into()));
    }
    let below = template.chain.get(1).map(|file| file.file.as_str());
    if info["virtual-size"].as_u64() != Some(template.size_bytes) || info["backing-filename"].as_str() != below {
        return Err(refuse("QEMU reads its header in another way".into()));
    }
    Ok(())
}

/// QEMU's words for a file and its format, for programs that take no JSON.
pub(crate) fn image_options(path: &Path, format: ImageFormat) -> String {
    let escaped = path.to_string_lossy().replace(',', ",,");
    format!("driver={},file.driver=file,file.filename={escaped}", format.name())
}

/// Whether the files below a disk are as they were when it was made.
pub(crate) fn unchanged(dir: &Path, chain: &[BaseFile]) -> Result<(), QemuError> {
    let Some(top) = chain.first() else { return Ok(()) };
    let now = inspect(dir, &top.file)?;
    if now.chain == chain {
        return Ok(());
    }
    Err(QemuError::Image { image: top.file.clone(), reason: "it changed since the guest was made of it".into() })
}

#[derive(Debug, Default, PartialEq)]
struct Header {
    size_bytes: u64,
    backing: Option<String>,
    backing_format: Option<String>,
}

fn read_header(image: &mut (impl Read + Seek)) -> Result<Header, String> {
    let damaged = |_: io::Error| "its header is damaged".to_owned();
    let mut bytes = [0; 104];
    image.seek(SeekFrom::Start(0)).map_err(damaged)?;
    image.read_exact(&mut bytes[..72]).map_err(damaged)?;
    let u32_at = |bytes: &[u8], at: usize| bytes[at..at + 4].iter().fold(0_u32, |n, b| n << 8 | u32::from(*b));
    let u64_at = |bytes: &[u8], at: usize| bytes[at..at + 8].iter().fold(0_u64, |n, b| n << 8 | u64::from(*b));
    if u32_at(&bytes, 0) != 0x5146_49fb {
        return Err("it is no qcow2 image".into());
    }
    let (version, bits) = (u32_at(&bytes, 4), u32_at(&bytes, 20));
    if !(2..=3).contains(&version) || !(9..=21).contains(&bits) {
        return Err("it is of a version that is not known".into());
    }
    if u32_at(&bytes, 32) != 0 {
        return Err("it is encrypted".into());
    }
    let mut length = 72_u64;
    if version == 3 {
        image.read_exact(&mut bytes[72..]).map_err(damaged)?;
        length = u64::from(u32_at(&bytes, 100));
        if u64_at(&bytes, 72) & EXTERNAL_DATA != 0 {
            return Err("its data is in another file".into());
        }
    }
    let cluster = 1_u64 << bits;
    if length < 72 || length > cluster {
        return Err("its header is damaged".into());
    }
    let mut header = Header { size_bytes: u64_at(&bytes, 24), ..Header::default() };
    let (offset, size) = (u64_at(&bytes, 8), u32_at(&bytes, 16));
    let mut extensions_end = cluster;
    if offset != 0 && size != 0 {
        if size > LONGEST_NAME || offset.saturating_add(u64::from(size)) > cluster {
            return Err("its header is damaged".into());
        }
        let mut name = vec![0; size as usize];
        image.seek(SeekFrom::Start(offset)).map_err(damaged)?;
        image.read_exact(&mut name).map_err(damaged)?;
        header.backing = Some(String::from_utf8_lossy(&name).into_owned());
        extensions_end = offset;
    }
    let mut at = length;
    while at.saturating_add(8) <= extensions_end {
        let mut word = [0; 8];
        image.seek(SeekFrom::Start(at)).map_err(damaged)?;
        image.read_exact(&mut word).map_err(damaged)?;
        let (kind, size) = (u32_at(&word, 0), u64::from(u32_at(&word, 4)));
        if kind == 0 {
            break;
        }
        if at + 8 + size > extensions_end {
            return Err("its header is damaged".into());
        }
        if kind == DATA_FILE_NAME {
            return Err("its data is in another file".into());
        }
        if kind == BACKING_FORMAT {
            let mut said = vec![0; usize::try_from(size.min(64)).unwrap_or(64)];
            image.read_exact(&mut said).map_err(damaged)?;
            header.backing_format = Some(String::from_utf8_lossy(&said).into_owned());
        }
        at += 8 + size.next_multiple_of(8);
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..600), real in any::<bool>()) {
            if real && bytes.len() > 24 {
                bytes[..8].copy_from_slice(&[0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3]);
                bytes[20..24].copy_from_slice(&[0, 0, 0, 9]);
            }
            let _ = read_header(&mut io::Cursor::new(bytes));
        }
    }

    #[test]
    fn names_of_images_lead_nowhere_else() {
        assert_eq!(split("debian-12.qcow2"), Some(("debian-12", ImageFormat::Qcow2)));
        assert_eq!(split("a.b.raw"), Some(("a.b", ImageFormat::Raw)));
        for wrong in ["../x.raw", "/etc/x.raw", "x", ".raw", "json:x.raw", "nbd:x.raw", "a/b.raw", "x.vmdk", ""] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }
}
