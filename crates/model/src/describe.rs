//! Enums that carry their wire names and human descriptions once, beside the enum.

use crate::id::TypedId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// An enum whose every value has a wire name and a description.
pub trait Describe: Copy + Eq + Sized + 'static {
    /// Every value with its wire name and its description, in declaration order.
    const TABLE: &'static [(Self, &'static str, &'static str)];

    /// The wire name, `IN_PROGRESS`.
    fn name(self) -> &'static str {
        Self::row(self).1
    }

    /// The human description, `In progress`.
    fn description(self) -> &'static str {
        Self::row(self).2
    }

    /// The value of that exact wire name.
    fn from_name(name: &str) -> Option<Self> {
        Self::TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// Name and description as the wire object.
    fn described(self) -> EnumNameAndDescription {
        EnumNameAndDescription { name: self.name().to_owned(), description: self.description().to_owned() }
    }

    #[doc(hidden)]
    fn row(self) -> &'static (Self, &'static str, &'static str) {
        Self::TABLE.iter().find(|row| row.0 == self).unwrap_or(&Self::TABLE[0])
    }
}

/// Declares an enum with [`Describe`], serde by wire name, `Display` and `FromStr`.
#[macro_export]
macro_rules! described_enum {
    ($(#[$doc:meta])* $vis:vis enum $name:ident { $($(#[$vdoc:meta])* $variant:ident = $wire:literal, $text:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ::serde::Serialize, ::serde::Deserialize)]
        $vis enum $name { $($(#[$vdoc])* #[doc = $text] #[serde(rename = $wire)] $variant,)+ }

        impl $crate::describe::Describe for $name {
            const TABLE: &'static [(Self, &'static str, &'static str)] = &[$((Self::$variant, $wire, $text),)+];
        }
        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str($crate::describe::Describe::name(*self))
            }
        }
        impl ::std::str::FromStr for $name {
            type Err = $crate::describe::UnknownName;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                <Self as $crate::describe::Describe>::from_name(s)
                    .ok_or_else(|| $crate::describe::UnknownName { kind: stringify!($name), name: s.to_owned() })
            }
        }
    };
}

/// A wire name that no value of the enum has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{name}' is not a {kind}")]
pub struct UnknownName {
    /// The enum.
    pub kind: &'static str,
    /// What was given.
    pub name: String,
}

/// An enum value on the wire: its name, and a text for people.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EnumNameAndDescription {
    /// The wire name.
    pub name: String,
    /// The text for people.
    #[serde(default)]
    pub description: String,
}

/// A reference to an object: its id, and its name for lists.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NameAndGuid {
    /// The object's id.
    pub guid: Uuid,
    /// The object's name when the reference was made.
    #[serde(default)]
    pub name: String,
}

impl NameAndGuid {
    /// A reference to the object `id` that is called `name`.
    pub fn new(id: impl TypedId, name: impl Into<String>) -> Self {
        Self { guid: id.uuid(), name: name.into() }
    }
}
