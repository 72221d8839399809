//! NV indexes as this holder uses them. Every call opens the TPM and closes it again: a TPM serves one at a time,
//! and one that was away for a while is found again.
//!
//! An index holds `{version 1} ‖ tree (16) ‖ root (16) ‖ owner (8) ‖ key (32)`.

use std::str::FromStr;

use cloakroom_core::ids::{RootId, TreeId};
use cloakroom_crypto::Key;
use cloakroom_crypto::role::Root;
use tss_esapi::attributes::{NvIndexAttributesBuilder, SessionAttributesBuilder};
use tss_esapi::constants::response_code::{Tss2ResponseCode, Tss2ResponseCodeKind as Kind};
use tss_esapi::constants::{CapabilityType, PropertyTag, SessionType};
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle, ObjectHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::{NvAuth, Provision};
use tss_esapi::structures::{
    Auth, CapabilityData, MaxNvBuffer, NvPublic, NvPublicBuilder, SymmetricDefinition,
};
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::{Context, Error};
use zeroize::Zeroizing;

use super::TpmOptions;
use crate::holder::{HeldRoot, HolderError, OwnerNumber, SecretSource};

const VERSION: u8 = 1;
const ROOT_BYTES: u16 = 32;
/// Everything before the key.
const HEADER_BYTES: u16 = 1 + 16 + 16 + 8;
const INDEX_BYTES: u16 = HEADER_BYTES + ROOT_BYTES;
/// How many handles are asked for at once.
const HANDLES_MAX: u32 = 64;
/// Where tpm2-tss's response codes name the layer that carries commands to the TPM.
const TRANSPORT: u32 = 10 << 16;
/// The highest number a transport gives its errors.
const TRANSPORT_ERRORS: u32 = 0x2b;

/// How a TPM is reached and which indexes are ours.
pub(super) struct Tpm {
    tcti: TctiNameConf,
    first: u32,
    /// The first that is not ours.
    end: u32,
    owner_auth: Option<Auth>,
    index_auth: Option<Auth>,
}

/// Whose root an index holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) tree: TreeId,
    pub(super) held: HeldRoot,
}

/// An index as it was found.
struct Found {
    handle: NvIndexHandle,
    /// `None` where it was defined and never written: what a killed process leaves.
    place: Option<Place>,
}

impl Tpm {
    pub(super) fn new(options: &TpmOptions) -> Result<Self, HolderError> {
        let tcti = TctiNameConf::from_str(&options.tcti).map_err(failed("reading how to reach the TPM"))?;
        let end = options.first_index.saturating_add(options.indexes);
        for index in [options.first_index, end.saturating_sub(1)] {
            NvIndexTpmHandle::new(index).map_err(failed("reading which NV indexes to use"))?;
        }
        let owner_auth = auth(options.owner_auth.as_ref())?;
        let index_auth = auth(options.index_auth.as_ref())?;
        Ok(Self { tcti, first: options.first_index, end, owner_auth, index_auth })
    }

    /// Four letters for whoever made it.
    pub(super) fn maker(&self) -> Result<[u8; 4], HolderError> {
        let maker = self.open()?.get_tpm_property(PropertyTag::Manufacturer);
        Ok(maker.map_err(failed("asking who made the TPM"))?.unwrap_or_default().to_be_bytes())
    }

    /// The roots of a tree.
    pub(super) fn roots(&self, tree: TreeId) -> Result<Vec<(NvIndexHandle, HeldRoot)>, HolderError> {
        let mut context = self.open()?;
        self.roots_in(&mut context, tree)
    }

    /// A root's key, read to be used at once.
    pub(super) fn read(&self, tree: TreeId, root: RootId) -> Result<Key<Root>, HolderError> {
        let mut context = self.open()?;
        let roots = self.roots_in(&mut context, tree)?;
        let (handle, _) =
            roots.into_iter().find(|(_, held)| held.root == root).ok_or(HolderError::NoSuchRoot(root))?;
        let bytes = context.nv_read(NvAuth::NvIndex(handle), handle, ROOT_BYTES, HEADER_BYTES);
        let bytes = bytes.map_err(failed("reading a root"))?;
        Key::read_from(&mut bytes.as_slice()).map_err(|_| HolderError::Damaged("root"))
    }

    /// Writes a root into a free index. Unwritten ones are cleared away: the caller sees to it that nobody else
    /// is making one.
    pub(super) fn make(&self, place: Place, key: &Key<Root>) -> Result<(), HolderError> {
        let mut context = self.open()?;
        for found in self.indexes(&mut context)? {
            match found.place {
                Some(taken) if (taken.tree, taken.held.root) == (place.tree, place.held.root) => {
                    let source = std::io::ErrorKind::AlreadyExists.into();
                    return Err(HolderError::Io { what: "making a root", source });
                }
                Some(_) => {}
                None => context
                    .nv_undefine_space(Provision::Owner, found.handle)
                    .map_err(failed("clearing an unwritten index away"))?,
            }
        }
        let taken = self.handles(&mut context)?;
        let free = (self.first..self.end).find(|index| !taken.contains(index)).ok_or(HolderError::Full)?;
        let public = describe(free).map_err(failed("describing an index"))?;
        let handle = context
            .nv_define_space(Provision::Owner, self.index_auth.clone(), public)
            .map_err(failed("defining an index"))?;
        let written = image(place, key)
            .and_then(|image| context.nv_write(NvAuth::NvIndex(handle), handle, image, 0))
            .map_err(failed("writing a root"));
        written.inspect_err(|_| {
            // Left unwritten it would only wait to be cleared away by the next.
            let _ = context.nv_undefine_space(Provision::Owner, handle);
        })
    }

    /// Undefines a root's index; none such is a success.
    pub(super) fn undefine(&self, tree: TreeId, root: RootId) -> Result<(), HolderError> {
        let mut context = self.open()?;
        for (handle, held) in self.roots_in(&mut context, tree)? {
            if held.root == root {
                context
                    .nv_undefine_space(Provision::Owner, handle)
                    .map_err(failed("undefining a root's index"))?;
            }
        }
        Ok(())
    }

    /// A context whose commands are authorised, and encrypted where there is a password to do it with.
    fn open(&self) -> Result<Context, HolderError> {
        let away = |error: Error| HolderError::Unreachable(format!("opening the TPM: {error}"));
        let mut context = Context::new(self.tcti.clone()).map_err(away)?;
        let session = context
            .start_auth_session(
                None,
                None,
                None,
                SessionType::Hmac,
                SymmetricDefinition::AES_128_CFB,
                HashingAlgorithm::Sha256,
            )
            .map_err(failed("starting a session"))?;
        if let Some(session) = session {
            let (attributes, mask) =
                SessionAttributesBuilder::new().with_decrypt(true).with_encrypt(true).build();
            context
                .tr_sess_set_attributes(session, attributes, mask)
                .map_err(failed("starting a session"))?;
        }
        context.set_sessions((session, None, None));
        if let Some(auth) = &self.owner_auth {
            context
                .tr_set_auth(ObjectHandle::Owner, auth.clone())
                .map_err(failed("taking the owner's password"))?;
        }
        Ok(context)
    }

    fn roots_in(
        &self,
        context: &mut Context,
        tree: TreeId,
    ) -> Result<Vec<(NvIndexHandle, HeldRoot)>, HolderError> {
        let places = self.indexes(context)?.into_iter();
        let ours = places.filter_map(|found| Some((found.handle, found.place?)));
        Ok(ours.filter(|(_, place)| place.tree == tree).map(|(handle, place)| (handle, place.held)).collect())
    }

    /// The indexes of our range that are ours.
    fn indexes(&self, context: &mut Context) -> Result<Vec<Found>, HolderError> {
        let mut indexes = Vec::new();
        for index in self.handles(context)? {
            indexes.extend(self.index(context, index).map_err(failed("reading an index"))?);
        }
        Ok(indexes)
    }

    fn index(&self, context: &mut Context, index: u32) -> tss_esapi::Result<Option<Found>> {
        let tpm_handle = TpmHandle::NvIndex(NvIndexTpmHandle::new(index)?);
        let object = context.execute_without_session(|context| context.tr_from_tpm_public(tpm_handle))?;
        let handle = NvIndexHandle::from(object);
        let (public, _) = context.execute_without_session(|context| context.nv_read_public(handle))?;
        if public.data_size() != usize::from(INDEX_BYTES) {
            return Ok(None);
        }
        if !public.attributes().written() {
            return Ok(Some(Found { handle, place: None }));
        }
        if let Some(auth) = &self.index_auth {
            context.tr_set_auth(object, auth.clone())?;
        }
        let header = context.nv_read(NvAuth::NvIndex(handle), handle, HEADER_BYTES, 0)?;
        // Of our length and not ours: somebody else's, to be left alone.
        Ok(Place::read(&header).map(|place| Found { handle, place: Some(place) }))
    }

    /// The handles of our range that are taken, by whomever.
    fn handles(&self, context: &mut Context) -> Result<Vec<u32>, HolderError> {
        let (mut taken, mut next) = (Vec::new(), self.first);
        loop {
            let (listed, more) = context
                .execute_without_session(|context| {
                    context.get_capability(CapabilityType::Handles, next, HANDLES_MAX)
                })
                .map_err(failed("listing indexes"))?;
            let CapabilityData::Handles(listed) = listed else {
                return Err(HolderError::Damaged("list of indexes"));
            };
            let listed: Vec<u32> = listed.into_inner().into_iter().map(u32::from).collect();
            taken.extend(listed.iter().copied().filter(|index| (self.first..self.end).contains(index)));
            match listed.last() {
                Some(last) if more && *last < self.end => next = last.saturating_add(1),
                _ => return Ok(taken),
            }
        }
    }
}

impl Place {
    fn bytes(self) -> Vec<u8> {
        let owner = self.held.owner.0.to_be_bytes();
        [&[VERSION], &self.tree.0[..], &self.held.root.0, &owner].concat()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (tree, rest) = bytes.strip_prefix(&[VERSION])?.split_first_chunk()?;
        let (root, owner) = rest.split_first_chunk()?;
        let owner = OwnerNumber(u64::from_be_bytes(owner.try_into().ok()?));
        Some(Self { tree: TreeId(*tree), held: HeldRoot { root: RootId(*root), owner } })
    }
}

fn image(place: Place, key: &Key<Root>) -> tss_esapi::Result<MaxNvBuffer> {
    let mut image = Zeroizing::new(Vec::with_capacity(INDEX_BYTES.into()));
    image.extend_from_slice(&place.bytes());
    key.write_to(&mut *image).map_err(|_| Error::WrapperError(tss_esapi::WrapperErrorKind::InternalError))?;
    MaxNvBuffer::try_from(image.as_slice())
}

/// An index that its own password reads and writes. Wrong tries do not lock the TPM for everybody else.
fn describe(index: u32) -> tss_esapi::Result<NvPublic> {
    let attributes = NvIndexAttributesBuilder::new()
        .with_auth_read(true)
        .with_auth_write(true)
        .with_no_da(true)
        .build()?;
    NvPublicBuilder::new()
        .with_nv_index(NvIndexTpmHandle::new(index)?)
        .with_index_name_algorithm(HashingAlgorithm::Sha256)
        .with_index_attributes(attributes)
        .with_data_area_size(INDEX_BYTES.into())
        .build()
}

fn auth(source: Option<&SecretSource>) -> Result<Option<Auth>, HolderError> {
    let Some(source) = source else { return Ok(None) };
    let secret = source.read()?;
    Auth::try_from(secret.as_bytes()).map(Some).map_err(failed("taking a password"))
}

/// What a TPM's refusals mean to whoever asked.
fn failed(what: &'static str) -> impl Fn(Error) -> HolderError {
    move |error| {
        let Error::Tss2Error(code) = error else {
            return HolderError::Io { what, source: std::io::Error::other(error) };
        };
        if (1..=TRANSPORT_ERRORS).any(|number| code == Tss2ResponseCode::from(TRANSPORT | number)) {
            return HolderError::Unreachable(format!("{what}: no connection"));
        }
        match code.kind() {
            Some(Kind::NvSpace) => HolderError::Full,
            Some(
                Kind::AuthFail
                | Kind::BadAuth
                | Kind::AuthMissing
                | Kind::AuthUnavailable
                | Kind::Lockout
                | Kind::NvAuthorization
                | Kind::NvLocked
                | Kind::Hierarchy
                | Kind::Disabled
                | Kind::PolicyFail,
            ) => HolderError::Refused(format!("{what}: {code}")),
            Some(
                Kind::Initialize
                | Kind::Failure
                | Kind::Reboot
                | Kind::Retry
                | Kind::Testing
                | Kind::Yielded
                | Kind::Canceled
                | Kind::NvRate
                | Kind::NvUnavailable
                | Kind::Memory
                | Kind::ObjectMemory
                | Kind::SessionMemory
                | Kind::SessionHandles
                | Kind::ObjectHandles,
            ) => HolderError::Unreachable(format!("{what}: {code}")),
            _ => HolderError::Io { what, source: std::io::Error::other(error) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_as_it_was_written() {
        let held = HeldRoot { root: RootId([2; 16]), owner: OwnerNumber(258) };
        let place = Place { tree: TreeId([1; 16]), held };
        let golden = [&[1][..], &[1; 16], &[2; 16], &[0, 0, 0, 0, 0, 0, 1, 2]].concat();
        assert_eq!(place.bytes(), golden);
        assert_eq!(golden.len(), usize::from(HEADER_BYTES));
        assert_eq!(Place::read(&golden), Some(place));
        for len in 0..golden.len() {
            assert_eq!(Place::read(&golden[..len]), None, "{len} bytes");
        }
        assert_eq!(Place::read(&[&[2], &golden[1..]].concat()), None, "another version's");
    }
}
