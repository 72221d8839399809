//! What no vault can beat on this machine: its cipher alone, and its disk alone.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cloakroom_crypto::seal::Context;
use cloakroom_crypto::{Key, Plaintext, role};

use crate::error::LoadError;
use crate::people::{ACTIVITY, CONTROLLER, Draw, Place};

/// Values that each core opens in turn.
const POOL: u64 = 4096;
/// Between two looks at the clock.
const RUN: u64 = 64;

fn context(place: Place) -> Context<'static> {
    let bits = Draw(place.0).next();
    Context {
        controller: CONTROLLER,
        subject_bits: bits,
        activity: ACTIVITY,
        field: place.field(),
        bits,
        value_version: 1,
    }
}

fn sealed(place: Place) -> Result<(Key<role::Value>, Bytes), LoadError> {
    let key = Key::random();
    let sealed = key.borrow().seal(&Plaintext::from_slice(place.value().as_bytes()), &context(place));
    Ok((key, sealed.map_err(|error| LoadError::Broken(error.to_string()))?))
}

/// Values opened a second on all cores: HKDF-Expand, key commitment, AES-GCM, as for one read each.
///
/// # Errors
/// [`LoadError::Wrong`] if one does not open to what was sealed.
pub(crate) fn opening(time: Duration) -> Result<f64, LoadError> {
    on_all_cores(time, |core| {
        let places = (0..POOL).map(|at| Place(core.saturating_mul(POOL).saturating_add(at)));
        let pool: Result<Vec<_>, LoadError> =
            places.map(|place| sealed(place).map(|(key, bytes)| (place, key, bytes))).collect();
        let (pool, mut draw) = (pool?, Draw(core));
        Ok(move || {
            let Some((place, key, bytes)) = pool.get(draw.below(pool.len())) else { return Ok(()) };
            match key.borrow().open(bytes, &context(*place)) {
                Ok(text) if text.as_bytes() == place.value().as_bytes() => Ok(()),
                _ => Err(LoadError::Wrong {
                    verb: "open",
                    reference: place.0.to_string(),
                    what: "another value".to_owned(),
                }),
            }
        })
    })
}

/// Values sealed a second on all cores, each under a key of its own, fresh from the kernel.
///
/// # Errors
/// [`LoadError::Broken`] if one cannot be sealed.
pub(crate) fn sealing(time: Duration) -> Result<f64, LoadError> {
    on_all_cores(time, |core| {
        let mut at = core;
        Ok(move || {
            at = at.wrapping_add(1);
            sealed(Place(at)).map(|sealed| drop(std::hint::black_box(sealed)))
        })
    })
}

fn on_all_cores<W>(
    time: Duration,
    prepare: impl Fn(u64) -> Result<W, LoadError> + Sync,
) -> Result<f64, LoadError>
where
    W: FnMut() -> Result<(), LoadError>,
{
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let done = AtomicU64::new(0);
    let ready = std::sync::Barrier::new(usize::try_from(cores).unwrap_or(1));
    let core = |core| -> Result<(), LoadError> {
        let prepared = prepare(core);
        ready.wait();
        let (mut work, begun) = (prepared?, Instant::now());
        while begun.elapsed() < time {
            (0..RUN).try_for_each(|_| work())?;
            done.fetch_add(RUN, Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let core = &core;
        let cores: Vec<_> = (0..cores).map(|number| scope.spawn(move || core(number))).collect();
        cores.into_iter().try_for_each(|core| {
            core.join().map_err(|_| LoadError::Broken("a thread of a ceiling".to_owned()))?
        })
    })?;
    Ok(done.into_inner() as f64 / time.as_secs_f64())
}

/// Syncs a second of a plain file that gets `bytes` bytes before each.
///
/// # Errors
/// [`LoadError::File`].
pub(crate) fn syncing(folder: &Path, bytes: u64, time: Duration) -> Result<f64, LoadError> {
    let path = folder.join("plain");
    let failed = || LoadError::file(&path);
    let mut file = File::create(&path).map_err(failed())?;
    let mut draw = Draw(bytes);
    let block: Vec<u8> = (0..bytes).map(|_| draw.next() as u8).collect();
    let (begun, mut syncs) = (Instant::now(), 0_u64);
    while begun.elapsed() < time {
        file.write_all(&block).and_then(|()| file.sync_data()).map_err(failed())?;
        syncs = syncs.saturating_add(1);
    }
    let rate = syncs as f64 / begun.elapsed().as_secs_f64();
    std::fs::remove_file(&path).map_err(failed())?;
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceilings_are_above_zero() {
        let folder = tempfile::tempdir().unwrap();
        let short = Duration::from_millis(20);
        assert!(opening(short).unwrap() > 0.0);
        assert!(sealing(short).unwrap() > 0.0);
        assert!(syncing(folder.path(), 4096, short).unwrap() > 0.0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file is gone");
    }

    #[test]
    fn one_core_that_fails_fails_all() {
        let failing = on_all_cores(Duration::from_millis(5), |core| {
            Ok(move || if core == 0 { Err(LoadError::Usage("no".to_owned())) } else { Ok(()) })
        });
        assert!(failing.is_err());
    }
}
