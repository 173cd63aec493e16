//! Disk images: what they are, what they stand on, and opening them.

use crate::qcow2::{Header, has_magic};
use crate::source::{Content, Watched};
use crate::tree::{Tree, TreeError};
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder};
use portolan_block::BlockError;
use portolan_driver::DriverError;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// No chain of backing files is longer.
const MAX_CHAIN: usize = 32;

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// It cannot be opened, or leads out of the root.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// It contradicts itself.
    #[error("damaged at byte {offset}: {what}")]
    Corrupt {
        /// Where on the disk, in bytes.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// It uses something that the driver cannot do.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(io::Error),
}

/// The formats that the driver knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Raw,
    Qcow2,
}

impl Format {
    /// The format that a file name stands for, and the name without its ending.
    pub(crate) fn of(name: &str) -> Option<(Self, &str)> {
        match name.rsplit_once('.')? {
            ("", _) => None,
            (stem, "raw") => Some((Self::Raw, stem)),
            (stem, "qcow2") => Some((Self::Qcow2, stem)),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// An image that is open for reading.
pub(crate) struct Image {
    pub(crate) size: u64,
    pub(crate) content: Content,
    /// Every file that the content comes from.
    pub(crate) files: Vec<Watched>,
}

/// One file of a chain.
struct Layer {
    watched: Watched,
    header: Option<Header>,
}

/// The virtual size of an image that looks whole. Reads headers and first-level tables only.
pub(crate) fn probe(tree: &Tree, path: &Path) -> Result<u64, ImageError> {
    let layers = chain(tree, path)?;
    for layer in &layers {
        if let Some(header) = &layer.header {
            header.check_tables(&layer.watched.file, false)?;
        }
    }
    Ok(layers.first().map_or(0, size))
}

/// Opens an image after checking all of its tables. Errors name the image.
pub(crate) fn open(tree: &Tree, path: &Path) -> Result<Image, DriverError> {
    let shown = path.display();
    try_open(tree, path).map_err(|error| match error {
        ImageError::Corrupt { offset, what } => BlockError::Corrupt { offset, what: format!("{shown}: {what}") }.into(),
        ImageError::Unsupported(what) => DriverError::Unsupported(format!("{shown}: {what}")),
        ImageError::Io(source) => BlockError::Io { action: "read", offset: 0, source: named(path, &source) }.into(),
        ImageError::Tree(TreeError::Io { path, source }) if source.kind() == io::ErrorKind::NotFound => {
            DriverError::NotFound { what: "image", id: path }
        }
        ImageError::Tree(TreeError::Io { path, source }) => {
            BlockError::Io { action: "open", offset: 0, source: named(Path::new(&path), &source) }.into()
        }
        ImageError::Tree(error) => DriverError::Malformed(format!("{shown}: {error}")),
    })
}

/// The same error, saying which file it is about.
fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn try_open(tree: &Tree, path: &Path) -> Result<Image, ImageError> {
    let mut layers = chain(tree, path)?;
    for layer in &layers {
        if let Some(header) = &layer.header {
            header.check_tables(&layer.watched.file, true)?;
        }
    }
    let files = layers.iter().map(|layer| layer.watched.clone()).collect();
    let size = layers.first().map_or(0, size);
    if let [Layer { watched, header: None }] = &layers[..] {
        return Ok(Image { size, content: Content::Raw(watched.file.clone()), files });
    }
    let mut below: Option<Arc<FormatAccess<imago::file::File>>> = None;
    while let Some(layer) = layers.pop() {
        let file = layer.watched.file.try_clone().map_err(ImageError::Io)?;
        let storage = imago::file::File::try_from(file).map_err(ImageError::Io)?;
        let damaged = |error: io::Error| ImageError::Corrupt { offset: 0, what: error.to_string() };
        let access = if layer.header.is_some() {
            type Qcow2 = imago::qcow2::Qcow2<imago::file::File, Arc<FormatAccess<imago::file::File>>>;
            // All that the image refers to was opened above: the reader itself opens nothing.
            let builder = Qcow2::builder(storage).backing(below.take()).data_file(None);
            FormatAccess::new(builder.open(DenyImplicitOpenGate::default()).map_err(damaged)?)
        } else {
            FormatAccess::new(imago::raw::Raw::open_image(storage, false).map_err(ImageError::Io)?)
        };
        below = Some(Arc::new(access));
    }
    let access = below.ok_or_else(|| ImageError::Unsupported("an image without files".into()))?;
    Ok(Image { size, content: Content::Qcow2(access), files })
}

fn size(layer: &Layer) -> u64 {
    layer.header.as_ref().map_or(layer.watched.size(), |header| header.size)
}

/// The image's files, from the top of the chain down.
fn chain(tree: &Tree, path: &Path) -> Result<Vec<Layer>, ImageError> {
    let mut layers: Vec<Layer> = Vec::new();
    let (file, place) = tree.open_file(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let format = Format::of(&name).map_or(Format::Raw, |(format, _)| format);
    let mut next = Some((file, place, format));
    while let Some((file, place, format)) = next.take() {
        if layers.len() == MAX_CHAIN {
            return Err(ImageError::Corrupt { offset: 0, what: "the chain of backing files does not end".into() });
        }
        let watched = Watched::new(file, place.clone()).map_err(ImageError::Io)?;
        let header = match format {
            Format::Raw => None,
            Format::Qcow2 => Some(Header::read(&watched.file)?),
        };
        if let Some((name, format)) = header.as_ref().and_then(|header| header.backing.clone()) {
            next = Some(open_backing(tree, &place, &name, format.as_deref())?);
        }
        layers.push(Layer { watched, header });
    }
    Ok(layers)
}

fn open_backing(
    tree: &Tree,
    image: &Path,
    name: &str,
    format: Option<&str>,
) -> Result<(File, PathBuf, Format), ImageError> {
    // `json:…`, `nbd://…`: not a path.
    if name.split('/').next().is_some_and(|first| first.contains(':')) {
        return Err(ImageError::Unsupported(format!("the backing file '{name}', which is not a path")));
    }
    let format = match format {
        Some("raw") => Format::Raw,
        Some("qcow2") => Format::Qcow2,
        Some(other) => return Err(ImageError::Unsupported(format!("a backing file of the format '{other}'"))),
        // What the bytes look like does not count: a guest may have written them.
        None => match Format::of(name.rsplit('/').next().unwrap_or(name)) {
            Some((format, _)) => format,
            None => return Err(ImageError::Unsupported(format!("the backing file '{name}' of an unknown format"))),
        },
    };
    let beside = tree.root().join(image.parent().unwrap_or(Path::new("")));
    let (file, place) = tree.open_file(&beside.join(name)).map_err(|error| match error {
        TreeError::Outside(_) => TreeError::Outside(format!("the backing file '{name}'")),
        TreeError::NotAFile(_) => TreeError::NotAFile(format!("the backing file '{name}'")),
        TreeError::Io { source, .. } => TreeError::Io { path: format!("the backing file '{name}'"), source },
    })?;
    Ok((file, place, format))
}

/// A remark on a raw image that begins as a qcow2 image does: likely it has the wrong name.
pub(crate) fn oddity(tree: &Tree, path: &Path, format: Format) -> Option<&'static str> {
    if format != Format::Raw {
        return None;
    }
    let (file, _) = tree.open_file(path).ok()?;
    has_magic(&file).then_some("is named raw, but begins as a qcow2 image does")
}
