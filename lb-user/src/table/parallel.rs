//! Work on many rows at once.

use std::thread;

/// Rows that are worth a thread of their own, which takes some 50 µs to start.
const PART: usize = 32_768;
/// Threads at most.
const PARTS: usize = 4;

/// How many rows a thread gets.
fn part(count: usize) -> usize {
    count.div_ceil((count / PART).clamp(1, PARTS)).max(1)
}

/// What `of` gives for each of so many rows.
pub(super) fn rows<T: Copy + Default + Send>(count: usize, of: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let mut all = vec![T::default(); count];
    let part = part(count);
    let fill = |number: usize, rows: &mut [T]| {
        rows.iter_mut().zip(number * part..).for_each(|(value, row)| *value = of(row));
    };
    thread::scope(|scope| {
        let mut parts = all.chunks_mut(part).enumerate();
        // The first is this thread's.
        let first = parts.next();
        parts.for_each(|(number, rows)| {
            scope.spawn(move || fill(number, rows));
        });
        first.into_iter().for_each(|(number, rows)| fill(number, rows));
    });
    all
}

/// Does `beside` in a thread of its own while this one does `work`, if there are rows enough.
pub(super) fn both<T>(count: usize, beside: impl FnOnce() + Send, work: impl FnOnce() -> T) -> T {
    if count < PART {
        beside();
        return work();
    }
    thread::scope(|scope| {
        scope.spawn(beside);
        work()
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_row_has_its_value_however_many_there_are() {
        for count in [0, 1, 251, 65_535, 65_537, 655_373] {
            assert_eq!(super::rows(count, |row| row), (0..count).collect::<Vec<_>>());
        }
    }
}
