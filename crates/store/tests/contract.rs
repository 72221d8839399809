//! The embedded engine against the contract of every engine.
#![allow(clippy::unwrap_used)] // assertions

mod disk;

use std::sync::Arc;

use crate::disk::copy_all;
use cloakroom_store::contract::{HASHES, Place};
use cloakroom_store::embedded::{
    AccessLogOptions, EmbeddedAccessLog, EmbeddedLog, EmbeddedRecords, LogOptions,
};
use cloakroom_store::faulty::VolatileRecords;
use cloakroom_store::{AccessLog, Answer, Log, Records, StoreError};
use tempfile::TempDir;

struct Folder {
    folder: TempDir,
    /// Small enough that many cases cross files.
    file_bytes: u64,
}

fn fresh(file_bytes: u64) -> Folder {
    Folder { folder: tempfile::tempdir().unwrap(), file_bytes }
}

impl Folder {
    /// What the system has of a folder is what a killed process leaves.
    fn copied(&self) -> Folder {
        let copy = fresh(self.file_bytes);
        copy_all(self.folder.path(), copy.folder.path());
        copy
    }
}

impl Place<dyn Log> for Folder {
    fn open(&self) -> Answer<'_, Result<Arc<dyn Log>, StoreError>> {
        let options = LogOptions { segment_bytes: self.file_bytes, reserve_bytes: 0 };
        Answer::now(
            EmbeddedLog::open(self.folder.path(), HASHES, options).map(|log| Arc::new(log) as Arc<dyn Log>),
        )
    }

    fn after_kill(&self) -> Self {
        self.copied()
    }
}

impl Place<dyn Records> for Folder {
    fn open(&self) -> Answer<'_, Result<Arc<dyn Records>, StoreError>> {
        Answer::now(
            EmbeddedRecords::open(self.folder.path()).map(|records| Arc::new(records) as Arc<dyn Records>),
        )
    }

    fn after_kill(&self) -> Self {
        self.copied()
    }
}

impl Place<dyn AccessLog> for Folder {
    fn open(&self) -> Answer<'_, Result<Arc<dyn AccessLog>, StoreError>> {
        let options = AccessLogOptions { file_bytes: self.file_bytes, reserve_bytes: 0 };
        Answer::now(
            EmbeddedAccessLog::open(self.folder.path(), HASHES.leaf, options)
                .map(|log| Arc::new(log) as Arc<dyn AccessLog>),
        )
    }

    fn after_kill(&self) -> Self {
        self.copied()
    }
}

mod log_in_one_segment {
    cloakroom_store::log_contract!(super::fresh(64 << 20));
}

mod log_in_many_segments {
    cloakroom_store::log_contract!(super::fresh(700));
}

mod log_with_a_segment_a_frame {
    cloakroom_store::log_contract!(super::fresh(1));
}

mod records {
    cloakroom_store::records_contract!(super::fresh(0));
}

mod access_in_one_file {
    cloakroom_store::access_contract!(super::fresh(16 << 20));
}

mod access_in_many_files {
    cloakroom_store::access_contract!(super::fresh(300));
}

/// The layer that loses what was not synced must be records like any other until it does.
struct Volatile(Folder);

impl Place<dyn Records> for Volatile {
    fn open(&self) -> Answer<'_, Result<Arc<dyn Records>, StoreError>> {
        Answer::now(
            EmbeddedRecords::open(self.0.folder.path())
                .map(|records| Arc::new(VolatileRecords::new(Arc::new(records))) as Arc<dyn Records>),
        )
    }

    fn after_kill(&self) -> Self {
        Volatile(self.0.copied())
    }
}

mod volatile_records {
    use super::{Volatile, fresh};

    // Not the case of a kill: this layer loses what was applied alone, that is its job.
    cloakroom_store::contract_cases! { records, Volatile(fresh(0)),
        nothing_is_found_where_nothing_was_put
        the_last_change_of_a_key_wins
        a_scan_goes_through_a_prefix_in_order
        what_was_committed_survives_reopening
        records_behave_like_a_sorted_map
    }
}
