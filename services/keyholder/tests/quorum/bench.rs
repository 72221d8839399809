//! The quorum in the suite of all root holders.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cloakroom_core::ids::TreeId;
use cloakroom_keytree::holder::contract::{Bench, Trouble};
use cloakroom_keytree::{HolderError, RootHolder};
use cloakroom_store::Answer;

use crate::proxy::Way;
use crate::trio::{SHARES_MAX, THRESHOLD, Trio, root};

/// What fills the keyholders.
const FILL: TreeId = TreeId([0xf1; 16]);

pub(crate) struct TrioBench {
    trio: Trio,
    refuses: AtomicBool,
}

impl TrioBench {
    pub(crate) async fn start() -> Self {
        Self { trio: Trio::settled(Duration::from_secs(2)).await, refuses: AtomicBool::default() }
    }

    async fn fill(&self) {
        let holder = self.trio.holder();
        let owner = crate::trio::own(&holder, FILL).await;
        for _ in 0..SHARES_MAX {
            match holder.create(FILL, owner, root()).await {
                Ok(()) => {}
                Err(HolderError::Full) => return,
                Err(error) => panic!("{error}"),
            }
        }
        panic!("never full");
    }

    async fn empty(&self) {
        let holder = self.trio.holder();
        let owner = crate::trio::own(&holder, FILL).await;
        for held in holder.list(FILL).await.unwrap() {
            holder.destroy(FILL, owner, held.root).await.unwrap();
        }
    }
}

impl Bench for TrioBench {
    fn open(&self) -> Answer<'_, Result<Arc<dyn RootHolder>, HolderError>> {
        let name = if self.refuses.load(Ordering::SeqCst) { "stranger" } else { "vault" };
        Answer::now(Ok(self.trio.holder_of(name)))
    }

    fn pass(&self, time: Duration) -> Answer<'_, ()> {
        Answer::later(tokio::time::sleep(time))
    }

    fn trouble(&self, trouble: Trouble) -> Answer<'_, Result<(), &'static str>> {
        Answer::later(async move {
            match trouble {
                Trouble::Slow => {
                    (0..3).for_each(|at| self.trio.set(at, Way::Slow(Duration::from_millis(150))))
                }
                Trouble::Unreachable => {
                    (0..usize::from(THRESHOLD)).for_each(|at| self.trio.set(at, Way::Shut));
                }
                Trouble::Full => self.fill().await,
                Trouble::Refuses => self.refuses.store(true, Ordering::SeqCst),
            }
            Ok(())
        })
    }

    fn relieve(&self, trouble: Trouble) -> Answer<'_, ()> {
        Answer::later(async move {
            match trouble {
                Trouble::Slow | Trouble::Unreachable => (0..3).for_each(|at| self.trio.set(at, Way::Open)),
                Trouble::Full => self.empty().await,
                Trouble::Refuses => self.refuses.store(false, Ordering::SeqCst),
            }
        })
    }
}
