//! The TPM holder against a real swtpm, one for each test.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cloakroom_core::ids::{RootId, TreeId};
use cloakroom_crypto::{Key, random};
use cloakroom_keytree::holder::contract::{Bench, Trouble};
use cloakroom_keytree::holder::{SecretSource, TpmHolder, TpmOptions};
use cloakroom_keytree::{HolderError, OwnerNumber, RootHolder};
use cloakroom_store::Answer;
use rustix::process::{Pid, Signal, kill_process};
use tss_esapi::attributes::NvIndexAttributesBuilder;
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::Provision;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::NvPublicBuilder;
use tss_esapi::{Context, tcti_ldr::TctiNameConf};

const FIRST_INDEX: u32 = 0x0180_c10a;
const INDEXES: u32 = 8;
/// Outside the holder's range.
const FILLER: u32 = 0x0181_0000;
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
const SLOW: Duration = Duration::from_millis(700);

mod contract {
    cloakroom_keytree::holder_contract!(super::Swtpm::new());
}

struct Swtpm {
    folder: tempfile::TempDir,
    port: u16,
    running: Mutex<Child>,
    wrong_password: AtomicBool,
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Two free ports, one above the other: tpm2-tss finds the control channel there.
fn two_ports() -> u16 {
    loop {
        let below = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = below.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}

fn start(folder: &std::path::Path, port: u16) -> Child {
    let mut child = Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .args(["--tpmstate", &format!("dir={}", folder.display())])
        .args(["--server", &format!("type=tcp,bindaddr=127.0.0.1,port={port}")])
        .args(["--ctrl", &format!("type=tcp,bindaddr=127.0.0.1,port={}", port + 1)])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("swtpm; scripts/setup.sh test installs it");
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
        assert!(began.elapsed() < ANSWER_WITHIN, "swtpm listens");
        thread::sleep(Duration::from_millis(5));
    }
    child
}

impl Swtpm {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("tpm")).unwrap();
        for (name, secret) in [("password", "correct"), ("wrong-password", "wrong")] {
            let path = folder.path().join(name);
            fs::write(&path, secret).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        loop {
            let port = two_ports();
            let mut child = start(&folder.path().join("tpm"), port);
            // Somebody else took a port in between.
            if child.try_wait().unwrap().is_none() {
                let (running, wrong_password) = (Mutex::new(child), AtomicBool::new(false));
                return Self { folder, port, running, wrong_password };
            }
        }
    }

    fn kill(&self) {
        let mut running = self.running.lock().unwrap();
        running.kill().unwrap();
        running.wait().unwrap();
    }

    fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn options(&self) -> TpmOptions {
        let wrong = self.wrong_password.load(Ordering::SeqCst);
        let password = self.folder.path().join(if wrong { "wrong-password" } else { "password" });
        TpmOptions {
            tcti: self.tcti(),
            state: self.state(),
            first_index: FIRST_INDEX,
            indexes: INDEXES,
            owner_auth: None,
            index_auth: Some(SecretSource::File(password)),
            answer_within: ANSWER_WITHIN,
        }
    }

    fn holder(&self) -> TpmHolder {
        TpmHolder::open(self.options()).unwrap()
    }

    fn context(&self) -> Context {
        let mut context = Context::new(TctiNameConf::from_str(&self.tcti()).unwrap()).unwrap();
        context.set_sessions((Some(AuthSession::Password), None, None));
        context
    }

    /// Fills what memory the TPM has with ever smaller indexes.
    fn fill(&self) {
        let mut context = self.context();
        let mut index = FILLER;
        for bytes in [2048, 512, 64, 8] {
            while define(&mut context, index, bytes).is_ok() {
                index += 1;
            }
        }
        assert!(index > FILLER);
    }

    fn clear_filling(&self) {
        let mut context = self.context();
        let mut index = FILLER;
        while let Ok(handle) = found(&mut context, index) {
            context.nv_undefine_space(Provision::Owner, handle).unwrap();
            index += 1;
        }
    }
}

fn define(context: &mut Context, index: u32, bytes: usize) -> tss_esapi::Result<NvIndexHandle> {
    let attributes = NvIndexAttributesBuilder::new().with_auth_read(true).with_auth_write(true).build()?;
    let public = NvPublicBuilder::new()
        .with_nv_index(NvIndexTpmHandle::new(index)?)
        .with_index_name_algorithm(HashingAlgorithm::Sha256)
        .with_index_attributes(attributes)
        .with_data_area_size(bytes)
        .build()?;
    context.nv_define_space(Provision::Owner, None, public)
}

fn found(context: &mut Context, index: u32) -> tss_esapi::Result<NvIndexHandle> {
    let handle = TpmHandle::NvIndex(NvIndexTpmHandle::new(index)?);
    context.execute_without_session(|context| context.tr_from_tpm_public(handle)).map(NvIndexHandle::from)
}

impl Bench for Swtpm {
    fn open(&self) -> Answer<'_, Result<Arc<dyn RootHolder>, HolderError>> {
        Answer::now(TpmHolder::open(self.options()).map(|holder| Arc::new(holder) as Arc<dyn RootHolder>))
    }

    fn pass(&self, time: Duration) -> Answer<'_, ()> {
        Answer::later(tokio::time::sleep(time))
    }

    fn trouble(&self, trouble: Trouble) -> Answer<'_, Result<(), &'static str>> {
        match trouble {
            Trouble::Slow => {
                let pid = Pid::from_child(&self.running.lock().unwrap());
                kill_process(pid, Signal::STOP).unwrap();
                thread::spawn(move || {
                    thread::sleep(SLOW);
                    kill_process(pid, Signal::CONT).unwrap();
                });
            }
            Trouble::Unreachable => self.kill(),
            Trouble::Full => self.fill(),
            Trouble::Refuses => self.wrong_password.store(true, Ordering::SeqCst),
        }
        Answer::now(Ok(()))
    }

    fn relieve(&self, trouble: Trouble) -> Answer<'_, ()> {
        match trouble {
            Trouble::Slow => {}
            Trouble::Unreachable => {
                *self.running.lock().unwrap() = start(&self.folder.path().join("tpm"), self.port);
            }
            Trouble::Full => self.clear_filling(),
            Trouble::Refuses => self.wrong_password.store(false, Ordering::SeqCst),
        }
        Answer::now(())
    }
}

fn new_ids() -> (TreeId, RootId) {
    (TreeId(random::id16()), RootId(random::id16()))
}

#[tokio::test]
async fn a_virtual_tpm_claims_no_chip() {
    let tpm = Swtpm::new();
    assert_eq!((tpm.holder().kind(), tpm.holder().destroy_class()), ("tpm", "overwritten"));
}

#[tokio::test]
async fn what_is_not_ours_is_left_alone_and_what_a_kill_left_is_cleared_away() {
    let tpm = Swtpm::new();
    let holder = tpm.holder();
    let (tree, root) = new_ids();
    let owner = holder.own(tree).await.unwrap();
    {
        let mut context = tpm.context();
        define(&mut context, FIRST_INDEX, 20).unwrap(); // somebody else's
        define(&mut context, FIRST_INDEX + 1, 73).unwrap(); // defined and never written
    }
    assert!(holder.list(tree).await.unwrap().is_empty());
    holder.create(tree, owner, root).await.unwrap();
    let mut context = tpm.context();
    found(&mut context, FIRST_INDEX).unwrap();
    let ours = found(&mut context, FIRST_INDEX + 1).unwrap();
    let (public, _) = context.execute_without_session(|context| context.nv_read_public(ours)).unwrap();
    assert!(public.attributes().written(), "the unwritten one's place was taken");
    drop(context);
    holder.destroy(tree, owner, root).await.unwrap();
    let mut context = tpm.context();
    found(&mut context, FIRST_INDEX).unwrap();
    assert!(found(&mut context, FIRST_INDEX + 1).is_err(), "undefined");
}

#[tokio::test]
async fn its_range_has_an_end() {
    let tpm = Swtpm::new();
    let holder = tpm.holder();
    let (tree, _) = new_ids();
    let owner = holder.own(tree).await.unwrap();
    for number in 0..INDEXES {
        holder.create(tree, owner, RootId([number as u8; 16])).await.unwrap();
    }
    assert!(matches!(holder.create(tree, owner, RootId([99; 16])).await, Err(HolderError::Full)));
    assert_eq!(holder.list(tree).await.unwrap().len(), INDEXES as usize);
    holder.destroy(tree, owner, RootId([3; 16])).await.unwrap();
    holder.create(tree, owner, RootId([99; 16])).await.unwrap();
}

#[tokio::test]
async fn numbers_rise_although_the_folder_beside_was_lost() {
    let tpm = Swtpm::new();
    let (tree, root) = new_ids();
    let mut newest = OwnerNumber(0);
    for _ in 0..3 {
        newest = tpm.holder().own(tree).await.unwrap();
    }
    let holder = tpm.holder();
    let owner = holder.own(tree).await.unwrap();
    holder.create(tree, owner, root).await.unwrap();
    drop(holder);
    fs::remove_dir_all(tpm.state()).unwrap();
    assert!(owner > newest);
    assert!(tpm.holder().own(tree).await.unwrap() > owner);
}

#[tokio::test]
async fn a_tpm_that_hangs_is_unreachable_in_time() {
    let tpm = Swtpm::new();
    let options = TpmOptions { answer_within: Duration::from_millis(500), ..tpm.options() };
    let holder = TpmHolder::open(options).unwrap();
    let (tree, root) = new_ids();
    let owner = holder.own(tree).await.unwrap();
    holder.create(tree, owner, root).await.unwrap();
    let anchor = holder.wrap(tree, root, Key::random().borrow()).await.unwrap();
    let pid = Pid::from_child(&tpm.running.lock().unwrap());
    kill_process(pid, Signal::STOP).unwrap();
    let began = Instant::now();
    assert!(matches!(holder.unwrap(tree, root, &anchor).await, Err(HolderError::Unreachable(_))));
    assert!(began.elapsed() < ANSWER_WITHIN);
    kill_process(pid, Signal::CONT).unwrap();
    let began = Instant::now();
    while let Err(error) = holder.unwrap(tree, root, &anchor).await {
        assert!(matches!(error, HolderError::Unreachable(_)), "{error:?}");
        assert!(began.elapsed() < ANSWER_WITHIN, "it serves again");
    }
}

#[test]
fn what_cannot_be_opened_says_why() {
    let tpm = Swtpm::new();
    let refused = |options: TpmOptions| match TpmHolder::open(options) {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    };
    let nowhere = format!("swtpm:host=127.0.0.1,port={}", two_ports());
    assert!(matches!(refused(TpmOptions { tcti: nowhere, ..tpm.options() }), HolderError::Unreachable(_)));
    for wrong in [
        TpmOptions { tcti: "pigeon".to_owned(), ..tpm.options() },
        TpmOptions { first_index: 0x0200_0000, ..tpm.options() },
        TpmOptions { first_index: 0x01ff_ffff, indexes: 2, ..tpm.options() },
    ] {
        assert!(matches!(refused(wrong), HolderError::Io { .. }));
    }
}
