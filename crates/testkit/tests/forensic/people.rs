//! People whose names stand in a dictionary of a million, so that a hash of one gives it away.

/// How many names there are.
pub(crate) const NAMES: u64 = 1_000_000;

/// The dictionary's name number `number`.
pub(crate) fn name(number: u64) -> String {
    let syllables = ["ka", "lo", "mi", "ne", "ru", "sa", "te", "vi", "zo", "du"];
    let word = |number: u64, ending: &str| {
        let mut word: String =
            [100, 10, 1].iter().map(|place| syllables[(number / place % 10) as usize]).collect();
        word[..1].make_ascii_uppercase();
        word + ending
    };
    format!("{} {}", word(number / 1_000, "n"), word(number % 1_000, "sen"))
}

/// A person's name: no two people share one.
pub(crate) fn full_name(person: u64) -> String {
    name(person * 7_919 % NAMES)
}

/// The name that a person takes later.
pub(crate) fn new_name(person: u64) -> String {
    name((person + NAMES / 2) * 7_919 % NAMES)
}

/// A person's address.
pub(crate) fn email(person: u64) -> String {
    format!("{}.{person}@example.com", full_name(person).replace(' ', ".").to_lowercase())
}
