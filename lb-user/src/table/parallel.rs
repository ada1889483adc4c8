//! Work on many rows at once.

use std::panic::resume_unwind;
use std::thread;

/// Rows that are worth a thread of their own, which takes some 50 µs to start.
const PART: usize = 32_768;
/// Threads at most.
const PARTS: usize = 4;

/// How many rows a thread gets.
fn part(count: usize) -> usize {
    count.div_ceil((count / PART).clamp(1, PARTS)).max(1)
}

/// The rows, in order, of so many that are such.
pub(super) fn such(count: u32, is: impl Fn(u32) -> bool + Sync) -> Vec<u32> {
    let part = part(count as usize) as u32;
    let is = &is;
    let of = |start: u32| (start..count.min(start + part)).filter(|row| is(*row)).collect::<Vec<_>>();
    thread::scope(|scope| {
        let others = (1..count.div_ceil(part)).map(|number| scope.spawn(move || of(number * part)));
        let others: Vec<_> = others.collect();
        let mut all = of(0);
        for other in others {
            all.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        all
    })
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

#[cfg(test)]
mod tests {
    #[test]
    fn every_row_has_its_value_however_many_there_are() {
        for count in [0, 1, 251, 65_535, 65_537, 655_373] {
            assert_eq!(super::rows(count, |row| row), (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn such_rows_are_found_wherever_they_are() {
        for count in [0, 1, 251, 65_535, 65_537, 655_373] {
            let is = |row: u32| row.is_multiple_of(7) || row + 1 == count;
            assert_eq!(super::such(count, is), (0..count).filter(|row| is(*row)).collect::<Vec<_>>());
        }
    }
}
