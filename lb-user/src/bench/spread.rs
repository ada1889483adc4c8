//! Medians and quartiles.

use serde::Serialize;

/// Values of several rounds: the median and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Half of the rounds are not above it.
    pub median: f64,
    /// First quartile: a quarter of the rounds lie below it.
    pub q1: f64,
    /// Third quartile: a quarter of the rounds lie above it.
    pub q3: f64,
    /// The least.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of values in any order; not a number if there are none. Each is one of the values, none lies between two of them.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let last = count.saturating_sub(1);
        Spread {
            median: at(count / 2),
            q1: at(count / 4),
            q3: at(last.saturating_sub(count / 4)),
            min: at(0),
            max: at(last),
        }
    }
}

/// The least of the sorted values that so many percent of them do not exceed.
pub fn percentile(sorted: &[u32], percent: usize) -> Option<u32> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_lies_beyond_each_quartile_and_half_beyond_the_median() {
        // 0 to 20 in another order: five below the first quartile, five above the third.
        let spread = Spread::of((0..21).map(|n| f64::from(n * 8 % 21)));
        assert_eq!(spread, Spread { median: 10.0, q1: 5.0, q3: 15.0, min: 0.0, max: 20.0 });
        let spread = Spread::of([3.0, 1.0, 2.0]);
        assert_eq!(spread, Spread { median: 2.0, q1: 1.0, q3: 3.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of([7.0]), Spread { median: 7.0, q1: 7.0, q3: 7.0, min: 7.0, max: 7.0 });
        assert!(Spread::of([]).median.is_nan());
    }

    #[test]
    fn a_percentile_is_the_least_value_that_so_many_percent_do_not_exceed() {
        let hundred: Vec<u32> = (1..=100).collect();
        assert_eq!((percentile(&hundred, 50), percentile(&hundred, 99)), (Some(50), Some(99)));
        let more: Vec<u32> = (1..=101).collect();
        assert_eq!((percentile(&more, 50), percentile(&more, 99)), (Some(51), Some(100)));
        assert_eq!((percentile(&[7], 50), percentile(&[7], 99)), (Some(7), Some(7)));
        assert_eq!(percentile(&[], 99), None);
    }
}
