//! For layers that tests put over a store: what they leave as it is.

/// Inside `impl Log for Layer`: passes these methods on to the log in a field, as in
/// `log_through!(inner: find_end event frame_of leaves sealed);`.
#[macro_export]
macro_rules! log_through {
    ($field:ident: $($method:ident)*) => {
        $($crate::log_through! { @$method $field })*
    };
    (@find_end $field:ident) => {
        fn find_end(&self, durable_number: u64) -> $crate::Answer<'_, Result<$crate::LogEnd, $crate::StoreError>> {
            self.$field.find_end(durable_number)
        }
    };
    (@cut $field:ident) => {
        fn cut(&self) -> $crate::Answer<'_, Result<(), $crate::StoreError>> {
            self.$field.cut()
        }
    };
    (@append $field:ident) => {
        fn append(
            &self,
            frame: &$crate::Frame,
            urgent: bool,
        ) -> $crate::Answer<'_, Result<$crate::FrameHash, $crate::StoreError>> {
            self.$field.append(frame, urgent)
        }
    };
    (@sync $field:ident) => {
        fn sync(&self) -> $crate::Answer<'_, Result<(), $crate::StoreError>> {
            self.$field.sync()
        }
    };
    (@event $field:ident) => {
        fn event(
            &self,
            number: $crate::through::EventNumber,
        ) -> $crate::Answer<'_, Result<Option<$crate::through::Bytes>, $crate::StoreError>> {
            self.$field.event(number)
        }
    };
    (@frame_of $field:ident) => {
        fn frame_of(
            &self,
            number: $crate::through::EventNumber,
        ) -> $crate::Answer<'_, Result<Option<($crate::Frame, $crate::FrameHash)>, $crate::StoreError>> {
            self.$field.frame_of(number)
        }
    };
    (@leaves $field:ident) => {
        fn leaves(
            &self,
            from: $crate::through::EventNumber,
            limit: usize,
        ) -> $crate::Answer<'_, Result<Vec<[u8; 32]>, $crate::StoreError>> {
            self.$field.leaves(from, limit)
        }
    };
    (@sealed $field:ident) => {
        fn sealed(&self) -> $crate::Answer<'_, Result<Vec<std::ops::Range<u64>>, $crate::StoreError>> {
            self.$field.sealed()
        }
    };
    (@prune $field:ident) => {
        fn prune(
            &self,
            first: $crate::through::EventNumber,
            shorter: std::collections::BTreeMap<u64, $crate::through::Bytes>,
        ) -> $crate::Answer<'_, Result<u64, $crate::StoreError>> {
            self.$field.prune(first, shorter)
        }
    };
}

/// Inside `impl Records for Layer`: passes these methods on to the records in a field, as in
/// `records_through!(inner: get scan);`.
#[macro_export]
macro_rules! records_through {
    ($field:ident: $($method:ident)*) => {
        $($crate::records_through! { @$method $field })*
    };
    (@get $field:ident) => {
        fn get(&self, key: &[u8]) -> $crate::Answer<'_, Result<Option<$crate::through::Bytes>, $crate::StoreError>> {
            self.$field.get(key)
        }
    };
    (@scan $field:ident) => {
        fn scan(
            &self,
            prefix: &[u8],
            after: Option<&[u8]>,
            limit: usize,
        ) -> $crate::Answer<'_, Result<Vec<($crate::through::Bytes, $crate::through::Bytes)>, $crate::StoreError>> {
            self.$field.scan(prefix, after, limit)
        }
    };
    (@apply $field:ident) => {
        fn apply(&self, batch: $crate::Batch) -> $crate::Answer<'_, Result<(), $crate::StoreError>> {
            self.$field.apply(batch)
        }
    };
    (@sync $field:ident) => {
        fn sync(&self) -> $crate::Answer<'_, Result<(), $crate::StoreError>> {
            self.$field.sync()
        }
    };
    (@commit $field:ident) => {
        fn commit(&self, batch: $crate::Batch) -> $crate::Answer<'_, Result<(), $crate::StoreError>> {
            self.$field.commit(batch)
        }
    };
}

#[doc(hidden)]
pub use {bytes::Bytes, cloakroom_core::ids::EventNumber};
