//! What a filter means, for stores that interpret it, and as the reference for those that translate it.
//!
//! * [`Filter::Eq`] and [`Filter::In`] compare exactly; [`Value::Null`] finds what has no value.
//! * [`Filter::AtLeast`] and [`Filter::Below`] never match when either side is `Null`, nor when the two sides are of
//!   different kinds.
//! * Texts are compared by their bytes, which is by code point; ids by their bytes; `false` is less than `true`.
//! * [`Filter::Contains`] looks for the lower-cased needle in a search text that is in lower case already. An
//!   empty needle is found everywhere.
//! * [`Filter::Not`] is plain negation: `Not(AtLeast(..))` does match objects without a value.
//! * An empty [`Filter::And`] holds, an empty [`Filter::Or`] does not.

use portolan_model::query::{Direction, Filter, Page, Sort, Value};
use std::cmp::Ordering;

/// Whether an object matches: `get` gives the values of its fields, `search` is its search text in lower case.
pub fn matches(filter: &Filter, get: impl Fn(&str) -> Value, search: &str) -> bool {
    holds(filter, &get, search)
}

fn holds(filter: &Filter, get: &dyn Fn(&str) -> Value, search: &str) -> bool {
    match filter {
        Filter::All => true,
        Filter::Eq(field, value) => get(field) == *value,
        Filter::In(field, values) => {
            let found = get(field);
            values.contains(&found)
        }
        Filter::AtLeast(field, value) => ordered(&get(field), value).is_some_and(Ordering::is_ge),
        Filter::Below(field, value) => ordered(&get(field), value).is_some_and(Ordering::is_lt),
        Filter::Contains(needle) => search.contains(&needle.to_lowercase()),
        Filter::And(all) => all.iter().all(|f| holds(f, get, search)),
        Filter::Or(any) => any.iter().any(|f| holds(f, get, search)),
        Filter::Not(inner) => !holds(inner, get, search),
    }
}

/// How two values of one kind are ordered; nothing where one is `Null` or the kinds differ.
fn ordered(a: &Value, b: &Value) -> Option<Ordering> {
    let same = std::mem::discriminant(a) == std::mem::discriminant(b);
    (same && *a != Value::Null).then(|| compare(a, b))
}

/// The total order of values that lists are sorted by: `Null` first, then truth values, numbers, ids, texts.
pub fn compare(a: &Value, b: &Value) -> Ordering {
    a.cmp(b)
}

/// The order of two objects of a list, each given as the value of the sort's field (`Null` without one) and its
/// id. [`Direction::Descending`] is the exact reverse: the id runs backwards too, and `Null` comes last.
pub fn compare_in<I: Ord>(direction: Direction, a: (&Value, I), b: (&Value, I)) -> Ordering {
    let ascending = compare(a.0, b.0).then(a.1.cmp(&b.1));
    match direction {
        Direction::Ascending => ascending,
        Direction::Descending => ascending.reverse(),
    }
}

/// The first field that a filter or a sort names and `known` does not know.
pub fn unknown_field<'a>(filter: &'a Filter, sort: &'a Sort, known: impl Fn(&str) -> bool) -> Option<&'a str> {
    fn walk<'a>(filter: &'a Filter, known: &dyn Fn(&str) -> bool) -> Option<&'a str> {
        match filter {
            Filter::Eq(field, _) | Filter::In(field, _) | Filter::AtLeast(field, _) | Filter::Below(field, _) => {
                (!known(field)).then_some(field.as_str())
            }
            Filter::And(inner) | Filter::Or(inner) => inner.iter().find_map(|f| walk(f, known)),
            Filter::Not(inner) => walk(inner, known),
            Filter::All | Filter::Contains(_) => None,
        }
    }
    walk(filter, &known).or_else(|| sort.field.as_deref().filter(|f| !known(f)))
}

/// The value that the filter demands of `field`, where it demands one: lets a store begin with an index.
pub fn pinned<'a>(filter: &'a Filter, field: &str) -> Option<&'a Value> {
    match filter {
        Filter::Eq(name, value) if name == field => Some(value),
        Filter::And(all) => all.iter().find_map(|f| pinned(f, field)),
        _ => None,
    }
}

/// The part of `list` that a page shows.
pub fn page_of<T>(list: impl Iterator<Item = T>, page: Page) -> impl Iterator<Item = T> {
    let offset = usize::try_from(page.offset).unwrap_or(usize::MAX);
    let limit = page.limit.map_or(usize::MAX, |l| usize::try_from(l).unwrap_or(usize::MAX));
    list.skip(offset).take(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(field: &str) -> Value {
        match field {
            "n" => Value::Int(5),
            "t" => Value::from("Zoë"),
            _ => Value::Null,
        }
    }

    fn check(filter: Filter) -> bool {
        matches(&filter, get, "web01 zoë")
    }

    #[test]
    fn null_is_found_by_equality_alone() {
        assert!(check(Filter::eq("none", Value::Null)));
        assert!(!check(Filter::eq("n", Value::Null)));
        assert!(check(Filter::In("none".into(), vec![Value::Int(1), Value::Null])));
        assert!(!check(Filter::AtLeast("none".into(), Value::Int(0))));
        assert!(!check(Filter::Below("none".into(), Value::Int(0))));
        assert!(!check(Filter::AtLeast("n".into(), Value::Null)));
        assert!(check(Filter::Not(Box::new(Filter::AtLeast("none".into(), Value::Int(0))))));
    }

    #[test]
    fn bounds_are_half_open_and_keep_to_one_kind() {
        assert!(check(Filter::AtLeast("n".into(), Value::Int(5))));
        assert!(!check(Filter::Below("n".into(), Value::Int(5))));
        assert!(check(Filter::Below("n".into(), Value::Int(6))));
        assert!(!check(Filter::Below("n".into(), Value::from("6"))));
    }

    #[test]
    fn groups_and_needles() {
        assert!(check(Filter::And(vec![])) && !check(Filter::Or(vec![])) && !check(Filter::any("n", [0_i64; 0])));
        assert!(check(Filter::Contains("ZOË".into())) && check(Filter::Contains(String::new())));
        assert!(!check(Filter::Contains("web02".into())));
    }

    #[test]
    fn order_is_total_with_null_first() {
        let mut list = vec![Value::from("b"), Value::Int(2), Value::Null, Value::from("a"), Value::Int(-1)];
        list.sort_by(compare);
        assert_eq!(list, [Value::Null, Value::Int(-1), Value::Int(2), Value::from("a"), Value::from("b")]);
        let less = compare_in(Direction::Descending, (&Value::Int(1), 1), (&Value::Int(1), 2));
        assert_eq!(less, Ordering::Greater);
    }

    #[test]
    fn fields_that_nobody_declared_are_named() {
        let filter = Filter::Or(vec![Filter::All, Filter::Not(Box::new(Filter::eq("x", 1_i64)))]);
        assert_eq!(unknown_field(&filter, &Sort::default(), |f| f == "n"), Some("x"));
        assert_eq!(unknown_field(&Filter::All, &Sort::by("y"), |f| f == "n"), Some("y"));
        assert_eq!(unknown_field(&Filter::eq("n", 1_i64), &Sort::by("n"), |f| f == "n"), None);
    }
}
