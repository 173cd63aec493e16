//! Filters and pages as SQL.

use crate::sql::{Sql, int, text, uuid};
use portolan_model::query::{Filter, Page, Value};
use sea_orm::Value as Bound;

/// A value as a column holds it.
pub(crate) fn bound(value: &Value) -> Bound {
    match value {
        // Only where the type of the column does not matter.
        Value::Null => Bound::BigInt(None),
        Value::Bool(v) => int(i64::from(*v)),
        Value::Int(v) => int(*v),
        Value::Id(v) => uuid(*v),
        Value::Text(v) => text(v),
    }
}

/// Adds the condition. The filter is in its simplest form: its fields are columns, its values of their types, what
/// it looks for in lower case. Every part is true or false, never unknown, so that `NOT` means what it says.
pub(crate) fn condition(sql: &mut Sql, filter: &Filter) {
    match filter {
        Filter::All => {
            sql.push("1 = 1");
        }
        Filter::Eq(field, Value::Null) => {
            sql.push(&format!("{field} IS NULL"));
        }
        Filter::Eq(field, value) => {
            sql.push(&format!("({field} IS NOT NULL AND {field} = ")).bind(bound(value)).push(")");
        }
        Filter::In(field, values) => {
            let some: Vec<Bound> = values.iter().filter(|v| **v != Value::Null).map(bound).collect();
            let null = some.len() < values.len();
            match (some.is_empty(), null) {
                (true, false) => sql.push("1 = 0"),
                (true, true) => sql.push(&format!("{field} IS NULL")),
                (false, false) => sql.push(&format!("({field} IS NOT NULL AND {field} IN ")).list(&some).push(")"),
                (false, true) => sql.push(&format!("({field} IS NULL OR {field} IN ")).list(&some).push(")"),
            };
        }
        Filter::AtLeast(field, value) => {
            sql.push(&format!("({field} IS NOT NULL AND {field} >= ")).bind(bound(value)).push(")");
        }
        Filter::Below(field, value) => {
            sql.push(&format!("({field} IS NOT NULL AND {field} < ")).bind(bound(value)).push(")");
        }
        Filter::Contains(wanted) => {
            let place = sql.place(text(wanted));
            let contains = sql.dialect().contains("search", &place);
            sql.push(&contains);
        }
        Filter::And(parts) => join(sql, parts, " AND ", "1 = 1"),
        Filter::Or(parts) => join(sql, parts, " OR ", "1 = 0"),
        Filter::Not(part) => {
            sql.push("NOT (");
            condition(sql, part);
            sql.push(")");
        }
    }
}

fn join(sql: &mut Sql, parts: &[Filter], word: &str, none: &str) {
    if parts.is_empty() {
        sql.push(none);
        return;
    }
    sql.push("(");
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            sql.push(word);
        }
        condition(sql, part);
    }
    sql.push(")");
}

/// Adds `ORDER BY` the column, if any, then the id, both the same way.
pub(crate) fn order(sql: &mut Sql, prefix: &str, column: Option<&str>, descending: bool) {
    sql.push(" ORDER BY ");
    if let Some(column) = column {
        let order = sql.dialect().order(&format!("{prefix}{column}"), descending);
        sql.push(&order).push(", ");
    }
    sql.push(&format!("{prefix}id{}", if descending { " DESC" } else { "" }));
}

/// Rows beyond any table, well within what each database counts with.
const ENDLESS: u64 = 1 << 61;

/// Adds the part of the list.
pub(crate) fn part(sql: &mut Sql, page: Page) {
    if page == Page::ALL {
        return;
    }
    let number = |n: u64| int(i64::try_from(n.min(ENDLESS)).unwrap_or(0));
    sql.push(" LIMIT ").bind(number(page.limit.unwrap_or(ENDLESS)));
    if page.offset > 0 {
        sql.push(" OFFSET ").bind(number(page.offset));
    }
}
