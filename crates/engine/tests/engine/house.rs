//! A vault in a folder of its own, with the example registers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cloakroom_core::clock::ManualClock;
use cloakroom_core::event::Shape;
use cloakroom_core::refusal::{Code, Refusal};
use cloakroom_engine::open::Layers;
use cloakroom_engine::{
    DetokenizeRequest, Engine, ErasureRequest, FileHolder, GateReason, Opened, Options, Plaintext,
    SubjectRef, TokenizeItem, TokenizeRequest, Tokenized, Who,
};
use cloakroom_store::Records;

use crate::graph::Graph;

pub(crate) const ADMIN: &str = "spiffe://cloakroom.local/person/admin";
pub(crate) const ORDERS: &str = "spiffe://cloakroom.local/service/orders";
pub(crate) const MAIL: &str = "spiffe://cloakroom.local/downstream/mail";
pub(crate) const SUPPORT: &str = "spiffe://cloakroom.local/service/support";
pub(crate) const DPO: &str = "spiffe://cloakroom.local/person/dpo";
pub(crate) const SEE: &str = "see-tickets";
pub(crate) const PURCHASE: &str = "ticket_purchase";

pub(crate) struct House {
    pub(crate) folder: PathBuf,
    pub(crate) clock: Arc<ManualClock>,
    graph: Arc<Graph>,
    _own: Option<tempfile::TempDir>,
}

impl Drop for House {
    fn drop(&mut self) {
        if let Some(what) = self.graph.broken()
            && !std::thread::panicking()
        {
            panic!("{what}");
        }
    }
}

pub(crate) fn register(controller: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/registers").join(controller);
    std::fs::read_to_string(path.join("register.toml")).unwrap()
}

impl House {
    pub(crate) fn new() -> Self {
        let own = tempfile::tempdir().unwrap();
        Self {
            folder: own.path().to_owned(),
            clock: Arc::new(ManualClock::at(1_790_000_000_000)),
            graph: Arc::default(),
            _own: Some(own),
        }
    }

    pub(crate) fn at(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            clock: Arc::new(ManualClock::at(1_790_000_000_000)),
            graph: Arc::default(),
            _own: None,
        }
    }

    pub(crate) fn options(&self) -> Options {
        let holder = FileHolder::open(&self.folder.join("roots")).unwrap();
        let mut options = Options::in_folder(&self.folder, Arc::new(holder));
        options.allow_unlocked = true;
        options.reserve_bytes = 0;
        options.admins = vec![ADMIN.to_owned()];
        options
    }

    pub(crate) async fn try_open(&self) -> Result<Opened, cloakroom_engine::EngineError> {
        self.try_open_over(&mut ()).await
    }

    async fn try_open_over(&self, layers: &mut dyn Layers) -> Result<Opened, cloakroom_engine::EngineError> {
        let mut recording = self.graph.under(layers);
        let opened = Engine::open_over(self.options(), self.clock.clone(), &mut recording).await?;
        if matches!(opened, Opened::Ready(_)) {
            self.graph.look(true).await;
        }
        Ok(opened)
    }

    /// Opens with layers over the stores.
    pub(crate) async fn open_over(
        &self,
        layers: &mut dyn Layers,
    ) -> Result<Engine, cloakroom_engine::EngineError> {
        match self.try_open_over(layers).await? {
            Opened::Ready(engine) => Ok(engine),
            Opened::Gated(reason) => panic!("the gate is closed: {reason}"),
        }
    }

    /// A copy of this vault as it lies there now.
    pub(crate) fn fork(&self) -> Self {
        let fork = Self::new();
        copy(&self.folder, &fork.folder);
        fork
    }

    /// Puts in place of one of this vault's folders what `other` has there.
    pub(crate) fn take(&self, folder: &str, other: &House) {
        std::fs::remove_dir_all(self.folder.join(folder)).unwrap();
        copy(&other.folder.join(folder), &self.folder.join(folder));
    }

    pub(crate) async fn open(&self) -> Engine {
        match self.try_open().await.unwrap_or_else(|error| panic!("{}", error.chain())) {
            Opened::Ready(engine) => engine,
            Opened::Gated(reason) => panic!("the gate is closed: {reason}"),
        }
    }

    pub(crate) async fn gate(&self) -> GateReason {
        match self.try_open().await.unwrap_or_else(|error| panic!("{}", error.chain())) {
            Opened::Ready(_) => panic!("the gate stayed open"),
            Opened::Gated(reason) => reason,
        }
    }

    /// A fresh vault with the register of See Tickets.
    pub(crate) async fn ready(&self) -> Engine {
        let engine = self.open().await;
        engine.apply_register(ADMIN, &register(SEE), false).await.unwrap();
        engine
    }
}

pub(crate) fn item(subject: SubjectRef, field: &str, value: &str) -> TokenizeItem {
    TokenizeItem {
        reference: String::new(),
        subject,
        field: field.to_owned(),
        value: Plaintext::from_slice(value.as_bytes()),
        shape: Some(Shape::Opaque),
    }
}

pub(crate) fn new(label: &str) -> SubjectRef {
    SubjectRef::New(label.to_owned())
}

pub(crate) fn known(id: &str) -> SubjectRef {
    SubjectRef::Known(id.to_owned())
}

pub(crate) async fn tokenize(
    engine: &Engine,
    key: &str,
    items: Vec<TokenizeItem>,
) -> Vec<Result<Tokenized, Refusal>> {
    let request = TokenizeRequest {
        controller: SEE.to_owned(),
        activity: PURCHASE.to_owned(),
        idempotency_key: key.to_owned(),
        items,
    };
    engine.tokenize(ORDERS, request).await.unwrap()
}

/// One new person with an address and a name.
pub(crate) async fn person(engine: &Engine, email: &str, name: &str) -> (String, String, String) {
    let answers =
        tokenize(engine, "", vec![item(new("p"), "email", email), item(new("p"), "full_name", name)]).await;
    let [Ok(first), Ok(second)] = answers.as_slice() else { panic!("{answers:?}") };
    assert_eq!(first.subject_id, second.subject_id);
    (first.subject_id.clone(), first.token.clone(), second.token.clone())
}

pub(crate) async fn read(engine: &Engine, token: &str) -> Result<String, Code> {
    let request = DetokenizeRequest {
        controller: SEE.to_owned(),
        purpose: "ticket_delivery".to_owned(),
        reason: String::new(),
        masked: false,
        tokens: vec![token.to_owned()],
        trace: [0; 16],
    };
    let answer = engine.detokenize(MAIL, request).await.unwrap().remove(0);
    answer.map(|text| String::from_utf8(text.as_bytes().to_vec()).unwrap()).map_err(|refusal| refusal.code)
}

pub(crate) fn erasure_of(subject_id: &str) -> ErasureRequest {
    ErasureRequest {
        controller: SEE.to_owned(),
        who: Who::SubjectId(subject_id.to_owned()),
        activities: vec![],
        actor: "dsr-2026-1".to_owned(),
        reason: "case-1".to_owned(),
        legal_basis: 1,
        idempotency_key: String::new(),
    }
}

/// A copy of a folder as it lies there now.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
    std::fs::set_permissions(to, std::fs::metadata(from).unwrap().permissions()).unwrap();
}

/// Keeps hold of the projections.
#[derive(Default)]
pub(crate) struct Watched(pub(crate) Option<Arc<dyn Records>>);

impl Layers for Watched {
    fn projections(&mut self, projections: Arc<dyn Records>) -> Arc<dyn Records> {
        Arc::clone(self.0.insert(projections))
    }
}
