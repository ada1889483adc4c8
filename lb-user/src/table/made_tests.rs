use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

fn recipe<'a>(
    generations: &'a [Generation],
    seed: u64,
    size: u32,
    slots: &'a BTreeMap<String, u16>,
) -> Recipe<'a> {
    Recipe { generations, seed, size, slots }
}

fn generation(number: u16, hosts: &BTreeMap<String, u32>) -> Generation {
    Generation { number, hosts: hosts.clone() }
}

fn slots() -> BTreeMap<String, u16> {
    // Host 7 is gone.
    (0..30).filter(|number| *number != 7).map(|number| (format!("h{number}"), 100 - number)).collect()
}

/// Up to three generations of hosts that come and go, some of another weight.
fn generations() -> impl Strategy<Value = Vec<Generation>> {
    let hosts = btree_map((0..30).prop_map(|number| format!("h{number}")), 1_u32..3, 0..30);
    vec(hosts, 1..4)
        .prop_map(|sets| sets.iter().zip(1..).map(|(hosts, number)| generation(number, hosts)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_made_before_changes_nothing(
        tables in vec((generations(), 0_u64..2, prop::sample::select(vec![31_u32, 251]), any::<bool>()), 1..8),
    ) {
        let mut made = Made::default();
        let slots = slots();
        for (generations, seed, size, prepare) in tables {
            let alone = owners::rows(&generations, seed, size, &slots);
            prop_assert_eq!(made.rows(recipe(&generations, seed, size, &slots)), alone);
            if prepare {
                assert!(made.prepare());
            }
        }
    }
}

#[test]
fn a_set_of_hosts_is_populated_once_and_kept_while_it_is_in_force() {
    let mut made = Made::default();
    let [few, many] = [5, 6].map(|count| (0..count).map(|number| (format!("h{number}"), 1)).collect());
    let (few, many) = (generation(1, &few), generation(2, &many));
    let mut kept = |generations: &[Generation]| {
        made.rows(recipe(generations, 0, 251, &slots())).unwrap();
        let kept = made.populated.iter();
        kept.map(|populated| (populated.hosts.len(), populated.owners.as_ptr())).collect::<Vec<_>>()
    };
    let first = kept(std::slice::from_ref(&few));
    let both = kept(&[few.clone(), many.clone()]);
    assert_eq!((first.len(), both.len(), first[0]), (1, 2, both[0]));
    assert_eq!(kept(&[many.clone(), few.clone()]), both);
    assert_eq!(kept(&[many.clone(), few.clone(), many.clone()]), both);
    assert_eq!(kept(&[many]), both[1..]);
    assert_eq!(kept(&[generation(3, &BTreeMap::new()), few])[0].0, 5);
}

#[test]
fn an_error_leaves_what_can_be_used() {
    let mut made = Made::default();
    let hosts = |count| generation(1, &(0..count).map(|number| (format!("h{number}"), 1)).collect());
    let want = owners::rows(&[hosts(2)], 0, 2, &slots());
    assert_eq!(made.rows(recipe(&[hosts(1)], 0, 2, &slots())).unwrap().rows.len(), 2);
    assert_eq!(
        made.rows(recipe(&[hosts(3)], 0, 2, &slots())),
        Err(TableError::TooManyHosts { hosts: 3, size: 2 })
    );
    assert_eq!(made.rows(recipe(&[], 0, 2, &slots())), Err(TableError::NoHosts));
    assert_eq!(made.rows(recipe(&[hosts(2)], 0, 2, &slots())), want);
}

#[test]
fn one_host_more_grows_and_can_grow_again() {
    let mut made = Made::default();
    let slots: BTreeMap<String, u16> = (0..60).map(|number| (format!("h{number}"), number)).collect();
    for count in 50..60 {
        let hosts = generation(1, &(0..count).map(|number| (format!("h{number}"), 1 + number % 3)).collect());
        let generations = [hosts];
        let alone = owners::rows(&generations, 0, 1009, &slots);
        assert_eq!(made.rows(recipe(&generations, 0, 1009, &slots)), alone);
        let grown = made.populated[0].turns.is_none();
        assert_eq!(grown, count > 50, "{count} hosts");
        assert!(made.prepare());
    }
}

/// Generations and slots.
type State = (Vec<Generation>, BTreeMap<String, u16>);

/// The same hosts for some time, then some more, and the first generation stays or goes.
fn histories() -> impl Strategy<Value = Vec<State>> {
    let step = (0_u16..4, 0_usize..3, any::<prop::sample::Index>(), prop::bool::weighted(0.9));
    (1_u16..12, vec(step, 1..8)).prop_map(|(count, steps)| {
        let hosts = |count| (0..count).map(|number| (format!("h{:02}", number * 37 % 64), 1)).collect();
        let mut count = count;
        let mut generations = vec![generation(1, &hosts(count))];
        let history = steps.into_iter().zip(2..).map(|((more, keep, gone, are_kept), number)| {
            count += more;
            generations.insert(0, generation(number, &hosts(count)));
            generations.truncate(1 + keep);
            let mut slots: BTreeMap<String, u16> =
                (0..64).map(|number| (format!("h{number:02}"), number)).collect();
            if !are_kept {
                slots.remove(&format!("h{:02}", gone.index(64)));
            }
            (generations.clone(), slots)
        });
        history.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn rows_that_do_not_change_are_those_that_were(history in histories(), size in prop::sample::select(vec![67_u32, 251, 4099])) {
        let mut made = Made::default();
        let mut last: Option<(State, Vec<Row>)> = None;
        for (generations, slots) in history {
            let want = owners::rows(&generations, 7, size, &slots).unwrap().rows;
            if let Some(((before, had), mut rows)) = last.take()
                && let Some(changes) =
                    made.changes(recipe(&before, 7, size, &had), recipe(&generations, 7, size, &slots)).unwrap()
            {
                changes.into_iter().for_each(|(row, value)| rows[row as usize] = value);
                prop_assert_eq!(&rows, &want);
            }
            prop_assert_eq!(&made.rows(recipe(&generations, 7, size, &slots)).unwrap().rows, &want);
            assert!(made.prepare());
            last = Some(((generations, slots), want));
        }
    }
}

#[test]
fn one_host_more_of_many_changes_few_rows() {
    let slots: BTreeMap<String, u16> = (0..1001).map(|number| (format!("h{number}"), number)).collect();
    let hosts = |count| generation(1, &(0..count).map(|number| (format!("h{number}"), 1)).collect());
    let (few, many) = ([hosts(1000)], [generation(2, &hosts(1001).hosts), hosts(1000)]);
    let mut made = Made::default();
    made.rows(recipe(&few, 0, 65_537, &slots)).unwrap();
    assert!(
        made.changes(recipe(&few, 0, 65_537, &slots), recipe(&many, 0, 65_537, &slots)).unwrap().is_none()
    );
    made.rows(recipe(&few, 0, 65_537, &slots)).unwrap();
    assert!(made.prepare());
    let mut changes = |to: &[Generation], slots_after: &BTreeMap<String, u16>| {
        made.changes(recipe(&few, 0, 65_537, &slots), recipe(to, 0, 65_537, slots_after))
            .unwrap()
            .map(|rows| rows.len())
    };
    let mut others = slots.clone();
    others.insert("h7".into(), 2000);
    assert_eq!(changes(&many, &others), None, "a host has another slot");
    others.remove("h7");
    assert_eq!(changes(&many, &others), None, "a host has none");
    let count = changes(&many, &slots).unwrap();
    assert!((65..1000).contains(&count), "{count} rows");
}
