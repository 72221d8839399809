//! The gRPC service around the [`Shelf`]: who may call, and the wire's messages.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cloakroom_core::ids::{CommitPosition, RootId, StartId, TreeId};
use cloakroom_crypto::share::Dealing;
use cloakroom_proto::keyholder::v1 as wire;
use cloakroom_proto::keyholder::v1::Outcome;
use cloakroom_proto::keyholder::v1::keyholder_service_server::KeyholderService;
use cloakroom_runtime::identity::Principal;
use prometheus::{IntCounter, IntGauge, Registry};
use tonic::{Request, Response, Status};

use crate::boot_time;
use crate::shelf::{Given, Refusal, Shelf, Standing};

/// A name is an address, `host:port`.
const NAME_BYTES_MAX: usize = 300;

/// The service.
pub(crate) struct Api {
    shelf: Mutex<Shelf>,
    owners: HashSet<Principal>,
    figures: Figures,
}

/// What is counted.
struct Figures {
    shares: IntGauge,
    trees: IntGauge,
    silent: IntGauge,
    granted: IntCounter,
    refused: IntCounter,
    dropped: IntCounter,
}

impl Figures {
    fn register(metrics: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name, help| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            metrics.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counter = |name, help| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            metrics.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let figures = Self {
            shares: gauge("cloakroom_keyholder_shares", "Shares of roots kept.")?,
            trees: gauge("cloakroom_keyholder_trees", "Key trees known since the start.")?,
            silent: gauge(
                "cloakroom_keyholder_silent",
                "1 while no ownership is granted, a lease long after a start.",
            )?,
            granted: counter("cloakroom_keyholder_grants_total", "Ownerships granted.")?,
            refused: counter("cloakroom_keyholder_refusals_total", "Calls refused by the protocol's rules.")?,
            dropped: counter("cloakroom_keyholder_dropped_total", "Shares wiped because an owner said so.")?,
        };
        figures.silent.set(1);
        Ok(figures)
    }
}

impl Api {
    pub(crate) fn new(
        shelf: Shelf,
        owners: HashSet<Principal>,
        metrics: &Registry,
    ) -> Result<Self, prometheus::Error> {
        Ok(Self { shelf: Mutex::new(shelf), owners, figures: Figures::register(metrics)? })
    }

    /// Lets a caller in, or not.
    fn admit<T>(&self, request: Request<T>) -> Result<(Principal, T), Status> {
        let caller = request.extensions().get::<Principal>().filter(|caller| self.owners.contains(caller));
        match caller.cloned() {
            Some(caller) => Ok((caller, request.into_inner())),
            None => Err(Status::permission_denied("this principal keeps no roots here")),
        }
    }

    /// Asks the shelf, and counts what came of it.
    fn ask<T>(&self, ask: impl FnOnce(&mut Shelf, Duration) -> Result<T, Refusal>) -> (Outcome, Option<T>) {
        // A panic on the way (no locked memory left) leaves the shelf whole: each change of it is one insertion.
        let mut shelf: MutexGuard<'_, Shelf> = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        let now = boot_time();
        let answer = ask(&mut shelf, now);
        self.figures.shares.set(i64::try_from(shelf.shares()).unwrap_or(i64::MAX));
        self.figures.trees.set(i64::try_from(shelf.trees()).unwrap_or(i64::MAX));
        self.figures.silent.set(i64::from(!shelf.silence_left(now).is_zero()));
        match answer {
            Ok(done) => (Outcome::Done, Some(done)),
            Err(refusal) => {
                self.figures.refused.inc();
                (outcome(refusal), None)
            }
        }
    }
}

fn outcome(refusal: Refusal) -> Outcome {
    match refusal {
        Refusal::Replaced => Outcome::Replaced,
        Refusal::Unknown => Outcome::UnknownOwner,
        Refusal::Leased => Outcome::Leased,
        Refusal::TooSoon => Outcome::TooSoon,
        Refusal::LeaseTooLong => Outcome::LeaseTooLong,
        Refusal::Exists => Outcome::Exists,
        Refusal::Absent => Outcome::Absent,
        Refusal::Full => Outcome::Full,
        Refusal::OtherLetterbox => Outcome::OtherLetterbox,
        Refusal::TooLate => Outcome::TooLate,
    }
}

fn wrong(what: &'static str) -> Status {
    Status::invalid_argument(format!("{what} is not what it should be"))
}

fn tree(id: &Bytes) -> Result<TreeId, Status> {
    TreeId::from_slice(id).ok_or_else(|| wrong("tree_id"))
}

fn root(id: &Bytes) -> Result<RootId, Status> {
    RootId::from_slice(id).ok_or_else(|| wrong("root_id"))
}

/// Owners count from 1.
fn owner(number: u64) -> Result<u64, Status> {
    if number == 0 { Err(wrong("owner")) } else { Ok(number) }
}

fn commit(commit: wire::Commit) -> Result<CommitPosition, Status> {
    let start = StartId::from_slice(&commit.start_id).ok_or_else(|| wrong("commit"))?;
    Ok(CommitPosition { start, number: commit.number })
}

fn dealing(dealing: Option<wire::Dealing>) -> Result<Dealing, Status> {
    let dealing = dealing.ok_or_else(|| wrong("dealing"))?;
    let threshold = u8::try_from(dealing.threshold).unwrap_or(0);
    let holders = dealing.holders.len();
    let named = dealing.holders.iter().all(|name| name.len() <= NAME_BYTES_MAX);
    if threshold == 0 || holders < usize::from(threshold) || holders > usize::from(u8::MAX) || !named {
        return Err(wrong("dealing"));
    }
    Ok(Dealing {
        root: root(&dealing.root_id)?,
        owner: owner(dealing.owner)?,
        threshold,
        check: dealing.check.as_ref().try_into().map_err(|_| wrong("dealing.check"))?,
        holders: dealing.holders,
    })
}

fn told_dealing(dealing: Dealing) -> wire::Dealing {
    wire::Dealing {
        root_id: Bytes::copy_from_slice(&dealing.root.0),
        owner: dealing.owner,
        threshold: u32::from(dealing.threshold),
        holders: dealing.holders,
        check: Bytes::copy_from_slice(&dealing.check),
    }
}

fn told(standing: Standing, letterbox: [u8; 32]) -> wire::Standing {
    wire::Standing {
        known: standing.known,
        owner: standing.owner,
        lease_left_ms: u64::try_from(standing.lease_left.as_millis()).unwrap_or(u64::MAX),
        dealings: standing.dealings.into_iter().map(told_dealing).collect(),
        noted: standing.noted.map(|commit| wire::Commit {
            start_id: Bytes::copy_from_slice(&commit.start.0),
            number: commit.number,
        }),
        letterbox: Bytes::copy_from_slice(&letterbox),
    }
}

#[tonic::async_trait]
impl KeyholderService for Api {
    async fn look(
        &self,
        request: Request<wire::LookRequest>,
    ) -> Result<Response<wire::LookResponse>, Status> {
        let (_, asked) = self.admit(request)?;
        let tree = tree(&asked.tree_id)?;
        let (_, standing) = self.ask(|shelf, now| Ok(told(shelf.look(now, tree), shelf.letterbox())));
        Ok(Response::new(wire::LookResponse { standing }))
    }

    async fn own(&self, request: Request<wire::OwnRequest>) -> Result<Response<wire::OwnResponse>, Status> {
        let (caller, asked) = self.admit(request)?;
        let (tree, number) = (tree(&asked.tree_id)?, owner(asked.owner)?);
        let lease = Duration::from_millis(asked.lease_ms);
        let (outcome, newest) = self.ask(|shelf, now| {
            shelf.own(now, tree, number, lease, asked.take_over)?;
            Ok(shelf.look(now, tree).owner)
        });
        match outcome {
            Outcome::Done => {
                self.figures.granted.inc();
                tracing::info!(%tree, number, %caller, asked.take_over, "granted");
            }
            other => tracing::info!(%tree, number, %caller, outcome = other.as_str_name(), "not granted"),
        }
        Ok(Response::new(wire::OwnResponse { outcome: outcome.into(), owner: newest.unwrap_or_default() }))
    }

    async fn renew(
        &self,
        request: Request<wire::RenewRequest>,
    ) -> Result<Response<wire::RenewResponse>, Status> {
        let (_, asked) = self.admit(request)?;
        let (tree, number) = (tree(&asked.tree_id)?, owner(asked.owner)?);
        let noted = asked.noted.map(commit).transpose()?;
        let lease = Duration::from_millis(asked.lease_ms);
        let (outcome, standing) = self.ask(|shelf, now| {
            let standing = shelf.renew(now, tree, number, lease, noted)?;
            Ok(told(standing, shelf.letterbox()))
        });
        Ok(Response::new(wire::RenewResponse { outcome: outcome.into(), standing }))
    }

    async fn release(
        &self,
        request: Request<wire::ReleaseRequest>,
    ) -> Result<Response<wire::ReleaseResponse>, Status> {
        let (caller, asked) = self.admit(request)?;
        let (tree, number) = (tree(&asked.tree_id)?, owner(asked.owner)?);
        let (outcome, _) = self.ask(|shelf, _| shelf.release(tree, number, asked.unused));
        tracing::info!(%tree, number, %caller, asked.unused, outcome = outcome.as_str_name(), "given back");
        Ok(Response::new(wire::ReleaseResponse { outcome: outcome.into() }))
    }

    async fn put_share(
        &self,
        request: Request<wire::PutShareRequest>,
    ) -> Result<Response<wire::PutShareResponse>, Status> {
        let (_, asked) = self.admit(request)?;
        let (tree, number) = (tree(&asked.tree_id)?, owner(asked.owner)?);
        let dealing = dealing(asked.dealing)?;
        let place = u8::try_from(asked.place).unwrap_or(0);
        if place == 0 || usize::from(place) > dealing.holders.len() {
            return Err(wrong("place"));
        }
        let root = dealing.root;
        let given = Given { dealing, place, sealed: asked.sealed };
        let (outcome, _) = self.ask(|shelf, _| shelf.put(tree, number, asked.step, given));
        tracing::debug!(%tree, %root, number, outcome = outcome.as_str_name(), "a share came");
        Ok(Response::new(wire::PutShareResponse { outcome: outcome.into() }))
    }

    async fn get_share(
        &self,
        request: Request<wire::GetShareRequest>,
    ) -> Result<Response<wire::GetShareResponse>, Status> {
        let (_, asked) = self.admit(request)?;
        let (tree, root) = (tree(&asked.tree_id)?, root(&asked.root_id)?);
        let letterbox = asked.letterbox.as_ref().try_into().map_err(|_| wrong("letterbox"))?;
        let (outcome, lent) = self.ask(|shelf, _| shelf.get(tree, asked.owner, root, letterbox));
        let mut response = wire::GetShareResponse { outcome: outcome.into(), ..Default::default() };
        if let Some(lent) = lent {
            response.place = u32::from(lent.place);
            response.sealed = lent.sealed;
            response.dealing = Some(told_dealing(lent.dealing));
        }
        Ok(Response::new(response))
    }

    async fn drop_share(
        &self,
        request: Request<wire::DropShareRequest>,
    ) -> Result<Response<wire::DropShareResponse>, Status> {
        let (_, asked) = self.admit(request)?;
        let (tree, number) = (tree(&asked.tree_id)?, owner(asked.owner)?);
        let root = root(&asked.root_id)?;
        let (outcome, dropped) = self.ask(|shelf, _| shelf.drop_share(tree, number, asked.step, root));
        let dealing = dropped.flatten().map(told_dealing);
        if dealing.is_some() {
            self.figures.dropped.inc();
            tracing::info!(%tree, %root, number, "a share was wiped");
        }
        Ok(Response::new(wire::DropShareResponse { outcome: outcome.into(), dealing }))
    }

    async fn note(
        &self,
        request: Request<wire::NoteRequest>,
    ) -> Result<Response<wire::NoteResponse>, Status> {
        let (_, asked) = self.admit(request)?;
        let (tree, number) = (tree(&asked.tree_id)?, owner(asked.owner)?);
        let commit = commit(asked.commit.ok_or_else(|| wrong("commit"))?)?;
        let (outcome, _) = self.ask(|shelf, _| shelf.note(tree, number, commit));
        Ok(Response::new(wire::NoteResponse { outcome: outcome.into() }))
    }
}
