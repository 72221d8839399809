//! Locked memory for keys: never swapped, never dumped, zeroed in a forked child, wiped on drop.
//!
//! Many small locks would not nest (a page unlocked once is unlocked for all), so memory is mapped and locked
//! in large chunks and handed out in places of two sizes: one key, and one opened page of the key tree. A
//! place that comes back is wiped and used again. Free places lie in several lists, and a thread keeps to its
//! own. Where that is empty it takes from one that has plenty before it cuts new places: keys made on one
//! thread and dropped on another would else use up the chunks. When the chunks are used up it takes from any;
//! then too a free place for a page is cut into keys, and neighbouring free keys are put together to a page:
//! a rush of one kind leaves room for both.
//!
//! A daemon calls [`reserve`] at start; from then on nothing is handed out beyond what was reserved. Without
//! it (a test, a command line tool) memory grows as needed and is locked as far as the limit goes;
//! [`status`] says how it is.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::mm::{self, Advice, MapFlags, ProtFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use zeroize::Zeroize;

/// One key: 256 bits.
pub const KEY_BYTES: usize = 32;

/// One opened page: 64 keys, and before them as much as one key for the page's bitmap.
pub const PAGE_BYTES: usize = 65 * KEY_BYTES;

/// How much is mapped and locked at once.
const CHUNK_BYTES: usize = 1024 * 1024;

/// Lists of free places. More than the cores of the machines this runs on use at the same moment for keys.
const SHARDS: usize = 16;

/// How many places a thread takes from a chunk at once: 8 KiB of keys, about 8 KiB of pages.
const RUN_KEYS: usize = 256;
const RUN_PAGES: usize = 4;

/// How many pages are put together out of free keys at once: they serve a while, and most keys stay keys.
const PAGES_AT_ONCE: usize = 64;

/// Why memory could not be reserved.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ArenaError {
    /// RLIMIT_MEMLOCK is too low and unlocked memory was not allowed.
    #[error(
        "cannot lock {wanted_bytes} bytes for keys: RLIMIT_MEMLOCK is {limit_bytes} bytes \
         (raise it: `ulimit -l`, LimitMEMLOCK= in systemd, --ulimit memlock in containers)"
    )]
    Limit {
        /// What was to be locked in all.
        wanted_bytes: usize,
        /// The hard limit.
        limit_bytes: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// Keys were already handed out from memory that could not be locked, before [`reserve`] was called.
    #[error("{bytes} bytes of unlocked memory are in use for keys already")]
    AlreadyUnlocked {
        /// How much.
        bytes: usize,
    },
    /// The kernel gives no memory of this kind.
    #[error("cannot map memory for keys")]
    Map(#[source] io::Error),
}

/// What [`reserve`] got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Locked {
    /// Bytes reserved in all.
    pub bytes: usize,
    /// How many of them are locked; the rest could be swapped (only where that was allowed).
    pub locked_bytes: usize,
}

/// How the arena stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// Bytes mapped.
    pub bytes: usize,
    /// Bytes of them that are locked.
    pub locked_bytes: usize,
    /// Bytes handed out.
    pub used_bytes: usize,
    /// Whether everything is locked.
    pub locked: bool,
    /// Whether [`reserve`] was called, so that `bytes` is the bound.
    pub reserved: bool,
}

/// Maps and locks `bytes` (rounded up to whole mebibytes) for keys, raising the soft RLIMIT_MEMLOCK to the
/// hard one. From then on this is the bound, and a key beyond it panics; so a cache of opened pages keeps
/// some room ([`status`]) for keys on their way. With `allow_unlocked` (development), what cannot be locked
/// is taken unlocked, though still outside core dumps, and the bound may be passed the same way.
///
/// # Errors
/// [`ArenaError`]; nothing is reserved then.
pub fn reserve(bytes: usize, allow_unlocked: bool) -> Result<Locked, ArenaError> {
    ARENA.reserve(bytes, allow_unlocked)
}

/// How the process's arena stands.
pub fn status() -> Status {
    ARENA.status()
}

static ARENA: Arena = Arena::new(lock_in_memory);

/// The two sizes of places.
#[derive(Clone, Copy)]
enum Size {
    Key,
    Page,
}

impl Size {
    const fn of(bytes: usize) -> Self {
        assert!(bytes == KEY_BYTES || bytes == PAGE_BYTES, "two sizes of places");
        if bytes == KEY_BYTES { Size::Key } else { Size::Page }
    }

    const fn bytes(self) -> usize {
        match self {
            Size::Key => KEY_BYTES,
            Size::Page => PAGE_BYTES,
        }
    }

    const fn run(self) -> usize {
        match self {
            Size::Key => RUN_KEYS,
            Size::Page => RUN_PAGES,
        }
    }
}

/// The start of a place or chunk: memory that nothing else refers to.
#[derive(Clone, Copy)]
struct Place(NonNull<u8>);

impl Place {
    fn address(&self) -> usize {
        self.0.addr().get()
    }
}

// SAFETY: a place is an address within a private mapping that is never unmapped once places are cut from it;
// whoever holds the `Place` is the only one to use the memory, on whatever thread.
unsafe impl Send for Place {}

/// Free places of both sizes, all zeros.
struct Free {
    keys: Vec<Place>,
    pages: Vec<Place>,
    /// Bytes taken from this shard less bytes that came back to it; only the sum over all shards means
    /// something, as a place may be taken by one thread and come back by another.
    used_bytes: isize,
}

impl Free {
    fn list(&mut self, size: Size) -> &mut Vec<Place> {
        match size {
            Size::Key => &mut self.keys,
            Size::Page => &mut self.pages,
        }
    }
}

/// A mapping from whose start places have been cut.
struct Chunk {
    rest: Place,
    rest_bytes: usize,
}

/// Held through whatever goes beyond a thread's own list, so that nobody misses what is being moved; locked
/// before any list.
struct Ground {
    chunks: Vec<Chunk>,
    /// The addresses at which mappings start, in order.
    starts: Vec<usize>,
    bytes: usize,
    locked_bytes: usize,
    reserved: bool,
    may_grow: bool,
}

pub(crate) struct Arena {
    shards: [Mutex<Free>; SHARDS],
    ground: Mutex<Ground>,
    /// [`lock_in_memory`], but in tests of a kernel that refuses.
    lock_in_memory: fn(Place, usize) -> io::Result<()>,
}

impl Arena {
    const fn new(lock_in_memory: fn(Place, usize) -> io::Result<()>) -> Self {
        Self {
            lock_in_memory,
            shards: [const { Mutex::new(Free { keys: Vec::new(), pages: Vec::new(), used_bytes: 0 }) };
                SHARDS],
            ground: Mutex::new(Ground {
                chunks: Vec::new(),
                starts: Vec::new(),
                bytes: 0,
                locked_bytes: 0,
                reserved: false,
                may_grow: true,
            }),
        }
    }

    fn reserve(&self, bytes: usize, allow_unlocked: bool) -> Result<Locked, ArenaError> {
        let mut ground = lock(&self.ground);
        let unlocked = ground.bytes - ground.locked_bytes;
        if unlocked > 0 && !allow_unlocked {
            return Err(ArenaError::AlreadyUnlocked { bytes: unlocked });
        }
        let wanted_bytes = bytes.div_ceil(CHUNK_BYTES).saturating_mul(CHUNK_BYTES);
        let limit = raise_lock_limit();
        let mut new = Mappings(Vec::new());
        let (mut total, mut locked_bytes) = (ground.bytes, ground.locked_bytes);
        while total < wanted_bytes {
            let place = map(CHUNK_BYTES).map_err(ArenaError::Map)?;
            new.0.push(place);
            total += CHUNK_BYTES;
            match (self.lock_in_memory)(place, CHUNK_BYTES) {
                Ok(()) => locked_bytes += CHUNK_BYTES,
                Err(_) if allow_unlocked => {}
                Err(source) => {
                    let limit_bytes = limit.maximum.unwrap_or(u64::MAX);
                    return Err(ArenaError::Limit { wanted_bytes, limit_bytes, source });
                }
            }
        }
        std::mem::take(&mut new.0).into_iter().for_each(|start| ground.add(start));
        (ground.bytes, ground.locked_bytes) = (total, locked_bytes);
        ground.reserved = true;
        ground.may_grow = allow_unlocked;
        Ok(Locked { bytes: total, locked_bytes })
    }

    fn status(&self) -> Status {
        let used: isize = self.shards.iter().map(|shard| lock(shard).used_bytes).sum();
        let ground = lock(&self.ground);
        Status {
            bytes: ground.bytes,
            locked_bytes: ground.locked_bytes,
            used_bytes: usize::try_from(used).unwrap_or(0),
            locked: ground.bytes == ground.locked_bytes,
            reserved: ground.reserved,
        }
    }

    /// A place of zeros: from the thread's own list, lists with plenty, the chunks, any list, places of the
    /// other size, new memory; in this order. `None` if there is none and none may be mapped.
    fn take(&self, size: Size) -> Option<Place> {
        {
            let mut home = lock(self.home());
            if let Some(place) = home.list(size).pop() {
                home.used_bytes += size.bytes() as isize;
                return Some(place);
            }
        }
        self.take_from_afar(size)
    }

    /// Takes several at once; what is over goes to the thread's own list before anybody else may look.
    fn take_from_afar(&self, size: Size) -> Option<Place> {
        let mut ground = lock(&self.ground);
        let mut found = self.take_from_others(size, 2 * size.run());
        if found.is_empty() {
            found = ground.cut(size);
        }
        if found.is_empty() {
            found = self.take_from_others(size, 1);
        }
        if found.is_empty() {
            found = match size {
                Size::Key => self.take_from_others(Size::Page, 1).into_iter().flat_map(into_keys).collect(),
                Size::Page => self.put_together(&ground.starts),
            };
        }
        if found.is_empty() {
            ground.grow(self.lock_in_memory);
            found = ground.cut(size);
        }
        let place = found.pop()?;
        let mut home = lock(self.home());
        home.list(size).append(&mut found);
        home.used_bytes += size.bytes() as isize;
        Some(place)
    }

    /// Pages out of keys that are free and lie side by side, some at once: it takes milliseconds.
    fn put_together(&self, starts: &[usize]) -> Vec<Place> {
        const KEYS: usize = PAGE_BYTES / KEY_BYTES;
        let mut keys: Vec<Place> =
            self.shards.iter().flat_map(|shard| std::mem::take(&mut lock(shard).keys)).collect();
        keys.sort_unstable_by_key(Place::address);
        let mapping = |place: &Place| starts.partition_point(|start| *start <= place.address());
        let (mut pages, mut apart) = (Vec::new(), Vec::new());
        let mut rest = keys.as_slice();
        while pages.len() < PAGES_AT_ONCE
            && let Some((first, others)) = rest.split_first()
        {
            // Every place begins at a multiple of a key's size: so many different ones within a page's are it.
            let last = rest.get(KEYS - 1).filter(|last| {
                last.address() - first.address() == PAGE_BYTES - KEY_BYTES && mapping(last) == mapping(first)
            });
            rest = if last.is_some() {
                pages.push(*first);
                rest.get(KEYS..).unwrap_or_default()
            } else {
                apart.push(*first);
                others
            };
        }
        apart.extend_from_slice(rest);
        lock(self.home()).keys.append(&mut apart);
        pages
    }

    /// Half of the first list that has at least so many.
    fn take_from_others(&self, size: Size, at_least: usize) -> Vec<Place> {
        for shard in &self.shards {
            let mut shard = lock(shard);
            let list = shard.list(size);
            if list.len() >= at_least {
                return list.split_off(list.len() / 2);
            }
        }
        Vec::new()
    }

    /// Takes back a place that its holder has wiped.
    fn put_back(&self, place: Place, size: Size) {
        let mut home = lock(self.home());
        home.list(size).push(place);
        home.used_bytes -= size.bytes() as isize;
    }

    #[allow(clippy::indexing_slicing)] // below SHARDS by the remainder
    fn home(&self) -> &Mutex<Free> {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local!(static HOME: Cell<usize> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed)));
        // A key dropped while its thread's locals are gone goes home to the first list.
        &self.shards[HOME.try_with(Cell::get).unwrap_or(0) % SHARDS]
    }
}

impl Ground {
    /// Takes a new mapping in.
    fn add(&mut self, start: Place) {
        let at = self.starts.partition_point(|known| *known < start.address());
        self.starts.insert(at, start.address());
        self.chunks.push(Chunk { rest: start, rest_bytes: CHUNK_BYTES });
    }

    /// Cuts a run of places, fewer where a chunk ends.
    fn cut(&mut self, size: Size) -> Vec<Place> {
        let Some(chunk) = self.chunks.iter_mut().find(|chunk| chunk.rest_bytes >= size.bytes()) else {
            return Vec::new();
        };
        let run = (chunk.rest_bytes / size.bytes()).min(size.run());
        let places = split(chunk.rest, size.bytes(), run + 1);
        chunk.rest_bytes -= run * size.bytes();
        let (last, places) = places.split_last().map_or((chunk.rest, &[][..]), |(last, cut)| (*last, cut));
        chunk.rest = last;
        let places = places.to_vec();
        self.chunks.retain(|chunk| chunk.rest_bytes >= KEY_BYTES);
        places
    }

    /// Maps another chunk, locked if it can be, where growing is allowed.
    fn grow(&mut self, lock_in_memory: fn(Place, usize) -> io::Result<()>) {
        if !self.may_grow {
            return;
        }
        raise_lock_limit();
        if let Ok(place) = map(CHUNK_BYTES) {
            self.bytes += CHUNK_BYTES;
            if lock_in_memory(place, CHUNK_BYTES).is_ok() {
                self.locked_bytes += CHUNK_BYTES;
            }
            self.add(place);
        }
    }
}

/// Memory of one size in the arena: exclusively its holder's, wiped and given back on drop.
pub(crate) struct Slot<const N: usize> {
    place: Place,
    arena: &'static Arena,
}

// SAFETY: the memory is reached only through `&self` to read and `&mut self` to write, as with a `Box`.
unsafe impl<const N: usize> Sync for Slot<N> {}

impl<const N: usize> Slot<N> {
    const SIZE: Size = Size::of(N);

    /// Zeros.
    ///
    /// # Panics
    /// If the arena is full: a key in memory that can be swapped would be a broken promise, and whoever
    /// bounds what is cached and in flight never comes here.
    pub(crate) fn zeroed() -> Self {
        Self::zeroed_in(&ARENA)
    }

    fn zeroed_in(arena: &'static Arena) -> Self {
        match arena.take(Self::SIZE) {
            Some(place) => Self { place, arena },
            None => panic!("no locked memory left for keys: raise keys.locked_bytes and RLIMIT_MEMLOCK"),
        }
    }
}

impl<const N: usize> Deref for Slot<N> {
    type Target = [u8; N];

    fn deref(&self) -> &[u8; N] {
        // SAFETY: `place` points to N mapped, initialised bytes (zeros from the kernel, then whatever was
        // written), byte-aligned as an array of bytes asks, and this slot alone holds them until drop.
        unsafe { self.place.0.cast::<[u8; N]>().as_ref() }
    }
}

impl<const N: usize> DerefMut for Slot<N> {
    fn deref_mut(&mut self) -> &mut [u8; N] {
        // SAFETY: as in `deref`; `&mut self` makes this the only reference.
        unsafe { self.place.0.cast::<[u8; N]>().as_mut() }
    }
}

impl<const N: usize> Drop for Slot<N> {
    fn drop(&mut self) {
        self.as_mut_slice().zeroize();
        self.arena.put_back(self.place, Self::SIZE);
    }
}

/// The starts of `count` places of `bytes` each from `start` on; the last may be the end of the mapping.
fn split(start: Place, bytes: usize, count: usize) -> Vec<Place> {
    // SAFETY: callers give counts whose places lie within one mapping, or one past its end.
    (0..count).map(|number| Place(unsafe { start.0.add(number * bytes) })).collect()
}

fn into_keys(page: Place) -> Vec<Place> {
    split(page, KEY_BYTES, PAGE_BYTES / KEY_BYTES)
}

/// Chunks that are unmapped again unless they are taken out.
struct Mappings(Vec<Place>);

impl Drop for Mappings {
    fn drop(&mut self) {
        for place in &self.0 {
            // SAFETY: mapped by `map` with this length, and no place was cut from it yet.
            let _gone = unsafe { mm::munmap(place.0.as_ptr().cast(), CHUNK_BYTES) };
        }
    }
}

/// Maps zeros that no core dump and no forked child shows.
fn map(bytes: usize) -> io::Result<Place> {
    // SAFETY: a new private mapping at an address of the kernel's choice touches nothing that exists.
    let start = unsafe {
        mm::mmap_anonymous(ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    }?;
    let hidden = advise(start, bytes, Advice::LinuxDontDump).and_then(|()| {
        advise(start, bytes, Advice::LinuxWipeOnFork).or_else(|_| advise(start, bytes, Advice::LinuxDontFork)) // before Linux 4.14
    });
    match (hidden, NonNull::new(start.cast())) {
        (Ok(()), Some(start)) => Ok(Place(start)),
        (hidden, _) => {
            // SAFETY: mapped above with this length, and nothing refers to it.
            unsafe { mm::munmap(start, bytes) }?;
            Err(hidden.err().unwrap_or_else(|| io::ErrorKind::OutOfMemory.into()))
        }
    }
}

fn advise(start: *mut std::ffi::c_void, bytes: usize, advice: Advice) -> io::Result<()> {
    // SAFETY: `start..start + bytes` was just mapped by `map`; none of the advice it gives changes the
    // contents in this process.
    Ok(unsafe { mm::madvise(start, bytes, advice) }?)
}

/// Keeps the mapping out of swap. All of it is resident from here on: what a vault takes does not grow while its
/// keys come in, and no first touch meets a machine that has no page left.
fn lock_in_memory(place: Place, bytes: usize) -> io::Result<()> {
    // SAFETY: the whole mapping of `map`; locking changes no contents.
    Ok(unsafe { mm::mlock(place.0.as_ptr().cast(), bytes) }?)
}

/// Raises the soft limit to the hard one, which needs no privilege, and gives what is in force.
fn raise_lock_limit() -> Rlimit {
    let limit = getrlimit(Resource::Memlock);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit != raised && setrlimit(Resource::Memlock, raised).is_ok() { raised } else { limit }
}

/// A panic elsewhere leaves these lists whole: each change of them is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
