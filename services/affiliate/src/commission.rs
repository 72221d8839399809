//! What a sale earns, in whole minor units: what is left over by rounding down stays with the controller.

/// The commission on `amount_minor` (not negative) at `per_mille` (at most 1000) thousandths.
pub(crate) fn of(amount_minor: i64, per_mille: u32) -> i64 {
    let earned = i128::from(amount_minor) * i128::from(per_mille) / 1000;
    i64::try_from(earned).unwrap_or(i64::MAX) // at most the amount itself
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_rounded_down_and_never_overflows() {
        for (amount, per_mille, expected) in [
            (7400, 50, 370),
            (7419, 50, 370),
            (7420, 50, 371),
            (19, 50, 0),
            (0, 50, 0),
            (100, 0, 0),
            (100, 1000, 100),
        ] {
            assert_eq!(super::of(amount, per_mille), expected, "{amount} at {per_mille}");
        }
        assert_eq!(super::of(i64::MAX, 1000), i64::MAX);
    }
}
