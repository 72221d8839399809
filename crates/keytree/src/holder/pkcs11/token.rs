//! A token's objects, as this holder uses them. One thread has it.
//!
//! A root is a secret key: AES-256, made in the token, sensitive, never extractable. Its label names the
//! tree, its id is the root's id and its owner's number. Claims and notes are private data objects, one for
//! each tree and kind.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use cloakroom_core::ids::{RootId, TreeId};
use cloakroom_crypto::device::{self, NONCE_BYTES, TAG_BITS};
use cloakroom_crypto::role::Page;
use cloakroom_crypto::root::RootContext;
use cloakroom_crypto::{Key, random};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

use crate::holder::{HeldRoot, HolderError, OwnerNumber};

const APPLICATION: &[u8] = b"cloakroom";
const ROOT_BYTES: u64 = 32;
const ROOT_ID_BYTES: usize = 16;
/// A data object that is there from the first opening on. Some libraries find nothing in a token that has
/// gone; who believed that would take every root for destroyed.
const HERE: &str = "cloakroom here";
/// What SoftHSM's tokens say of their maker.
const SOFTWARE: &str = "SoftHSM project";

/// Libraries that were loaded. One process has one of each, whoever uses it, and to its end.
static LOADED: Mutex<Vec<Loaded>> = Mutex::new(Vec::new());

struct Loaded {
    module: PathBuf,
    library: Pkcs11,
    /// One more than there are sessions.
    users: Arc<()>,
}

/// A session with a token, logged in.
pub(super) struct Token {
    session: Session,
    is_hardware: bool,
    /// Dropped after the session.
    _user: Arc<()>,
}

impl Token {
    /// Loads the library, finds the token by its label and logs in.
    pub(super) fn open(module: &Path, label: &str, pin: Zeroizing<String>) -> Result<Self, HolderError> {
        let (library, _user) = library(module)?;
        let slot = slot(&library, label)?;
        let info = library.get_token_info(slot).map_err(failed("looking at the token"))?;
        let place = library.get_slot_info(slot).map_err(failed("looking at the slot"))?;
        let mechanisms = library.get_mechanism_list(slot).map_err(failed("asking what the token can"))?;
        if ![MechanismType::AES_KEY_GEN, MechanismType::AES_GCM].iter().all(|one| mechanisms.contains(one)) {
            return Err(HolderError::Refused("the token has no AES-GCM".to_owned()));
        }
        let session = library.open_rw_session(slot).map_err(failed("opening a session"))?;
        match session.login(UserType::User, Some(&AuthPin::from(pin.as_str()))) {
            // A process logs in once, whatever its sessions.
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(error) => return Err(failed("logging in")(error)),
        }
        let is_hardware = place.hardware_slot() && info.manufacturer_id() != SOFTWARE;
        let token = Self { session, is_hardware, _user };
        if token.look(&data_like(HERE))?.is_empty() {
            token.add_data(HERE, Vec::new())?;
        }
        Ok(token)
    }

    /// Whether the slot calls itself hardware and the maker is not known for software.
    pub(super) fn is_hardware(&self) -> bool {
        self.is_hardware
    }

    /// The roots of a tree. More than one object may bear the same id where something went wrong before.
    pub(super) fn roots(&self, tree: TreeId) -> Result<Vec<(ObjectHandle, HeldRoot)>, HolderError> {
        let wanted = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Label(root_label(tree))];
        let mut roots = Vec::new();
        for object in self.find(&wanted)? {
            let Some(id) = self.bytes(object, AttributeType::Id)? else { continue };
            roots.push((object, root_of(&id).ok_or(HolderError::Damaged("root's id"))?));
        }
        Ok(roots)
    }

    fn root(&self, tree: TreeId, root: RootId) -> Result<ObjectHandle, HolderError> {
        let found = self.roots(tree)?.into_iter().find(|(_, held)| held.root == root);
        found.map(|(object, _)| object).ok_or(HolderError::NoSuchRoot(root))
    }

    /// Makes a root that the token never gives out.
    pub(super) fn make_root(&self, tree: TreeId, held: HeldRoot) -> Result<(), HolderError> {
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::ValueLen(ROOT_BYTES.into()),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::Label(root_label(tree)),
            Attribute::Id([&held.root.0[..], &held.owner.0.to_be_bytes()].concat()),
        ];
        let made = self.session.generate_key(&Mechanism::AesKeyGen, &template);
        made.map(drop).map_err(failed("making a root"))
    }

    /// Removes an object; none such is a success.
    pub(super) fn remove(&self, object: ObjectHandle) -> Result<(), HolderError> {
        match self.session.destroy_object(object) {
            Ok(()) | Err(Error::Pkcs11(RvError::ObjectHandleInvalid, _)) => Ok(()),
            Err(error) => Err(failed("destroying an object")(error)),
        }
    }

    /// Wraps a page key inside the token.
    pub(super) fn wrap(&self, tree: TreeId, root: RootId, key: &Key<Page>) -> Result<Bytes, HolderError> {
        let object = self.root(tree, root)?;
        let bound = RootContext { tree, root }.for_device();
        // Ours, unless the token writes its own over it, as those in FIPS mode do.
        let mut nonce = random::array::<NONCE_BYTES>();
        let wrapped = key.borrow().hand_to_device(|bytes| {
            let gcm = GcmParams::new(&mut nonce, &bound, TAG_BITS.into())?;
            self.session.encrypt(&Mechanism::AesGcm(gcm), object, bytes)
        });
        Ok(device::anchor(&nonce, &wrapped.map_err(failed("wrapping a key"))?))
    }

    /// Unwraps it there.
    pub(super) fn unwrap(&self, tree: TreeId, root: RootId, anchor: &[u8]) -> Result<Key<Page>, HolderError> {
        let object = self.root(tree, root)?;
        let closed = HolderError::DoesNotOpen(root);
        let Ok((mut nonce, wrapped)) = device::from_anchor(anchor) else { return Err(closed) };
        let bound = RootContext { tree, root }.for_device();
        let opened = GcmParams::new(&mut nonce, &bound, TAG_BITS.into())
            .and_then(|gcm| self.session.decrypt(&Mechanism::AesGcm(gcm), object, wrapped));
        match opened {
            Ok(bytes) => Key::take_from_device(bytes).map_err(|_| closed),
            Err(error) if is_bad_tag(&error) => Err(closed),
            // Some tokens, SoftHSM among them, call a bad tag a general error. One that still wraps under
            // this root is well, so it was the tag.
            Err(Error::Pkcs11(RvError::GeneralError | RvError::FunctionFailed, _)) => {
                self.wrap(tree, root, &Key::random()).and(Err(closed))
            }
            Err(error) => Err(failed("unwrapping a key")(error)),
        }
    }

    /// The data objects with this label.
    pub(super) fn data(&self, label: &str) -> Result<Vec<(ObjectHandle, Vec<u8>)>, HolderError> {
        let mut found = Vec::new();
        for object in self.find(&data_like(label))? {
            if let Some(value) = self.bytes(object, AttributeType::Value)? {
                found.push((object, value));
            }
        }
        Ok(found)
    }

    /// Makes a data object.
    pub(super) fn add_data(&self, label: &str, value: Vec<u8>) -> Result<(), HolderError> {
        let template = [
            Attribute::Class(ObjectClass::DATA),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Application(APPLICATION.to_vec()),
            Attribute::Label(label.as_bytes().to_vec()),
            Attribute::Value(value),
        ];
        self.session.create_object(&template).map(drop).map_err(failed("noting"))
    }

    /// Puts another data object in the place of one, in this order: killed between, a reader finds both and
    /// takes the newer. (Most tokens let nobody change the value of one that is there.)
    pub(super) fn replace_data(
        &self,
        object: ObjectHandle,
        label: &str,
        value: Vec<u8>,
    ) -> Result<(), HolderError> {
        self.add_data(label, value)?;
        self.remove(object)
    }

    /// Nothing is what is found only in a token that is there.
    fn find(&self, wanted: &[Attribute]) -> Result<Vec<ObjectHandle>, HolderError> {
        let found = self.look(wanted)?;
        if found.is_empty() && self.look(&data_like(HERE))?.is_empty() {
            return Err(HolderError::Unreachable("the token shows nothing of what it holds".to_owned()));
        }
        Ok(found)
    }

    fn look(&self, wanted: &[Attribute]) -> Result<Vec<ObjectHandle>, HolderError> {
        self.session.find_objects(wanted).map_err(failed("looking for objects"))
    }

    /// One attribute; `None` where the object has gone since it was found.
    fn bytes(&self, object: ObjectHandle, wanted: AttributeType) -> Result<Option<Vec<u8>>, HolderError> {
        let found = match self.session.get_attributes(object, &[wanted]) {
            Err(Error::Pkcs11(RvError::ObjectHandleInvalid, _)) => return Ok(None),
            found => found.map_err(failed("reading an object"))?,
        };
        Ok(found.into_iter().find_map(|attribute| match attribute {
            Attribute::Id(bytes) | Attribute::Value(bytes) => Some(bytes),
            _ => None,
        }))
    }
}

/// The library, started. One that nobody has a session with is started anew: many find a token again only then
/// that was away, or a connection that was lost.
fn library(module: &Path) -> Result<(Pkcs11, Arc<()>), HolderError> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(known) = loaded.iter().find(|known| known.module == module) else {
        let library = Pkcs11::new(module).map_err(failed("loading the PKCS#11 library"))?;
        start(&library)?;
        let users = Arc::new(());
        loaded.push(Loaded {
            module: module.to_owned(),
            library: library.clone(),
            users: Arc::clone(&users),
        });
        return Ok((library, users));
    };
    let user = Arc::clone(&known.users);
    if Arc::strong_count(&known.users) == 2 {
        // Whatever it says: started it must be.
        let _ = known.library.clone().finalize();
        start(&known.library)?;
    }
    Ok((known.library.clone(), user))
}

fn start(library: &Pkcs11) -> Result<(), HolderError> {
    match library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
        Err(error) => Err(failed("starting the PKCS#11 library")(error)),
    }
}

fn slot(library: &Pkcs11, label: &str) -> Result<Slot, HolderError> {
    let slots = library.get_slots_with_token().map_err(failed("looking for tokens"))?;
    let mut labelled = Vec::new();
    for slot in slots {
        if library.get_token_info(slot).map_err(failed("looking at a token"))?.label() == label {
            labelled.push(slot);
        }
    }
    match labelled.as_slice() {
        [slot] => Ok(*slot),
        [] => Err(HolderError::Unreachable(format!("no token is labelled {label:?}"))),
        _ => Err(HolderError::Refused(format!("more than one token is labelled {label:?}"))),
    }
}

fn data_like(label: &str) -> [Attribute; 3] {
    [
        Attribute::Class(ObjectClass::DATA),
        Attribute::Application(APPLICATION.to_vec()),
        Attribute::Label(label.as_bytes().to_vec()),
    ]
}

fn root_label(tree: TreeId) -> Vec<u8> {
    format!("cloakroom root {tree}").into_bytes()
}

fn root_of(id: &[u8]) -> Option<HeldRoot> {
    let (root, owner) = id.split_first_chunk::<ROOT_ID_BYTES>()?;
    let owner = OwnerNumber(u64::from_be_bytes(owner.try_into().ok()?));
    Some(HeldRoot { root: RootId(*root), owner })
}

fn is_bad_tag(error: &Error) -> bool {
    use RvError::{DataInvalid, EncryptedDataInvalid, EncryptedDataLenRange, SignatureInvalid};
    matches!(
        error,
        Error::Pkcs11(EncryptedDataInvalid | EncryptedDataLenRange | SignatureInvalid | DataInvalid, _)
    )
}

/// What a token's refusals mean to whoever asked.
fn failed(what: &'static str) -> impl Fn(Error) -> HolderError {
    use RvError as Rv;
    move |error| match &error {
        Error::Pkcs11(
            Rv::PinIncorrect
            | Rv::PinInvalid
            | Rv::PinLenRange
            | Rv::PinExpired
            | Rv::PinLocked
            | Rv::UserPinNotInitialized
            | Rv::ActionProhibited
            | Rv::FunctionRejected
            | Rv::TokenWriteProtected
            | Rv::SessionReadOnly
            | Rv::KeyFunctionNotPermitted
            | Rv::MechanismInvalid,
            _,
        ) => HolderError::Refused(format!("{what}: {error}")),
        Error::Pkcs11(Rv::DeviceMemory, _) => HolderError::Full,
        Error::Pkcs11(
            Rv::DeviceError
            | Rv::DeviceRemoved
            | Rv::TokenNotPresent
            | Rv::TokenNotRecognized
            | Rv::SlotIdInvalid
            | Rv::SessionClosed
            | Rv::SessionHandleInvalid
            | Rv::SessionCount
            | Rv::UserNotLoggedIn
            | Rv::CryptokiNotInitialized
            | Rv::GeneralError
            | Rv::FunctionFailed
            | Rv::HostMemory,
            _,
        )
        | Error::LibraryLoading(_) => HolderError::Unreachable(format!("{what}: {error}")),
        Error::Pkcs11(_, Function::Login) => HolderError::Refused(format!("{what}: {error}")),
        _ => HolderError::Io { what, source: std::io::Error::other(error) },
    }
}
