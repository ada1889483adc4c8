//! What is kept and what is told when the place holds something strange.

use super::*;

fn version(version: u64) -> Manifest {
    Manifest { version, ..Manifest::default() }
}

fn other(number: u64) -> Manifest {
    Manifest { pools: [("x".to_owned(), Default::default())].into(), ..version(number) }
}

fn after(found: Result<Option<Manifest>, StoreError>) -> (u64, Option<String>) {
    let last = Reading { manifest: Some(Arc::new(version(5))), cached: true, problem: None };
    let next = judge(&last, found);
    (next.manifest.unwrap().version, next.problem)
}

#[test]
fn the_last_good_one_stays_whatever_is_found() {
    assert_eq!(after(Ok(Some(version(6)))), (6, None));
    assert_eq!(after(Ok(Some(version(5)))), (5, None));
    assert_eq!(
        after(Ok(Some(version(4)))),
        (5, Some("version 4 is older than 5, which is in force, and is ignored; write it with a version above 5".into()))
    );
    assert_eq!(
        after(Ok(Some(other(5)))),
        (5, Some("version 5 is in force with other content; write the new one with version 6".into()))
    );
    assert_eq!(after(Ok(None)), (5, Some("it is gone; the last one stays in force".into())));
    assert_eq!(after(Err(StoreError::Unreachable("no route".into()))), (5, Some("no route".into())));
}

#[test]
fn none_is_no_problem_before_there_was_one() {
    assert_eq!(judge(&Reading::default(), Ok(None)), Reading::default());
}
