//! The PKCS#11 holder against a real SoftHSM2.
//!
//! A process has one SoftHSM, configured by its environment. So every test makes a token in a folder of its own
//! and runs itself again, alone, in a process that has it.

use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cloakroom_core::ids::{RootId, TreeId};
use cloakroom_crypto::{Key, random};
use cloakroom_keytree::holder::contract::{Bench, Trouble};
use cloakroom_keytree::holder::{Pkcs11Holder, Pkcs11Options, SecretSource};
use cloakroom_keytree::{HolderError, OwnerNumber, RootHolder};
use cloakroom_store::Answer;
use cryptoki::context::Pkcs11;
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use cryptoki::session::UserType;
use data_encoding::HEXLOWER;

const PIN: &str = "4711";
const LABEL: &str = "cloakroom test";
/// Names the token's folder to the process that has it.
const TOKEN: &str = "CLOAKROOM_TEST_TOKEN";
/// Says to a process that it is the one to be killed.
const VICTIM: &str = "CLOAKROOM_TEST_VICTIM";
/// Long enough that a busy machine renews in time.
const LEASE: Duration = Duration::from_millis(1000);

macro_rules! in_own_process {
    ($($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                super::apart(concat!(module_path!(), "::", stringify!($case)), async |bench: super::Token| {
                    cloakroom_keytree::holder::contract::$case(&bench).await;
                });
            }
        )*
    };
}

mod contract {
    cloakroom_keytree::holder_cases! { [in_own_process] }
}

struct Token {
    folder: PathBuf,
    wrong_pin: AtomicBool,
}

fn softhsm() -> PathBuf {
    let known = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so"].map(PathBuf::from);
    known
        .into_iter()
        .find(|path| path.exists())
        .expect("SoftHSM2's library; scripts/setup.sh test installs it")
}

impl Token {
    fn options(&self) -> Pkcs11Options {
        let pin = if self.wrong_pin.load(Ordering::SeqCst) { "wrong-pin" } else { "pin" };
        Pkcs11Options {
            module: softhsm(),
            token: LABEL.to_owned(),
            pin: SecretSource::File(self.folder.join(pin)),
            lease: LEASE,
            answer_within: Duration::from_secs(30),
        }
    }

    fn holder(&self) -> Pkcs11Holder {
        Pkcs11Holder::open(self.options()).unwrap()
    }

    fn tokens(&self) -> PathBuf {
        self.folder.join("tokens")
    }

    /// A process is logged in until its last session has ended, and nobody asks for a PIN before that: the
    /// session of a holder that was just dropped ends on its own thread.
    async fn until_refused(&self) -> Result<(), &'static str> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !matches!(Pkcs11Holder::open(self.options()).map(drop), Err(HolderError::Refused(_))) {
            assert!(Instant::now() < deadline, "a wrong PIN is not refused");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

impl Bench for Token {
    fn open(&self) -> Answer<'_, Result<Arc<dyn RootHolder>, HolderError>> {
        Answer::now(Pkcs11Holder::open(self.options()).map(|holder| Arc::new(holder) as Arc<dyn RootHolder>))
    }

    fn pass(&self, time: Duration) -> Answer<'_, ()> {
        Answer::later(tokio::time::sleep(time))
    }

    fn trouble(&self, trouble: Trouble) -> Answer<'_, Result<(), &'static str>> {
        if trouble == Trouble::Refuses {
            self.wrong_pin.store(true, Ordering::SeqCst);
            return Answer::later(self.until_refused());
        }
        Answer::now(match trouble {
            Trouble::Slow => {
                Err("SoftHSM is a library in this process; the desk's own tests have a slow device")
            }
            Trouble::Full => Err("SoftHSM's memory is its disk; no setting bounds it"),
            Trouble::Unreachable => {
                std::fs::rename(self.tokens(), self.folder.join("gone")).unwrap();
                Ok(())
            }
            Trouble::Refuses => Ok(()),
        })
    }

    fn relieve(&self, trouble: Trouble) -> Answer<'_, ()> {
        match trouble {
            Trouble::Unreachable => std::fs::rename(self.folder.join("gone"), self.tokens()).unwrap(),
            _ => self.wrong_pin.store(false, Ordering::SeqCst),
        }
        Answer::now(())
    }
}

fn write_secret(path: &Path, secret: &str) {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).unwrap();
    file.write_all(secret.as_bytes()).unwrap();
}

fn make_token(folder: &Path) {
    std::fs::create_dir(folder.join("tokens")).unwrap();
    let conf = format!("directories.tokendir = {}\nlog.level = ERROR\n", folder.join("tokens").display());
    std::fs::write(folder.join("softhsm2.conf"), conf).unwrap();
    write_secret(&folder.join("pin"), PIN);
    write_secret(&folder.join("wrong-pin"), "0815");
    let made = Command::new("softhsm2-util")
        .env("SOFTHSM2_CONF", folder.join("softhsm2.conf"))
        .args(["--init-token", "--free", "--label", LABEL, "--pin", PIN, "--so-pin", "12345678"])
        .output()
        .expect("softhsm2-util; scripts/setup.sh test installs it");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// This test again, in a process of its own.
fn again(test: &str, folder: &Path) -> Command {
    let (_, name) = test.split_once("::").unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    command.env("SOFTHSM2_CONF", folder.join("softhsm2.conf")).env(TOKEN, folder);
    command
}

fn apart<W: Future<Output = ()>>(test: &str, work: impl FnOnce(Token) -> W) {
    if let Some(folder) = std::env::var_os(TOKEN) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work(Token { folder: folder.into(), wrong_pin: AtomicBool::new(false) }));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    make_token(folder.path());
    let ended = again(test, folder.path()).output().unwrap();
    let said = [ended.stdout, ended.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(ended.status.success() && said.contains("1 passed"), "{said}");
}

fn new_ids() -> (TreeId, RootId) {
    (TreeId(random::id16()), RootId(random::id16()))
}

#[test]
fn a_killed_process_keeps_its_lease_and_loses_nothing() {
    const TEST: &str = concat!(module_path!(), "::a_killed_process_keeps_its_lease_and_loses_nothing");
    apart(TEST, async |token: Token| {
        if std::env::var_os(VICTIM).is_some() {
            return own_until_killed(&token.holder()).await;
        }
        let mut victim = again(TEST, &token.folder).env(VICTIM, "1").stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(victim.stdout.take().unwrap()).lines().map(Result::unwrap);
        let told = lines.filter_map(|line| line.strip_prefix("owned ").map(str::to_owned)).next().unwrap();
        let told: Vec<_> = told.split(' ').map(|hex| HEXLOWER.decode(hex.as_bytes()).unwrap()).collect();
        let [tree, root, anchor] = told.try_into().unwrap();
        let (tree, root) = (TreeId(tree.try_into().unwrap()), RootId(root.try_into().unwrap()));
        let holder = token.holder();
        assert!(matches!(holder.own(tree).await, Err(HolderError::Owned(_))), "another process, alive");
        victim.kill().unwrap();
        victim.wait().unwrap();
        let owner = holder.own(tree).await.unwrap();
        assert!(owner > OwnerNumber(1));
        holder.unwrap(tree, root, &anchor).await.unwrap();
        holder.destroy(tree, owner, root).await.unwrap();
        assert!(matches!(holder.unwrap(tree, root, &anchor).await, Err(HolderError::NoSuchRoot(_))));
    });
}

async fn own_until_killed(holder: &Pkcs11Holder) {
    let (tree, root) = new_ids();
    let owner = holder.own(tree).await.unwrap();
    holder.create(tree, owner, root).await.unwrap();
    let anchor = holder.wrap(tree, root, Key::random().borrow()).await.unwrap();
    let mut out = std::io::stdout();
    writeln!(out, "\nowned {tree} {root} {}", HEXLOWER.encode(&anchor)).unwrap();
    loop {
        holder.renew(tree, owner).await.unwrap();
        tokio::time::sleep(LEASE / 5).await;
    }
}

#[test]
fn a_root_never_leaves_its_token_and_softhsm_claims_no_hardware() {
    const TEST: &str =
        concat!(module_path!(), "::a_root_never_leaves_its_token_and_softhsm_claims_no_hardware");
    apart(TEST, async |token: Token| {
        let holder = token.holder();
        assert_eq!((holder.kind(), holder.destroy_class()), ("pkcs11", "overwritten"));
        let (tree, root) = new_ids();
        let owner = holder.own(tree).await.unwrap();
        holder.create(tree, owner, root).await.unwrap();

        let library = Pkcs11::new(softhsm()).unwrap(); // started by the holder
        let slot = library.get_slots_with_initialized_token().unwrap()[0];
        let session = library.open_ro_session(slot).unwrap();
        assert!(session.login(UserType::User, Some(&PIN.into())).is_err(), "the process is logged in");
        let keys = session.find_objects(&[Attribute::Class(ObjectClass::SECRET_KEY)]).unwrap();
        assert_eq!(keys.len(), 1);
        let never =
            [AttributeType::Sensitive, AttributeType::NeverExtractable, AttributeType::AlwaysSensitive];
        let said = session.get_attributes(keys[0], &never).unwrap();
        assert_eq!(
            said,
            [Attribute::Sensitive(true), Attribute::NeverExtractable(true), Attribute::AlwaysSensitive(true)]
        );
        assert!(session.get_attributes(keys[0], &[AttributeType::Value]).unwrap().is_empty());
    });
}

#[test]
fn a_start_clears_older_claims_away_and_counts_on_from_the_roots() {
    const TEST: &str =
        concat!(module_path!(), "::a_start_clears_older_claims_away_and_counts_on_from_the_roots");
    apart(TEST, async |token: Token| {
        let (tree, root) = new_ids();
        let claims = |expected: usize| {
            let library = Pkcs11::new(softhsm()).unwrap();
            let slot = library.get_slots_with_initialized_token().unwrap()[0];
            let session = library.open_rw_session(slot).unwrap();
            let label = format!("cloakroom claim {tree}").into_bytes();
            let found = session.find_objects(&[Attribute::Label(label)]).unwrap();
            assert_eq!(found.len(), expected);
            (session, found)
        };
        let mut newest = OwnerNumber(0);
        for _ in 0..3 {
            let holder = token.holder();
            newest = holder.take_over(tree).await.unwrap();
            claims(1);
        }
        let holder = token.holder();
        newest = OwnerNumber(newest.0 + 1);
        assert_eq!(holder.own(tree).await.unwrap(), newest);
        holder.create(tree, newest, root).await.unwrap();
        let (session, found) = claims(1);
        session.destroy_object(found[0]).unwrap();
        assert!(matches!(
            holder.create(tree, newest, RootId([1; 16])).await,
            Err(HolderError::Replaced { .. })
        ));
        assert_eq!(token.holder().own(tree).await.unwrap(), OwnerNumber(newest.0 + 1));
    });
}

#[test]
fn what_cannot_be_opened_says_why() {
    const TEST: &str = concat!(module_path!(), "::what_cannot_be_opened_says_why");
    apart(TEST, async |token: Token| {
        let refused = |options: Pkcs11Options| match Pkcs11Holder::open(options) {
            Ok(_) => panic!("opened"),
            Err(error) => error,
        };
        let no_library = Pkcs11Options { module: token.folder.join("none.so"), ..token.options() };
        assert!(matches!(refused(no_library), HolderError::Unreachable(_)));
        let no_token = Pkcs11Options { token: "another".to_owned(), ..token.options() };
        assert!(matches!(refused(no_token), HolderError::Unreachable(text) if text.contains("another")));
        let no_pin =
            Pkcs11Options { pin: SecretSource::Env("CLOAKROOM_NO_PIN".to_owned()), ..token.options() };
        assert!(matches!(refused(no_pin), HolderError::Refused(_)));
        let wrong =
            Pkcs11Options { pin: SecretSource::File(token.folder.join("wrong-pin")), ..token.options() };
        let HolderError::Refused(said) = refused(wrong) else { panic!("not refused") };
        assert!(!said.contains("0815"), "{said}");
    });
}

#[test]
fn an_owner_that_overslept_does_not_come_back_under_one_who_waits() {
    const TEST: &str =
        concat!(module_path!(), "::an_owner_that_overslept_does_not_come_back_under_one_who_waits");
    apart(TEST, async |token: Token| {
        let (first, second, tree) = (token.holder(), token.holder(), new_ids().0);
        let owner = first.own(tree).await.unwrap();
        tokio::time::sleep(LEASE).await;
        first.renew(tree, owner).await.unwrap(); // nobody minded
        tokio::time::sleep(LEASE).await;
        let waking = async {
            tokio::time::sleep(LEASE / 2).await;
            first.renew(tree, owner).await
        };
        let (next, woken) = tokio::join!(second.own(tree), waking);
        assert!(matches!(woken, Err(HolderError::Replaced { .. })), "{woken:?}");
        assert!(next.unwrap() > owner);
    });
}
