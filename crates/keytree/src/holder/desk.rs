//! The one thread that talks to a device: calls wait in line, and nobody waits longer than granted.
//!
//! Device libraries block, and their sessions belong to one thread. So a call is a job for that thread, and a
//! second thread watches the time. A call that got no answer in time is [`HolderError::Unreachable`]: if it had
//! begun, nothing is known of it; if it had not, it never will.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cloakroom_store::Answer;
use futures_channel::oneshot;

use super::HolderError;

/// Calls that may wait in line; a tree has one writer and a few who open its top page.
const IN_LINE_MAX: usize = 64;
/// Calls whose time is watched: also those long answered, until their time is over.
const WATCHED_MAX: usize = 4096;

type Job<S> = Box<dyn FnOnce(&mut Seat<S>) + Send>;
type Telling<T> = Box<dyn FnOnce(Result<T, HolderError>) + Send>;
type Expiry = (Instant, Box<dyn FnOnce() + Send>);

/// Where calls are handed in.
pub(super) struct Desk<S> {
    jobs: SyncSender<Job<S>>,
    expiries: SyncSender<Expiry>,
    answer_within: Duration,
}

/// What the thread has of the device: a session, made when it is needed and made anew after it was lost.
struct Seat<S> {
    open: Box<dyn FnMut() -> Result<S, HolderError> + Send>,
    session: Option<S>,
    /// A refusal is final: whoever tries a wrong PIN often enough locks the device.
    refused: Option<String>,
}

/// How to tell the caller; taken by whoever tells first.
struct Tell<T>(Arc<Mutex<Option<Telling<T>>>>);

impl<S: 'static> Desk<S> {
    /// Starts the threads. `open` makes a session, on the thread that will use it.
    ///
    /// # Errors
    /// [`HolderError::Io`] where the system gives no thread.
    pub(super) fn start(
        name: &str,
        answer_within: Duration,
        open: impl FnMut() -> Result<S, HolderError> + Send + 'static,
    ) -> Result<Self, HolderError> {
        let (jobs, waiting) = sync_channel::<Job<S>>(IN_LINE_MAX);
        let (expiries, watched) = sync_channel::<Expiry>(WATCHED_MAX);
        let open: Box<dyn FnMut() -> Result<S, HolderError> + Send> = Box::new(open);
        spawn(name.to_owned(), move || {
            let mut seat = Seat { open, session: None, refused: None };
            waiting.into_iter().for_each(|job| job(&mut seat));
        })?;
        spawn(format!("{name} time"), move || watch(&watched))?;
        Ok(Self { jobs, expiries, answer_within })
    }

    /// Does `work` on the device's thread.
    pub(super) fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&S) -> Result<T, HolderError> + Send + 'static,
    ) -> Answer<'static, Result<T, HolderError>> {
        let (tell, told) = oneshot::channel();
        self.hand_in(work, move |answer| drop(tell.send(answer)));
        Answer::later(async move { told.await.unwrap_or_else(|_| Err(gone())) })
    }

    /// The same for a thread that may wait.
    pub(super) fn call_and_wait<T: Send + 'static>(
        &self,
        work: impl FnOnce(&S) -> Result<T, HolderError> + Send + 'static,
    ) -> Result<T, HolderError> {
        let (tell, told) = sync_channel(1);
        self.hand_in(work, move |answer| drop(tell.send(answer)));
        told.recv().unwrap_or_else(|_| Err(gone()))
    }

    fn hand_in<T: Send + 'static>(
        &self,
        work: impl FnOnce(&S) -> Result<T, HolderError> + Send + 'static,
        tell: impl FnOnce(Result<T, HolderError>) + Send + 'static,
    ) {
        let tell = Tell::new(tell);
        let within = self.answer_within;
        let late = tell.clone();
        let expire = move || late.tell(Err(HolderError::Unreachable(format!("no answer within {within:?}"))));
        let done = tell.clone();
        let job = move |seat: &mut Seat<S>| {
            if done.is_awaited() {
                done.tell(seat.serve(work));
            }
        };
        let due = Instant::now().checked_add(within).unwrap_or_else(Instant::now);
        let watched = self.expiries.try_send((due, Box::new(expire))).is_ok();
        if !watched || self.jobs.try_send(Box::new(job)).is_err() {
            tell.tell(Err(HolderError::Unreachable("too many calls wait for it".to_owned())));
        }
    }
}

impl<S> Seat<S> {
    fn serve<T>(&mut self, work: impl FnOnce(&S) -> Result<T, HolderError>) -> Result<T, HolderError> {
        if let Some(text) = &self.refused {
            return Err(HolderError::Refused(text.clone()));
        }
        let session = match self.session.take() {
            Some(session) => session,
            None => (self.open)().inspect_err(|error| {
                if let HolderError::Refused(text) = error {
                    self.refused = Some(text.clone());
                }
            })?,
        };
        let done = work(&session);
        if !matches!(done, Err(HolderError::Unreachable(_))) {
            self.session = Some(session);
        }
        done
    }
}

impl<T> Tell<T> {
    fn new(tell: impl FnOnce(Result<T, HolderError>) + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::new(tell)))))
    }

    fn tell(&self, answer: Result<T, HolderError>) {
        let tell = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(tell) = tell {
            tell(answer);
        }
    }

    fn is_awaited(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl<T> Clone for Tell<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// All calls are granted the same time, so they expire in the order in which they came.
fn watch(watched: &Receiver<Expiry>) {
    for (due, expire) in watched {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        expire();
    }
}

/// Starts a thread that lives as long as its work.
pub(super) fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> Result<(), HolderError> {
    let started = thread::Builder::new().name(name).spawn(work);
    started.map(drop).map_err(|source| HolderError::Io { what: "starting a thread", source })
}

fn gone() -> HolderError {
    HolderError::Unreachable("its thread has ended".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn lost<T>() -> Result<T, HolderError> {
        Err(HolderError::Unreachable("lost".to_owned()))
    }

    #[test]
    fn a_session_is_kept_until_it_is_lost() {
        let mut opened = 0;
        let desk = Desk::start("test", LONG, move || {
            opened += 1;
            Ok(opened)
        })
        .unwrap();
        assert_eq!(desk.call_and_wait(|session| Ok(*session)).unwrap(), 1);
        assert!(desk.call_and_wait(|_| Err::<(), _>(HolderError::Full)).is_err());
        assert_eq!(desk.call_and_wait(|session| Ok(*session)).unwrap(), 1, "full is not lost");
        assert!(desk.call_and_wait(|_| lost::<()>()).is_err());
        assert_eq!(desk.call_and_wait(|session| Ok(*session)).unwrap(), 2);
    }

    #[test]
    fn a_refusal_is_not_tried_again() {
        let (tried, tries) = sync_channel(9);
        let desk = Desk::<()>::start("test", LONG, move || {
            tried.send(()).unwrap();
            Err(HolderError::Refused("wrong PIN".to_owned()))
        })
        .unwrap();
        for _ in 0..3 {
            assert!(matches!(desk.call_and_wait(|()| Ok(())), Err(HolderError::Refused(_))));
        }
        assert_eq!(tries.try_iter().count(), 1);
    }

    #[test]
    fn who_gets_no_answer_in_time_hears_so_and_what_waited_behind_never_begins() {
        let desk = Desk::start("test", Duration::from_millis(100), || Ok(())).unwrap();
        let (release, held) = sync_channel::<()>(1);
        let (began, begun) = sync_channel(1);
        let slow = desk.call_and_wait(move |()| {
            held.recv().unwrap();
            Ok(())
        });
        assert!(matches!(slow, Err(HolderError::Unreachable(_))));
        let behind = desk.call_and_wait(move |()| {
            began.send(()).unwrap();
            Ok(())
        });
        assert!(matches!(behind, Err(HolderError::Unreachable(_))));
        release.send(()).unwrap();
        assert!(begun.recv().is_err(), "dropped without being done");
        let began = Instant::now();
        while desk.call_and_wait(|()| Ok(())).is_err() {
            assert!(began.elapsed() < LONG, "it serves again");
        }
    }
}
