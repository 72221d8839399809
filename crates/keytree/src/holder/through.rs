//! For layers that tests put over a holder: what they leave as it is.

/// Inside `impl RootHolder for Layer`: passes these methods on to the holder in a field, as in
/// `root_holder_through!(inner: kind own wrap unwrap list);`.
#[macro_export]
macro_rules! root_holder_through {
    ($field:ident: $($method:ident)*) => {
        $($crate::root_holder_through! { @$method $field })*
    };
    (@kind $field:ident) => {
        fn kind(&self) -> &'static str {
            self.$field.kind()
        }
    };
    (@place $field:ident) => {
        fn place(&self) -> String {
            self.$field.place()
        }
    };
    (@destroy_class $field:ident) => {
        fn destroy_class(&self) -> &'static str {
            self.$field.destroy_class()
        }
    };
    (@own $field:ident) => {
        fn own(
            &self,
            tree: $crate::holder::through::TreeId,
        ) -> $crate::holder::through::Answer<'_, Result<$crate::OwnerNumber, $crate::HolderError>> {
            self.$field.own(tree)
        }
    };
    (@create $field:ident) => {
        fn create(
            &self,
            tree: $crate::holder::through::TreeId,
            owner: $crate::OwnerNumber,
            root: $crate::holder::through::RootId,
        ) -> $crate::holder::through::Answer<'_, Result<(), $crate::HolderError>> {
            self.$field.create(tree, owner, root)
        }
    };
    (@wrap $field:ident) => {
        fn wrap<'a>(
            &'a self,
            tree: $crate::holder::through::TreeId,
            root: $crate::holder::through::RootId,
            key: $crate::holder::through::KeyRef<'a, $crate::holder::through::Page>,
        ) -> $crate::holder::through::Answer<'a, Result<$crate::holder::through::Bytes, $crate::HolderError>> {
            self.$field.wrap(tree, root, key)
        }
    };
    (@unwrap $field:ident) => {
        fn unwrap<'a>(
            &'a self,
            tree: $crate::holder::through::TreeId,
            root: $crate::holder::through::RootId,
            anchor: &'a [u8],
        ) -> $crate::holder::through::Answer<'a, Result<$crate::holder::through::Key<$crate::holder::through::Page>, $crate::HolderError>>
        {
            self.$field.unwrap(tree, root, anchor)
        }
    };
    (@destroy $field:ident) => {
        fn destroy(
            &self,
            tree: $crate::holder::through::TreeId,
            owner: $crate::OwnerNumber,
            root: $crate::holder::through::RootId,
        ) -> $crate::holder::through::Answer<'_, Result<(), $crate::HolderError>> {
            self.$field.destroy(tree, owner, root)
        }
    };
    (@list $field:ident) => {
        fn list(
            &self,
            tree: $crate::holder::through::TreeId,
        ) -> $crate::holder::through::Answer<'_, Result<Vec<$crate::HeldRoot>, $crate::HolderError>> {
            self.$field.list(tree)
        }
    };
    (@note $field:ident) => {
        fn note(
            &self,
            tree: $crate::holder::through::TreeId,
            owner: $crate::OwnerNumber,
            commit: $crate::holder::through::CommitPosition,
        ) -> $crate::holder::through::Answer<'_, Result<(), $crate::HolderError>> {
            self.$field.note(tree, owner, commit)
        }
    };
    (@noted $field:ident) => {
        fn noted(
            &self,
            tree: $crate::holder::through::TreeId,
        ) -> $crate::holder::through::Answer<'_, Result<Option<$crate::holder::through::CommitPosition>, $crate::HolderError>>
        {
            self.$field.noted(tree)
        }
    };
}

#[doc(hidden)]
pub use {
    bytes::Bytes,
    cloakroom_core::ids::{CommitPosition, RootId, TreeId},
    cloakroom_crypto::role::Page,
    cloakroom_crypto::{Key, KeyRef},
    cloakroom_store::Answer,
};
