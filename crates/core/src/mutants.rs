//! Faults planted on purpose, each of which `make forensic` must catch by name (erasure.md, "Proving it").
//!
//! Without the feature `mutants`, which nothing but that command turns on, [`Mutant::lives`] is `false` when it is
//! compiled, and nothing of a mutant is in the program. A test in `tests/arrows.rs` holds that no manifest turns
//! it on.

macro_rules! mutants {
    ($($(#[$doc:meta])* $mutant:ident = $name:literal),* $(,)?) => {
        /// A fault that the proof must catch.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Mutant {
            $($(#[$doc])* $mutant),*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &'static [Mutant] = &[$(Mutant::$mutant),*];

            /// What it is called in the table.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Mutant::$mutant => $name),*
                }
            }
        }
    };
}

mutants! {
    /// A batch leaves the lowest inner page its key.
    LevelNotRekeyed = "one path level not re-keyed",
    /// A batch wraps the new directory's key by the former root too.
    NewKeyWrappedByOld = "new key wrapped by old",
    /// A batch destroys no root.
    OldRootKept = "old root kept",
    /// A batch destroys the former root before its commit.
    DestroyedBeforeDurable = "root destroyed before the commit is durable",
    /// A batch that failed hands its root to the next.
    FailedRootUsedAgain = "a failed batch's root or page keys used again",
    /// A batch draws no page keys where the one before it drew some.
    PageKeysUsedAgain = "a former batch's page keys used again",
    /// A start runs no batch.
    StartWithoutBatch = "a start without its batch",
    /// A start leaves keys in slots that no frame names.
    SlotsBeyondKept = "a start that keeps the slots beyond the log's end",
    /// A start goes on handing out slots where the log ends.
    SlotsHandedOutAgain = "a start that hands slots out again",
    /// A start gives the paths to the ends no fresh keys.
    PathsNotRekeyed = "a start that re-keys no paths",
    /// A start closes fences whose slots it left alone.
    FencesNotApplied = "a start that applies no fences",
    /// A start compares numbers of commits and not who made them.
    KnownByNumberAlone = "commits known by number alone",
    /// A fence closes although a former root stays.
    ClosedWhileRootLives = "a fence closed because its slots are dead though the old root lives",
    /// A key backup's root goes on as the current one.
    KeyBackupWithoutBatch = "a key backup without its batch",
    /// A rectification dooms no slot.
    RectifiedSlotKept = "a rectified slot never destroyed",
    /// Whoever calls may destroy, whatever its number.
    FormerOwnerDestroys = "a former owner that wakes and destroys",
    /// A start reads what may be in the page cache alone.
    PageCacheBelieved = "a page cache believed at start",
    /// A root holder gives a tree to whoever comes.
    OwnershipNotAsked = "ownership not asked",
    /// The projections get a value key.
    KeyInProjection = "a value key left in a projection",
    /// A fence takes nothing out of what tokens are found by.
    LookupEntryLeft = "a look-up entry left in memory",
    /// A value key follows from another key and what the value is bound to.
    DerivedKeys = "derived instead of random value keys",
    /// A downstream keeps a value that comes after its purge.
    CopyAfterPurge = "a copy stored after its purge",
    /// An idempotency record holds SHA-256 of a value.
    UnkeyedHash = "an unkeyed hash of a value in an idempotency record",
    /// The access log holds a value.
    ValueInAccessLog = "an access-log entry with a value",
}

#[cfg(feature = "mutants")]
static PLANTED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(usize::MAX);

impl Mutant {
    /// Whether this fault is planted in this process.
    #[cfg(feature = "mutants")]
    pub fn lives(self) -> bool {
        PLANTED.load(std::sync::atomic::Ordering::Relaxed) == self as usize
    }

    /// Never: this program has no mutants.
    #[cfg(not(feature = "mutants"))]
    #[inline(always)]
    pub const fn lives(self) -> bool {
        false
    }

    /// Plants this fault, and no other, in this process.
    #[cfg(feature = "mutants")]
    pub fn plant(self) {
        PLANTED.store(self as usize, std::sync::atomic::Ordering::Relaxed);
    }
}
