//! Query parameters of lists (section 2.4): paging is opt-in, junk means "not given", five names for a tenant.

use crate::error::ApiError;
use crate::input::{short, whole_text};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use portolan_model::TypedId;
use portolan_model::describe::Describe;
use portolan_model::query::{Direction, Filter, Page, Sort};
use std::str::FromStr;

/// The largest page; clients that want everything send no `size`.
const LARGEST_PAGE: u64 = 10_000;
/// The last page that is looked for.
const LAST_PAGE: u64 = 1 << 40;
/// The names under which clients send a tenant.
const TENANT: &[&str] = &["tenantid", "tenantId", "tenantID", "tenant-id", "project-uuid"];

/// The query parameters, in order and repeatable.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map(|q| Self(q.0))
            .map_err(|_| ApiError::invalid("the query cannot be read"))
    }
}

impl Params {
    /// The value of the first of `names` that is given. Empty, `null` and `undefined` are not given.
    pub(crate) fn first(&self, names: &[&str]) -> Option<&str> {
        self.0.iter().find(|(k, v)| names.contains(&k.as_str()) && given(v)).map(|(_, v)| v.as_str())
    }

    /// Every given value of `names`.
    pub(crate) fn all(&self, names: &[&str]) -> Vec<&str> {
        self.0.iter().filter(|(k, v)| names.contains(&k.as_str()) && given(v)).map(|(_, v)| v.as_str()).collect()
    }

    /// A guid.
    pub(crate) fn id<T: TypedId>(&self, names: &[&str]) -> Result<Option<T>, ApiError> {
        match self.first(names) {
            None => Ok(None),
            Some(text) => uuid::Uuid::parse_str(text)
                .map(|id| Some(T::from_uuid(id)))
                .map_err(|_| ApiError::invalid(format!("{} must be a guid", names.first().unwrap_or(&"it")))),
        }
    }

    /// A whole number, also where it is written as a fraction.
    pub(crate) fn whole(&self, name: &str) -> Result<Option<i64>, ApiError> {
        match self.first(&[name]) {
            None => Ok(None),
            Some(text) => {
                whole_text(text).map(Some).ok_or_else(|| ApiError::invalid(format!("{name} must be a number")))
            }
        }
    }

    /// A number.
    fn number<N: FromStr>(&self, name: &str) -> Result<Option<N>, ApiError> {
        match self.first(&[name]) {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| ApiError::invalid(format!("{name} must be a number"))),
        }
    }

    /// Values of an enum, each by its name.
    pub(crate) fn choices<E: Describe>(&self, names: &[&str]) -> Result<Vec<E>, ApiError> {
        self.all(names)
            .into_iter()
            .map(|word| E::from_name(word).ok_or_else(|| ApiError::invalid(format!("'{}' is not known", short(word)))))
            .collect()
    }

    /// The tenant, under any of its names.
    pub(crate) fn tenant(&self) -> Option<&str> {
        self.first(TENANT)
    }

    /// The page that is asked for; the whole list where no size is.
    pub(crate) fn page(&self) -> Result<Page, ApiError> {
        let size: Option<u64> = self.number("size")?;
        let page: u64 = self.number("page")?.unwrap_or(0);
        match size {
            None => Ok(Page::ALL),
            Some(0) => Err(ApiError::invalid("size must be at least 1")),
            // A store counts in signed numbers: no list reaches a page beyond them.
            Some(size) => Ok(Page::number(page.min(LAST_PAGE), size.min(LARGEST_PAGE))),
        }
    }

    /// The order, where `orderBy` is one of the known paths; the default order else.
    pub(crate) fn sort(&self, known: &[(&str, &str)], default: Sort) -> Sort {
        let Some(path) = self.first(&["orderBy"]) else { return default };
        let Some((_, field)) = known.iter().find(|(p, _)| *p == path) else { return default };
        let down = self.first(&["direction"]).is_some_and(|d| d.eq_ignore_ascii_case("desc"));
        let direction = if down { Direction::Descending } else { Direction::Ascending };
        Sort { field: Some((*field).to_owned()), direction }
    }

    /// The free text that lists are filtered by.
    pub(crate) fn text(&self) -> Filter {
        match self.first(&["filter"]).or_else(|| self.first(&["nameLike"])) {
            Some(text) => Filter::Contains(text.to_lowercase()),
            None => Filter::All,
        }
    }
}

fn given(value: &str) -> bool {
    !matches!(value, "" | "null" | "undefined")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, &str)]) -> Params {
        Params(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn junk_is_not_given() {
        let p = params(&[("orderBy", "undefined"), ("direction", "null"), ("filter", ""), ("size", "")]);
        assert_eq!(p.sort(&[("name", "name")], Sort::newest()), Sort::newest());
        assert_eq!(p.text(), Filter::All);
        assert_eq!(p.page().unwrap(), Page::ALL);
    }

    #[test]
    fn paging_is_opt_in_and_bounded() {
        assert_eq!(params(&[("page", "3")]).page().unwrap(), Page::ALL);
        assert_eq!(params(&[("page", "2"), ("size", "10")]).page().unwrap(), Page::number(2, 10));
        assert_eq!(params(&[("size", "99999999")]).page().unwrap(), Page::number(0, LARGEST_PAGE));
        assert!(params(&[("size", "0")]).page().is_err());
        assert!(params(&[("size", "-1")]).page().is_err());
        assert!(params(&[("page", "x"), ("size", "1")]).page().is_err());
    }

    #[test]
    fn a_tenant_has_five_names() {
        for name in TENANT {
            assert_eq!(params(&[(name, "t1")]).tenant(), Some("t1"));
        }
    }
}
