//! Editors at the same time: each change is made once, or its editor is told.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::manifest::PoolManifest;
use crate::model::Host;

fn with(version: u64, weight: u32) -> Manifest {
    let host =
        Host { address4: Some([10, 0, 0, 1].into()), address6: None, weight, state: Default::default() };
    let hosts = [("a".to_owned(), host)].into();
    let pool = PoolManifest { size: 65537, generation: 1, hosts, ..PoolManifest::default() };
    Manifest { version, pools: [("web".to_owned(), pool)].into() }
}

#[test]
fn of_concurrent_editors_one_wins_each_round_and_the_others_are_told() {
    const EDITORS: u32 = 4;
    const ROUNDS: u32 = 50;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made/manifest.yaml");
    let (refused, barrier) = (AtomicU64::new(0), Barrier::new(EDITORS as usize));
    let won = std::thread::scope(|scope| {
        let editor = |editor: u32| {
            let (path, barrier, refused) = (&path, &barrier, &refused);
            move || {
                barrier.wait();
                let mut won = Vec::new();
                for round in 0..ROUNDS {
                    let base = read(path).unwrap().map_or(0, |manifest| manifest.version);
                    let next = with(base + 1, 1 + (editor * ROUNDS + round));
                    match replace(path, base, &next) {
                        Ok(()) => won.push((next.version, next)),
                        Err(StoreError::Moved { now, base: told }) => {
                            assert!(told == base && now > base, "told {told}, based on {base}, now {now}");
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        // Whoever waited for the lock in vain may try again.
                        Err(StoreError::Unreachable(why)) if why.contains("is held by another editor") => {
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
                won
            }
        };
        let editors: Vec<_> = (0..EDITORS).map(|number| scope.spawn(editor(number))).collect();
        editors.into_iter().flat_map(|editor| editor.join().unwrap()).collect::<Vec<_>>()
    });
    let refused = refused.into_inner();
    assert_eq!(won.len() as u64 + refused, u64::from(EDITORS * ROUNDS));
    let mut versions: Vec<u64> = won.iter().map(|(version, _)| *version).collect();
    versions.sort_unstable();
    assert!(versions.iter().copied().eq(1..=won.len() as u64), "each version was made once: {versions:?}");
    let (_, last) = won.iter().max_by_key(|(version, _)| *version).unwrap();
    assert_eq!(read(&path).unwrap().as_ref(), Some(last));
    assert!(refused > 0, "nobody was in another one's way");
}

#[test]
fn a_reader_never_sees_half_a_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("manifest.yaml");
    write(&path, &with(1, 1)).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (2..200).for_each(|version| write(&path, &with(version, 1)).unwrap()));
        let mut last = 0;
        while !writer.is_finished() {
            let found = read(&path).unwrap().unwrap().version;
            assert!(found >= last);
            last = found;
        }
    });
}

#[test]
fn a_wrong_file_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("manifest.yaml");
    fs::write(&path, "version: x\n").unwrap();
    assert!(matches!(replace(&path, 0, &with(1, 1)), Err(StoreError::Invalid(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), "version: x\n");
}

#[test]
fn nobody_leaves_anything_beside_the_manifest_but_its_lock() {
    let folder = tempfile::tempdir().unwrap();
    replace(&folder.path().join("manifest.yaml"), 0, &with(1, 1)).unwrap();
    let mut names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["manifest.yaml", "manifest.yaml.lock"]);
}
