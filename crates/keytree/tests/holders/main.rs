//! Root holders: one suite for all, and what is each one's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod file;
mod suite;

macro_rules! contract {
    ($holder:ident, $place:ty, [$($test:ident),* $(,)?]) => {
        mod $holder {
            $(
                #[tokio::test]
                async fn $test() {
                    crate::suite::$test::<$place>().await;
                }
            )*
        }
    };
}

contract!(
    file_holder,
    crate::file::Folder,
    [
        what_a_root_wraps_opens_under_it_alone,
        a_destroyed_root_is_gone_and_its_neighbours_are_not,
        two_trees_in_one_holder_do_not_meet,
        one_owner_at_a_time_each_above_all_before,
        the_note_never_goes_back,
    ]
);
