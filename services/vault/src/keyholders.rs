//! Keyholders over mutual TLS: what `cloakroom-keyholder` answers, for the quorum that decides
//! (`cloakroom_engine::holder::quorum`). A share that passes here is sealed to the process at the other end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cloakroom_client::{ClientError, Endpoint, channel_lazy};
use cloakroom_core::ids::{CommitPosition, RootId, StartId, TreeId};
use cloakroom_engine::holder::quorum::{
    Answer, Dealing, Decline, Given, Keyholder, Lent, LetterboxAddress, Standing,
};
use cloakroom_proto::keyholder::v1 as wire;
use cloakroom_proto::keyholder::v1::Outcome;
use cloakroom_proto::keyholder::v1::keyholder_service_client::KeyholderServiceClient;
use cloakroom_runtime::identity::TlsFiles;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

type Client = KeyholderServiceClient<Channel>;

/// Ways to the keyholders at these addresses (`host:port`), which are their names too. Each is connected at the
/// first call, as whoever `tls` names.
///
/// # Errors
/// [`ClientError::Endpoint`] for what is no address.
pub fn connect(addresses: &[String], tls: &TlsFiles) -> Result<Vec<Arc<dyn Keyholder>>, ClientError> {
    addresses
        .iter()
        .map(|address| {
            let endpoint = Endpoint {
                address: address.clone(),
                ca: tls.ca.clone(),
                cert: tls.cert.clone(),
                key: tls.key.clone(),
                ..Endpoint::default()
            };
            let client = Client::new(channel_lazy(&endpoint)?);
            Ok(Arc::new(Remote { name: address.clone(), client }) as Arc<dyn Keyholder>)
        })
        .collect()
}

/// One keyholder.
struct Remote {
    name: String,
    client: Client,
}

impl Remote {
    /// Calls, and once more where the connection was one to a former process. Repeats are safe: what was done is
    /// said to be there already, or refused.
    async fn call<A, F>(&self, call: impl Fn(Client) -> F) -> Result<A, Decline>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let answer = match call(self.client.clone()).await {
            Err(status) if status.code() == Code::Unavailable => call(self.client.clone()).await,
            answer => answer,
        };
        answer.map(Response::into_inner).map_err(|status| declined(&status))
    }
}

/// Never what came of it: a status is not the keyholder's decision.
fn declined(status: &Status) -> Decline {
    let said = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument | Code::Unimplemented => {
            Decline::Refused(said)
        }
        _ => Decline::Unreachable(said),
    }
}

/// What the keyholder decided.
fn decided(outcome: i32) -> Result<(), Decline> {
    Err(match Outcome::try_from(outcome) {
        Ok(Outcome::Done) => return Ok(()),
        Ok(Outcome::Replaced) => Decline::Replaced,
        Ok(Outcome::Leased) => Decline::Leased,
        Ok(Outcome::TooSoon) => Decline::TooSoon,
        Ok(Outcome::LeaseTooLong) => Decline::LeaseTooLong,
        Ok(Outcome::Exists) => Decline::Exists,
        Ok(Outcome::Absent) => Decline::Absent,
        Ok(Outcome::Full) => Decline::Full,
        Ok(Outcome::OtherLetterbox) => Decline::OtherLetterbox,
        Ok(Outcome::TooLate) => Decline::TooLate,
        Ok(Outcome::UnknownOwner) => Decline::Unknown,
        Ok(Outcome::Unspecified) | Err(_) => malformed(),
    })
}

fn malformed() -> Decline {
    Decline::Refused("the answer is none of a keyholder".to_owned())
}

fn id(bytes: &[u8; 16]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn commit_out(commit: CommitPosition) -> wire::Commit {
    wire::Commit { start_id: id(&commit.start.0), number: commit.number }
}

fn dealing_out(dealing: Dealing) -> wire::Dealing {
    wire::Dealing {
        root_id: id(&dealing.root.0),
        owner: dealing.owner,
        threshold: u32::from(dealing.threshold),
        holders: dealing.holders,
        check: Bytes::copy_from_slice(&dealing.check),
    }
}

fn dealing_in(dealing: wire::Dealing) -> Result<Dealing, Decline> {
    Ok(Dealing {
        root: RootId::from_slice(&dealing.root_id).ok_or_else(malformed)?,
        owner: dealing.owner,
        threshold: u8::try_from(dealing.threshold).ok().filter(|it| *it > 0).ok_or_else(malformed)?,
        holders: dealing.holders,
        check: dealing.check.as_ref().try_into().map_err(|_| malformed())?,
    })
}

fn standing_in(standing: Option<wire::Standing>) -> Result<Standing, Decline> {
    let standing = standing.ok_or_else(malformed)?;
    let noted = |commit: wire::Commit| -> Result<CommitPosition, Decline> {
        let start = StartId::from_slice(&commit.start_id).ok_or_else(malformed)?;
        Ok(CommitPosition { start, number: commit.number })
    };
    Ok(Standing {
        known: standing.known,
        owner: standing.owner,
        lease_left: Duration::from_millis(standing.lease_left_ms),
        dealings: standing.dealings.into_iter().map(dealing_in).collect::<Result<_, _>>()?,
        noted: standing.noted.map(noted).transpose()?,
        letterbox: standing.letterbox.as_ref().try_into().map_err(|_| malformed())?,
    })
}

impl Keyholder for Remote {
    fn name(&self) -> &str {
        &self.name
    }

    fn look(&self, tree: TreeId) -> Answer<'_, Result<Standing, Decline>> {
        Answer::later(async move {
            let asked = wire::LookRequest { tree_id: id(&tree.0) };
            let answer = self.call(|mut client| {
                let asked = asked.clone();
                async move { client.look(asked).await }
            });
            standing_in(answer.await?.standing)
        })
    }

    fn own(
        &self,
        tree: TreeId,
        owner: u64,
        lease: Duration,
        take_over: bool,
    ) -> Answer<'_, Result<(), Decline>> {
        Answer::later(async move {
            let asked = wire::OwnRequest { tree_id: id(&tree.0), owner, lease_ms: ms(lease), take_over };
            let answer = self.call(|mut client| {
                let asked = asked.clone();
                async move { client.own(asked).await }
            });
            decided(answer.await?.outcome)
        })
    }

    fn renew(
        &self,
        tree: TreeId,
        owner: u64,
        lease: Duration,
        noted: Option<CommitPosition>,
    ) -> Answer<'_, Result<Standing, Decline>> {
        Answer::later(async move {
            let noted = noted.map(commit_out);
            let asked = wire::RenewRequest { tree_id: id(&tree.0), owner, lease_ms: ms(lease), noted };
            let answer = self.call(|mut client| {
                let asked = asked.clone();
                async move { client.renew(asked).await }
            });
            let answer = answer.await?;
            decided(answer.outcome)?;
            standing_in(answer.standing)
        })
    }

    fn release(&self, tree: TreeId, owner: u64, unused: bool) -> Answer<'_, Result<(), Decline>> {
        Answer::later(async move {
            let asked = wire::ReleaseRequest { tree_id: id(&tree.0), owner, unused };
            let answer = self.call(|mut client| {
                let asked = asked.clone();
                async move { client.release(asked).await }
            });
            decided(answer.await?.outcome)
        })
    }

    fn put(&self, tree: TreeId, owner: u64, step: u64, given: Given) -> Answer<'_, Result<(), Decline>> {
        Answer::later(async move {
            let asked = wire::PutShareRequest {
                tree_id: id(&tree.0),
                owner,
                step,
                dealing: Some(dealing_out(given.dealing)),
                place: u32::from(given.place),
                sealed: given.sealed,
            };
            let answer = self.call(|mut client| {
                let asked = asked.clone();
                async move { client.put_share(asked).await }
            });
            decided(answer.await?.outcome)
        })
    }

    fn lend(
        &self,
        tree: TreeId,
        owner: u64,
        root: RootId,
        letterbox: LetterboxAddress,
    ) -> Answer<'_, Result<Lent, Decline>> {
        Answer::later(async move {
            let letterbox = Bytes::copy_from_slice(&letterbox);
            let asked =
                wire::GetShareRequest { tree_id: id(&tree.0), root_id: id(&root.0), owner, letterbox };
            let answer = self.call(|mut client| {
                let asked = asked.clone();
                async move { client.get_share(asked).await }
            });
            let answer = answer.await?;
            decided(answer.outcome)?;
            Ok(Lent {
                dealing: dealing_in(answer.dealing.ok_or_else(malformed)?)?,
                place: u8::try_from(answer.place).map_err(|_| malformed())?,
                sealed: answer.sealed,
            })
        })
    }

    fn wipe(
        &self,
        tree: TreeId,
        owner: u64,
        step: u64,
        root: RootId,
    ) -> Answer<'_, Result<Option<Dealing>, Decline>> {
        Answer::later(async move {
            let asked = wire::DropShareRequest { tree_id: id(&tree.0), owner, step, root_id: id(&root.0) };
            let answer = self.call(|mut client| {
                let asked = asked.clone();
                async move { client.drop_share(asked).await }
            });
            let answer = answer.await?;
            decided(answer.outcome)?;
            answer.dealing.map(dealing_in).transpose()
        })
    }

    fn note(&self, tree: TreeId, owner: u64, commit: CommitPosition) -> Answer<'_, Result<(), Decline>> {
        Answer::later(async move {
            let commit = Some(commit_out(commit));
            let asked = wire::NoteRequest { tree_id: id(&tree.0), owner, commit };
            let answer = self.call(|mut client| {
                let asked = asked.clone();
                async move { client.note(asked).await }
            });
            decided(answer.await?.outcome)
        })
    }
}
