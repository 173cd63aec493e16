//! Lists: filters, orders, pages, counts.

use super::given::*;
use portolan_model::Scope;
use portolan_model::query::{Direction, Filter, Page, Sort, Value};
use portolan_storage::{Change, Kind, Put, RawQuery, Storage, StoreError, UnitOfWork};
use std::sync::Arc;
use uuid::Uuid;

fn not(filter: Filter) -> Filter {
    Filter::Not(Box::new(filter))
}
fn at_least(field: &str, value: impl Into<Value>) -> Filter {
    Filter::AtLeast(field.into(), value.into())
}
fn below(field: &str, value: impl Into<Value>) -> Filter {
    Filter::Below(field.into(), value.into())
}
fn values(field: &str, values: &[Value]) -> Filter {
    Filter::In(field.into(), values.to_vec())
}
fn contains(text: &str) -> Filter {
    Filter::Contains(text.into())
}

/// Fails unless each filter finds exactly these machines, by list, by total and by count.
async fn expect(s: &dyn Storage, cases: Vec<(Filter, Vec<u64>)>) {
    for (filter, expected) in cases {
        let page = s.list(Scope::All, &matching(Kind::Vm, filter.clone())).await.unwrap();
        let expected: Vec<_> = expected.into_iter().map(id).collect();
        assert_eq!(page.rows.iter().map(|row| row.id).collect::<Vec<_>>(), expected, "{filter:?}");
        assert_eq!(page.total, Some(expected.len() as u64), "{filter:?}");
        let counted = s.count(Scope::All, Kind::Vm, &filter).await.unwrap();
        assert_eq!(counted, expected.len() as u64, "{filter:?}");
    }
}

/// Five machines with a value of every type, the fifth without any.
async fn five(s: &dyn Storage) {
    let one = |n: u64, name: &str, platform: u64, present: bool, size: i64| {
        vm(n).field("name", name).field("platform", id(platform)).field("present", present).field("last_size", size)
    };
    let list = [
        one(1, "alpha", 11, true, 10),
        one(2, "beta", 12, true, 20),
        one(3, "Alpha", 11, false, 20),
        one(4, "", 13, false, -5),
        vm(5),
    ];
    stored(s, list).await;
}

/// `Eq` and `In` on every type of field: exact, `Null` finds objects without a value.
pub async fn equality_on_every_type(s: Arc<dyn Storage>) {
    five(&*s).await;
    let null = Value::Null;
    let cases = vec![
        (Filter::All, vec![1, 2, 3, 4, 5]),
        (Filter::eq("name", "alpha"), vec![1]),
        (Filter::eq("name", "ALPHA"), vec![]),
        (Filter::eq("name", ""), vec![4]),
        (Filter::eq("platform", id(11)), vec![1, 3]),
        (Filter::eq("present", true), vec![1, 2]),
        (Filter::eq("present", false), vec![3, 4]),
        (Filter::eq("last_size", 20_i64), vec![2, 3]),
        (Filter::eq("id", id(2)), vec![2]),
        (Filter::eq("id", null.clone()), vec![]),
        (Filter::eq("name", null.clone()), vec![5]),
        (Filter::eq("platform", null.clone()), vec![5]),
        (Filter::eq("present", null.clone()), vec![5]),
        (Filter::eq("last_size", null.clone()), vec![5]),
        (Filter::any("name", ["alpha", "beta", "beta", "gamma"]), vec![1, 2]),
        (Filter::any("platform", [id(12), id(13)]), vec![2, 4]),
        (Filter::any("present", [true, false]), vec![1, 2, 3, 4]),
        (Filter::any("last_size", [10_i64, -5]), vec![1, 4]),
        (Filter::any("id", [id(5), id(1), id(99)]), vec![1, 5]),
        (values("name", &[]), vec![]),
        (values("name", std::slice::from_ref(&null)), vec![5]),
        (values("name", &[null.clone(), "".into()]), vec![4, 5]),
        (values("present", &[true.into(), null.clone()]), vec![1, 2, 5]),
        (values("last_size", &[null, 10_i64.into()]), vec![1, 5]),
    ];
    expect(&*s, cases).await;
}

/// `AtLeast` and `Below` on every type: half open, never on objects without a value; texts by code point.
pub async fn bounds_on_every_type(s: Arc<dyn Storage>) {
    five(&*s).await;
    let cases = vec![
        (at_least("last_size", 20_i64), vec![2, 3]),
        (at_least("last_size", 21_i64), vec![]),
        (below("last_size", 20_i64), vec![1, 4]),
        (below("last_size", -5_i64), vec![]),
        (at_least("last_size", i64::MIN), vec![1, 2, 3, 4]),
        (below("last_size", i64::MAX), vec![1, 2, 3, 4]),
        (at_least("name", "alpha"), vec![1, 2]),
        (below("name", "alpha"), vec![3, 4]),
        (at_least("name", ""), vec![1, 2, 3, 4]),
        (below("name", ""), vec![]),
        (at_least("platform", id(12)), vec![2, 4]),
        (below("platform", id(12)), vec![1, 3]),
        (at_least("present", true), vec![1, 2]),
        (below("present", true), vec![3, 4]),
        (at_least("id", id(4)), vec![4, 5]),
        (below("id", id(2)), vec![1]),
        (at_least("name", Value::Null), vec![]),
        (below("last_size", Value::Null), vec![]),
        (Filter::And(vec![at_least("last_size", 10_i64), below("last_size", 20_i64)]), vec![1]),
    ];
    expect(&*s, cases).await;
}

/// `And`, `Or` and `Not` nest and are two-valued: `Not` finds exactly what the inner one does not.
pub async fn groups_and_negation(s: Arc<dyn Storage>) {
    five(&*s).await;
    let alpha = || Filter::eq("name", "alpha");
    let large = || at_least("last_size", 20_i64);
    let cases = vec![
        (Filter::And(vec![]), vec![1, 2, 3, 4, 5]),
        (Filter::Or(vec![]), vec![]),
        (not(Filter::All), vec![]),
        (not(Filter::Or(vec![])), vec![1, 2, 3, 4, 5]),
        (Filter::Or(vec![alpha(), large()]), vec![1, 2, 3]),
        (Filter::And(vec![Filter::eq("present", true), large()]), vec![2]),
        (Filter::And(vec![alpha(), Filter::Or(vec![])]), vec![]),
        (Filter::Or(vec![alpha(), Filter::All]), vec![1, 2, 3, 4, 5]),
        (not(alpha()), vec![2, 3, 4, 5]),
        (not(not(alpha())), vec![1]),
        (not(Filter::eq("name", Value::Null)), vec![1, 2, 3, 4]),
        (not(Filter::any("name", ["alpha", "beta"])), vec![3, 4, 5]),
        (not(values("name", &[Value::Null, "beta".into()])), vec![1, 3, 4]),
        (not(values("name", &[])), vec![1, 2, 3, 4, 5]),
        (not(large()), vec![1, 4, 5]),
        (not(below("last_size", 20_i64)), vec![2, 3, 5]),
        (not(Filter::eq("present", true)), vec![3, 4, 5]),
        (not(at_least("name", Value::Null)), vec![1, 2, 3, 4, 5]),
        (not(Filter::And(vec![large(), alpha()])), vec![1, 2, 3, 4, 5]),
        (not(Filter::And(vec![large(), Filter::eq("present", true)])), vec![1, 3, 4, 5]),
        (not(Filter::Or(vec![large(), alpha()])), vec![4, 5]),
        (Filter::And(vec![not(alpha()), not(large())]), vec![4, 5]),
        (contains("").and(alpha()), vec![1]),
    ];
    expect(&*s, cases).await;
}

/// A value of another type than the field's finds nothing, and is no error.
pub async fn values_of_another_type_find_nothing(s: Arc<dyn Storage>) {
    five(&*s).await;
    let all: [Value; 4] = [Value::Bool(true), Value::Int(1), Value::Id(id(1)), Value::Text("true".into())];
    let fields = [("present", 0), ("last_size", 1), ("platform", 2), ("id", 2), ("name", 3)];
    let mut cases = Vec::new();
    for (field, own) in fields {
        for (_, value) in all.iter().enumerate().filter(|(i, _)| *i != own) {
            for filter in [
                Filter::eq(field, value.clone()),
                values(field, std::slice::from_ref(value)),
                at_least(field, value.clone()),
                below(field, value.clone()),
            ] {
                cases.push((filter.clone(), vec![]));
                cases.push((not(filter), vec![1, 2, 3, 4, 5]));
            }
        }
    }
    cases.push((values("last_size", &[10_i64.into(), "10".into(), true.into()]), vec![1]));
    expect(&*s, cases).await;
}

/// Texts are told apart by every code point: case, accents, blanks at the end, forms of one letter.
pub async fn texts_are_exact(s: Arc<dyn Storage>) {
    let texts =
        ["a", "A", "a ", " a", "ä", "a\u{308}", "ß", "ss", "😀", "漢", "%", "_", "\\", "'", "\"", "a%", "", "İ", "ı"];
    stored(&*s, texts.iter().zip(1..).map(|(text, n)| vm(n).field("name", *text))).await;
    let exact = texts.iter().zip(1..).map(|(text, n)| (Filter::eq("name", *text), vec![n]));
    expect(&*s, exact.collect()).await;
    let listed = texts.iter().zip(1..).map(|(text, n)| (Filter::any("name", [*text]), vec![n]));
    expect(&*s, listed.collect()).await;
    let mut sorted: Vec<(&str, Uuid)> = texts.iter().copied().zip((1..).map(id)).collect();
    sorted.sort();
    let query = RawQuery { sort: Sort::by("name"), ..matching(Kind::Vm, Filter::All) };
    let found = ids(&*s, Scope::All, &query).await;
    assert_eq!(found, sorted.into_iter().map(|(_, id)| id).collect::<Vec<_>>(), "texts sort by code point");
}

/// Texts are cut to 255 characters in the index and in what is compared with it, and never in the document.
pub async fn long_texts_are_cut_in_the_index(s: Arc<dyn Storage>) {
    let base = "é😀".repeat(127) + "x"; // 255 characters
    let longer = |end: &str| format!("{base}{end}");
    let texts = [base.clone(), longer("1"), longer("2"), "é😀".repeat(127), "z\0".into()];
    let long_doc = serde_json::json!({ "name": longer("1") });
    let puts = texts.iter().zip(1..).map(|(text, n)| vm(n).field("name", text.as_str()).doc(long_doc.clone()));
    stored(&*s, puts).await;
    let cases = vec![
        (Filter::eq("name", base.as_str()), vec![1, 2, 3]),
        (Filter::eq("name", longer("1")), vec![1, 2, 3]),
        (Filter::any("name", [longer("9")]), vec![1, 2, 3]),
        (at_least("name", longer("9")), vec![1, 2, 3]),
        (below("name", longer("9")), vec![4, 5]),
        (Filter::eq("name", "é😀".repeat(127)), vec![4]),
        (Filter::eq("name", "z\0"), vec![5]),
        (Filter::eq("name", "z"), vec![]),
    ];
    expect(&*s, cases).await;
    assert_eq!(row(&*s, Scope::All, Kind::Vm, id(2)).await.unwrap().doc, long_doc);
    let query = RawQuery { sort: Sort::by("name"), ..matching(Kind::Vm, at_least("name", "é")) };
    assert_eq!(ids(&*s, Scope::All, &query).await, [4, 1, 2, 3].map(id), "those cut alike follow by id");
}

/// `Contains` takes what it looks for literally, in any case of letters, anywhere in a text of any length.
pub async fn contains_is_literal(s: Arc<dyn Storage>) {
    let long = format!("{} Needle", "hay ".repeat(2000));
    let texts =
        ["100% Sure", "snake_case", r"C:\Temp\x", "it's \"quoted\"", "Zoë ÅÄÖ Straße 漢字", "*.[a-z]?", &long, ""];
    stored(&*s, texts.iter().zip(1..).map(|(text, n)| vm(n).found_by(text))).await;
    let cases = vec![
        (contains("%"), vec![1]),
        (contains("0%"), vec![1]),
        (contains("0% s"), vec![1]),
        (contains("%%"), vec![]),
        (contains("1%e"), vec![]),
        (contains("_"), vec![2]),
        (contains("e_c"), vec![2]),
        (contains("snake.case"), vec![]),
        (contains("snake__case"), vec![]),
        (contains("\\"), vec![3]),
        (contains(r"C:\temp"), vec![3]),
        (contains(r"\\"), vec![]),
        (contains(r"\x"), vec![3]),
        (contains(r"\%"), vec![]),
        (contains("'"), vec![4]),
        (contains("''"), vec![]),
        (contains("\"QUOTED\""), vec![4]),
        (contains("zoë"), vec![5]),
        (contains("ZOË åäö"), vec![5]),
        (contains("zoe"), vec![]),
        (contains("strasse"), vec![]),
        (contains("字"), vec![5]),
        (contains("[A-Z]"), vec![6]),
        (contains("*"), vec![6]),
        (contains("?"), vec![6]),
        (contains("NEEDLE"), vec![7]),
        (contains("y h"), vec![7]),
        (contains(" "), vec![1, 4, 5, 7]),
        (contains("  "), vec![7]),
        (contains("   "), vec![]),
        (contains(""), vec![1, 2, 3, 4, 5, 6, 7, 8]),
        (contains("a"), vec![2, 5, 6, 7]),
        (not(contains("a")), vec![1, 3, 4, 8]),
        (contains("a").and(contains("_")), vec![2]),
    ];
    expect(&*s, cases).await;
}

/// Numbers from the least to the greatest are kept, compared and sorted.
pub async fn numbers_of_the_whole_range(s: Arc<dyn Storage>) {
    let numbers = [i64::MAX, i64::MIN, 0, -1, i64::MAX - 1, i64::MIN + 1, 1 << 53, (1 << 53) + 1];
    stored(&*s, numbers.iter().zip(1..).map(|(number, n)| vm(n).field("last_size", *number))).await;
    let mut cases: Vec<_> =
        numbers.iter().zip(1..).map(|(number, n)| (Filter::eq("last_size", *number), vec![n])).collect();
    cases.push((at_least("last_size", i64::MAX), vec![1]));
    cases.push((below("last_size", i64::MIN), vec![]));
    cases.push((below("last_size", i64::MIN + 1), vec![2]));
    cases.push((at_least("last_size", (1_i64 << 53) + 1), vec![1, 5, 8]));
    expect(&*s, cases).await;
    let query = RawQuery { sort: Sort::by("last_size"), ..matching(Kind::Vm, Filter::All) };
    assert_eq!(ids(&*s, Scope::All, &query).await, [2, 6, 4, 3, 7, 8, 5, 1].map(id));
}

/// Every order is total: by the field with `Null` first, then by id; descending is exactly the reverse. Pages of it
/// put together are the whole, without gaps or repeats.
pub async fn orders_are_total_over_pages(s: Arc<dyn Storage>) {
    let many = (0..60_u64).map(|n| {
        // Scattered, so that the order of writing is no order of the result.
        let put = vm(n * 37 % 60);
        let put = if n % 5 == 0 { put } else { put.field("last_size", i64::try_from(n % 3).unwrap()) };
        let put = if n % 7 == 0 { put } else { put.field("name", ["b", "a", "B"][(n % 3) as usize]) };
        let put = if n % 4 == 0 { put } else { put.field("present", n % 8 < 4) };
        if n % 6 == 0 { put } else { put.field("platform", id(100 + n % 4)) }
    });
    let many: Vec<Put> = many.collect();
    stored(&*s, many.clone()).await;
    for field in ["last_size", "name", "present", "platform", "id"] {
        let at = Kind::Vm.fields().iter().position(|f| f.name == field);
        let mut expected: Vec<_> =
            many.iter().map(|p| (at.map_or(Value::Null, |at| p.fields[at].clone()), p.id)).collect();
        expected.sort();
        let mut expected: Vec<_> = expected.into_iter().map(|(_, id)| id).collect();
        for direction in [Direction::Ascending, Direction::Descending] {
            let mut query = matching(Kind::Vm, Filter::All);
            query.sort = Sort { field: Some(field.into()), direction };
            assert_eq!(ids(&*s, Scope::All, &query).await, expected, "{field} {direction:?}");
            if field == "id" {
                query.sort.field = None;
                assert_eq!(ids(&*s, Scope::All, &query).await, expected, "{direction:?} without a field");
            }
            let mut paged = Vec::new();
            for number in 0..9 {
                query.page = Page::number(number, 7);
                query.count = number % 2 == 0;
                let page = s.list(Scope::All, &query).await.unwrap();
                assert_eq!(page.total, query.count.then_some(60));
                paged.extend(page.rows.into_iter().map(|row| row.id));
            }
            assert_eq!(paged, expected, "{field} {direction:?} in pages");
            query.filter = at_least("id", id(30));
            query.page = Page { offset: 3, limit: Some(20) };
            let part: Vec<_> = expected.iter().copied().filter(|i| *i >= id(30)).skip(3).take(20).collect();
            assert_eq!(ids(&*s, Scope::All, &query).await, part, "{field} {direction:?} filtered");
            expected.reverse();
        }
    }
}

/// Ids of every shape sort by their bytes.
pub async fn ids_sort_by_their_bytes(s: Arc<dyn Storage>) {
    let mut all: Vec<Uuid> = [0, 1, 0x7f, 0x80, 0xff].iter().map(|b| Uuid::from_bytes([*b; 16])).collect();
    all.extend([0x41, 0x61, 0x5f].iter().map(|b| Uuid::from_u128(u128::from(*b as u8) << 64)));
    stored(&*s, all.iter().map(|id| object(Kind::Vm, *id).field("host", *id))).await;
    all.sort();
    for sort in [Sort::default(), Sort::by("id"), Sort::by("host")] {
        let query = RawQuery { sort, ..matching(Kind::Vm, Filter::All) };
        assert_eq!(ids(&*s, Scope::All, &query).await, all);
    }
    for (at, bound) in all.iter().enumerate() {
        let query = matching(Kind::Vm, at_least("host", *bound));
        assert_eq!(ids(&*s, Scope::All, &query).await, all[at..]);
    }
}

/// Pages beyond the end and of no size are empty, whatever the numbers; the total stays.
pub async fn pages_beyond_the_end_are_empty(s: Arc<dyn Storage>) {
    five(&*s).await;
    let pages = [
        (Page { offset: 5, limit: Some(1) }, 0),
        (Page { offset: 5, limit: None }, 0),
        (Page { offset: u64::MAX, limit: Some(u64::MAX) }, 0),
        (Page { offset: i64::MAX as u64 + 1, limit: None }, 0),
        (Page { offset: 0, limit: Some(0) }, 0),
        (Page { offset: 4, limit: Some(u64::MAX) }, 1),
        (Page { offset: 3, limit: None }, 2),
        (Page { offset: 0, limit: Some(i64::MAX as u64) }, 5),
        (Page::number(1, 3), 2),
        (Page::number(u64::MAX, u64::MAX), 0),
    ];
    for (page, expected) in pages {
        for sort in [Sort::default(), Sort::by("name"), Sort::newest()] {
            let query = RawQuery { page, sort, ..matching(Kind::Vm, Filter::All) };
            let found = s.list(Scope::All, &query).await.unwrap();
            assert_eq!((found.rows.len(), found.total), (expected, Some(5)), "{page:?}");
        }
    }
    let query = RawQuery { count: false, ..matching(Kind::Vm, Filter::All) };
    assert_eq!(s.list(Scope::All, &query).await.unwrap().total, None, "nobody asked for it");
    assert_eq!(s.count(Scope::All, Kind::Point, &Filter::All).await.unwrap(), 0);
}

/// `rows` passes over ids that are not there and answers each of the others once, also for thousands of ids.
pub async fn rows_pass_over_unknown_ids(s: Arc<dyn Storage>) {
    five(&*s).await;
    assert!(s.rows(Scope::All, Kind::Vm, &[]).await.unwrap().is_empty());
    let asked = [id(2), id(77), id(2), id(5), Uuid::nil()];
    let mut found: Vec<_> = s.rows(Scope::All, Kind::Vm, &asked).await.unwrap().into_iter().map(|r| r.id).collect();
    found.sort();
    assert_eq!(found, [id(2), id(5)]);
    let many: Vec<_> = (0..70_000).map(id).collect();
    assert_eq!(s.rows(Scope::All, Kind::Vm, &many).await.unwrap().len(), 5);
    let query = matching(Kind::Vm, Filter::any("id", many.into_iter().take(2000)));
    assert_eq!(ids(&*s, Scope::All, &query).await.len(), 5);
    assert!(s.holder(Scope::All, Kind::Vm, "never").await.unwrap().is_none());
}

/// An update moves an object in every index.
pub async fn updates_move_objects_in_the_index(s: Arc<dyn Storage>) {
    five(&*s).await;
    stored(&*s, [vm(1).field("name", "beta").found_by("New"), vm(2), vm(5).field("name", "alpha")]).await;
    let cases = vec![
        (Filter::eq("name", "alpha"), vec![5]),
        (Filter::eq("name", "beta"), vec![1]),
        (Filter::eq("name", Value::Null), vec![2]),
        (Filter::eq("last_size", Value::Null), vec![1, 2, 5]),
        (contains("new"), vec![1]),
    ];
    expect(&*s, cases).await;
    let unit = UnitOfWork { change: vec![Change::Delete(Kind::Vm, id(1))], ..UnitOfWork::new() };
    s.apply(NOW, Scope::All, unit).await.unwrap();
    expect(&*s, vec![(contains("new"), vec![]), (Filter::All, vec![2, 3, 4, 5])]).await;
}

/// A put whose values are not those declared is refused and writes nothing.
pub async fn undeclared_values_are_refused(s: Arc<dyn Storage>) {
    let short = Put { fields: vec![Value::Null], ..vm(1) };
    let long = Put { fields: vec![Value::Null; Kind::Vm.fields().len() + 1], ..vm(1) };
    for bad in [short, long, vm(1).field("name", 5_i64), vm(1).field("last_size", "5"), vm(1).field("present", id(1))] {
        let got = s.apply(NOW, Scope::All, writes([vm(2), bad])).await;
        assert!(matches!(got, Err(StoreError::Internal(_))), "{got:?}");
    }
    assert_eq!(s.count(Scope::All, Kind::Vm, &Filter::All).await.unwrap(), 0);
}
