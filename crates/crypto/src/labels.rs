//! Every label, so that no key or hash made for one job can pass for another. Changing one makes everything
//! written under it unreadable: a new version gets a new label beside the old one.

/// HKDF info and associated data of a stored value: [`crate::seal`].
pub const VALUE: &str = "cloakroom value v1";
/// HKDF info of a page's sealing key: [`crate::page`].
pub const PAGE_KEY: &str = "cloakroom page key v1";
/// Associated data of a sealed page: [`crate::page`].
pub const PAGE: &str = "cloakroom page v1";
/// HKDF info of the key that wraps a top page's key: [`crate::root`].
pub const ROOT_KEY: &str = "cloakroom root key v1";
/// Associated data of a wrapped top page's key: [`crate::root`].
pub const ROOT: &str = "cloakroom root v1";
/// Associated data of a top page's key that a device wrapped: [`crate::device`].
pub const DEVICE_ROOT: &str = "cloakroom device root v1";
/// What a signature on a Kafka record covers: [`crate::sign::record_bytes`].
pub const BUS_RECORD: &str = "cloakroom bus record v1";
/// A caller's idempotency key: [`crate::mac`].
pub const IDEMPOTENCY: &str = "cloakroom idempotency v1";
/// A value that tokens are found by, never written: [`crate::mac`].
pub const LOOKUP: &str = "cloakroom lookup v1";
/// A frame of the log, as the next one names it: [`crate::hash::frame`].
pub const FRAME: &str = "cloakroom frame v1";
/// A subject in a certificate: [`crate::hash::commitment`].
pub const SUBJECT_COMMITMENT: &str = "cloakroom subject commitment v1";
/// HKDF info of what a root put together from shares is known by: [`crate::share`].
pub const ROOT_CHECK: &str = "cloakroom root check v1";
/// Associated data of a share sealed to a letterbox: [`crate::share`].
pub const SHARE: &str = "cloakroom share v1";
/// HKDF info of the key that seals it: [`crate::share`].
pub const SHARE_KEY: &str = "cloakroom share key v1";
