//! Filters, sorts and pages as data. A store translates them; the in-memory one interprets them.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A value that a field of an object is compared with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Value {
    /// No value.
    Null,
    /// A truth value.
    Bool(bool),
    /// A number: a count, bytes, microseconds since the epoch.
    Int(i64),
    /// An id.
    Id(Uuid),
    /// A text.
    Text(String),
}

impl From<bool> for Value {
    fn from(v: bool) -> Self {
        Self::Bool(v)
    }
}
impl From<i64> for Value {
    fn from(v: i64) -> Self {
        Self::Int(v)
    }
}
impl From<u64> for Value {
    fn from(v: u64) -> Self {
        Self::Int(i64::try_from(v).unwrap_or(i64::MAX))
    }
}
impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Self::Text(v.to_owned())
    }
}
impl From<String> for Value {
    fn from(v: String) -> Self {
        Self::Text(v)
    }
}
impl From<Uuid> for Value {
    fn from(v: Uuid) -> Self {
        Self::Id(v)
    }
}
impl From<crate::time::Timestamp> for Value {
    fn from(v: crate::time::Timestamp) -> Self {
        Self::Int(v.as_micros())
    }
}
impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(v: Option<T>) -> Self {
        v.map_or(Self::Null, Into::into)
    }
}

/// A condition on objects of one kind. Fields are those that the kind declares as indexed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub enum Filter {
    /// Every object.
    #[default]
    All,
    /// The field has this value; `Null` finds objects without one.
    Eq(String, Value),
    /// The field has one of these values; an empty list finds nothing.
    In(String, Vec<Value>),
    /// The field is at least this.
    AtLeast(String, Value),
    /// The field is less than this.
    Below(String, Value),
    /// The object's search text contains this, in any case of letters.
    Contains(String),
    /// All of these hold.
    And(Vec<Filter>),
    /// At least one of these holds.
    Or(Vec<Filter>),
    /// This does not hold.
    Not(Box<Filter>),
}

impl Filter {
    /// `field = value`.
    pub fn eq(field: &str, value: impl Into<Value>) -> Self {
        Self::Eq(field.to_owned(), value.into())
    }

    /// `field` is one of `values`.
    pub fn any<V: Into<Value>>(field: &str, values: impl IntoIterator<Item = V>) -> Self {
        Self::In(field.to_owned(), values.into_iter().map(Into::into).collect())
    }

    /// Both this and `other`.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::All, f) | (f, Self::All) => f,
            (Self::And(mut a), f) => {
                a.push(f);
                Self::And(a)
            }
            (a, b) => Self::And(vec![a, b]),
        }
    }
}

/// Which way a list runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Direction {
    /// Smallest first.
    #[default]
    Ascending,
    /// Largest first.
    Descending,
}

/// The order of a list: one declared field, then the id, so that it is total. Without a field it is the id's
/// order, which for most kinds is the order of creation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sort {
    /// The field, or nothing for the id alone.
    pub field: Option<String>,
    /// Which way.
    pub direction: Direction,
}

impl Sort {
    /// By `field`, smallest first.
    pub fn by(field: &str) -> Self {
        Self { field: Some(field.to_owned()), direction: Direction::Ascending }
    }

    /// By id, newest first.
    pub fn newest() -> Self {
        Self { field: None, direction: Direction::Descending }
    }
}

/// Which part of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// How many objects to pass over.
    pub offset: u64,
    /// How many to return at the most; nothing for the rest of the list.
    pub limit: Option<u64>,
}

impl Page {
    /// The whole list.
    pub const ALL: Self = Self { offset: 0, limit: None };

    /// The `number`-th page, from 0, of `size` objects.
    pub fn number(number: u64, size: u64) -> Self {
        Self { offset: number.saturating_mul(size), limit: Some(size) }
    }

    /// The first `limit` objects.
    pub fn first(limit: u64) -> Self {
        Self { offset: 0, limit: Some(limit) }
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::ALL
    }
}
