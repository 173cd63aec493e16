//! Conformance of storage: every sentence of the ports, run against every adapter.
//!
//! An adapter's test file says `portolan_testkit::storage_conformance!(maker);`, where `maker` is an async function
//! that returns a fresh, empty `Arc<dyn Storage>` and a guard that is kept alive until the test has ended (a
//! temporary directory, a database to drop, or `()`).

// A suite says what it expects by unwrapping; the lint is for code that runs in the server.
#![allow(clippy::unwrap_used)]

pub mod changes;
pub mod events;
pub mod faulty;
pub mod given;
pub mod lists;
pub mod model;
pub mod races;
pub mod scopes;
pub mod unit_tasks;
pub mod units;

pub use faulty::{Fault, FaultyStorage};
pub use model::agrees_with_model;

/// One `#[tokio::test]` per function of the suite. The calling crate needs tokio with `macros` and
/// `rt-multi-thread`.
#[macro_export]
macro_rules! storage_conformance {
    ($maker:path) => {
        $crate::storage_conformance!(@each $maker, units, [
            a_unit_writes_everything_together,
            an_empty_unit_is_fine,
            a_failed_unit_writes_nothing,
            versions_count_the_puts,
            a_version_conflict_says_what_it_found,
            kinds_are_apart,
            removing_what_is_not_there_is_fine,
            absent_names_the_holder,
            the_first_failing_precondition_is_the_answer,
            task_held_needs_the_newest_fence,
            a_unique_key_has_one_holder,
            unique_keys_move_and_are_freed,
            unique_keys_are_exact,
            references_hold_an_object_back,
            a_unit_of_a_thousand_objects,
            documents_come_back_as_they_were,
            records_go_in_and_come_out,
        ]);
        $crate::storage_conformance!(@each $maker, races, [
            one_of_many_on_one_version_wins,
            one_of_many_creators_wins,
            one_of_many_on_one_key_wins,
            puts_without_preconditions_all_count,
            a_referrer_and_a_remover_never_both_win,
            preconditions_hold_until_the_unit_is_written,
            units_in_opposite_orders_all_end,
            changes_under_contention_lose_nothing,
            counters_agree_after_a_crowd,
            events_are_gapless_for_a_reader_beside_writers,
            one_of_many_ends_of_a_task_wins,
            one_of_many_enqueuers_adds,
            one_of_many_takes_a_request_over,
        ]);
        $crate::storage_conformance!(@each $maker, scopes, [
            every_read_shows_what_the_scope_sees,
            a_tenant_writes_its_own_objects_only,
            preconditions_keep_to_the_scope,
            counters_follow_an_object_between_tenants,
            events_are_heard_by_their_tenant,
            tasks_of_a_unit_are_seen_by_their_tenant,
            unknown_fields_are_errors,
        ]);
        $crate::storage_conformance!(@each $maker, lists, [
            equality_on_every_type,
            bounds_on_every_type,
            groups_and_negation,
            values_of_another_type_find_nothing,
            texts_are_exact,
            long_texts_are_cut_in_the_index,
            contains_is_literal,
            numbers_of_the_whole_range,
            orders_are_total_over_pages,
            ids_sort_by_their_bytes,
            pages_beyond_the_end_are_empty,
            rows_pass_over_unknown_ids,
            updates_move_objects_in_the_index,
            undeclared_values_are_refused,
        ]);
        $crate::storage_conformance!(@each $maker, unit_tasks, [
            a_unit_is_told_of_tasks_that_are_there,
            tasks_come_before_ends,
            an_end_in_a_unit_moves_the_chain_on,
            several_ends_are_all_or_nothing,
            a_worker_that_lost_its_task_writes_nothing,
            outcomes_in_units,
            a_unit_rings_the_wakeup,
        ]);
        $crate::storage_conformance!(@each $maker, events, [
            events_are_found_by_what_they_say,
            events_are_paged_backwards,
            old_events_are_pruned,
        ]);
        $crate::storage_conformance!(@each $maker, changes, [
            changes_tell_what_was_touched,
            a_cache_follows_what_is_stored,
            a_cache_keeps_to_its_filter,
            a_cache_is_never_older_than_what_was_applied,
            a_key_cache_finds_what_is_stored,
            a_key_cache_is_never_older_than_what_was_applied,
        ]);
        $crate::storage_conformance!(@each $maker, model, [
            agrees_with_the_model_one,
            agrees_with_the_model_two,
        ]);
    };
    (@each $maker:path, $module:ident, [$($name:ident),+ $(,)?]) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let (storage, _guard) = $maker().await;
                $crate::storage::$module::$name(storage).await;
            }
        )+
    };
}

#[cfg(test)]
mod tests {
    /// A function that the macro does not name would never run.
    #[test]
    fn the_macro_names_every_function_once() {
        let suite = include_str!("storage.rs");
        let modules = [
            include_str!("storage/changes.rs"),
            include_str!("storage/events.rs"),
            include_str!("storage/lists.rs"),
            include_str!("storage/model.rs"),
            include_str!("storage/races.rs"),
            include_str!("storage/scopes.rs"),
            include_str!("storage/unit_tasks.rs"),
            include_str!("storage/units.rs"),
        ];
        for line in modules.iter().flat_map(|module| module.lines()) {
            let Some(rest) = line.strip_prefix("pub async fn ") else { continue };
            let Some(name) = rest.strip_suffix("(s: Arc<dyn Storage>) {") else { continue };
            let entry = format!("            {name},");
            assert_eq!(suite.lines().filter(|line| **line == entry).count(), 1, "{name}");
        }
    }
}
