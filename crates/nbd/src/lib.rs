//! NBD.

mod address;
mod client;
mod error;
mod server;
mod sink;
mod source;
mod stream;
mod wire;

pub use address::{Address, Endpoint};
pub use client::{
    BASE_ALLOCATION, BlockSizes, ClientOptions, ClientTls, Connection, ContextStatus, ExportInfo, Features,
    ListedExport, StatusExtent, ZeroOptions, export_info, list_contexts, list_exports,
};
pub use error::NbdError;
pub use server::{CowDevice, Export, ExportDevice, FileDevice, MemoryDevice, Server, ServerOptions, SourceDevice};
pub use sink::NbdSink;
pub use source::NbdSource;
pub use stream::Stream;
