//! The enums of the dialects (and of libcloud's driver model, which Orchestrator shows), with the wire names and
//! descriptions that their clients know.
//!
//! An enum that is Portolan's own as well (the status of a backup, the role of a destination, the days of a
//! schedule) is declared with the objects, and not again here.

use crate::describe::{Describe, UnknownName};

pub mod commissaire;
pub mod libcloud;
pub mod omnistack;
pub mod orchestrator;
pub mod vplus;

/// An enum some of whose values clients also spell in another way. Answers use [`Describe::name`]; requests and
/// filters are read with [`Aliased::parse`].
pub trait Aliased: Describe {
    /// Spellings that are accepted besides the wire names.
    const ALIASES: &'static [(&'static str, Self)];

    /// The value of that wire name or alias.
    fn parse(name: &str) -> Result<Self, UnknownName> {
        Self::from_name(name)
            .or_else(|| Self::ALIASES.iter().find(|row| row.0 == name).map(|row| row.1))
            .ok_or_else(|| UnknownName { kind: Self::KIND, name: name.to_owned() })
    }

    /// What the enum is called in errors.
    const KIND: &'static str;
}
