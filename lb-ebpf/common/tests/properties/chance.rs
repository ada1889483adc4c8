//! The walk of a packet over the owners of its row, where its edges are.

use lb_common::chance::{FINAL, NOBODY, Next, Owner, Turn, next};
use lb_common::maps::OWNERS;
use proptest::prelude::*;

const TURNS: [Turn; 4] = [Turn::InOrder, Turn::Last, Turn::NoWay, Turn::Never];

fn owners(all: &[(u64, Turn)]) -> [Owner; OWNERS] {
    core::array::from_fn(|at| all.get(at).map_or(NOBODY, |&(id, turn)| Owner { id, turn }))
}

/// All that an only other owner may be, for a host that has one before it: the whole table.
#[test]
fn an_only_other_owner_gets_the_packet_as_its_turn_says() {
    let pass_on = |hop| Next::PassOn { place: 0, hop };
    let table = [
        (Turn::InOrder, [pass_on(1), pass_on(1)]),
        (Turn::Last, [pass_on(FINAL), pass_on(FINAL)]),
        (Turn::NoWay, [Next::Keep, Next::Wait]),
        (Turn::Never, [Next::Keep, Next::Keep]),
        (Turn::Nobody, [Next::Keep, Next::Keep]),
    ];
    for (turn, expected) in table {
        let row = owners(&[(3000, turn)]);
        assert_eq!([true, false].map(|home| next(&row, 1000, 0, home)), expected, "{turn:?}");
    }
}

/// Ids that differ in their last four bits only go by their places, and a host gets nothing from itself.
#[test]
fn the_own_id_is_the_farthest_at_both_ends_of_the_circle() {
    for own in [0, 15, 16, 1 << 63, u64::MAX] {
        let row = owners(&[(own, Turn::InOrder)]);
        assert_eq!(next(&row, own, 0, false), Next::Keep, "{own}");
        let row = owners(&[(own, Turn::InOrder), (own ^ 1 << 40, Turn::InOrder)]);
        assert_eq!(next(&row, own, 0, true), Next::PassOn { place: 1, hop: 1 }, "{own}");
    }
}

/// Whichever owners are passed over, and however many: the hop says so once.
#[test]
fn the_hop_says_that_owners_that_may_live_were_passed_over() {
    const PASSED_OVER: u8 = 8;
    let kinds = [Turn::Never, Turn::Last, Turn::NoWay];
    for (a, b) in kinds.into_iter().flat_map(|a| kinds.map(|b| (a, b))) {
        let row = owners(&[(4000, Turn::InOrder), (2000, a), (3000, b), (500, Turn::Last)]);
        let doubt = if (a, b) == (Turn::Never, Turn::Never) { 0 } else { PASSED_OVER };
        assert_eq!(next(&row, 1000, 0, true), Next::PassOn { place: 0, hop: 3 | doubt }, "{a:?} {b:?}");
    }
}

/// The very next id is the nearest, and the one after it comes later.
#[test]
fn the_next_id_is_the_nearest() {
    let row = owners(&[(1017, Turn::InOrder), (1001, Turn::InOrder)]);
    assert_eq!(next(&row, 1000, 0, true), Next::PassOn { place: 1, hop: 1 });
    assert_eq!(next(&row, 1001, 0, true), Next::PassOn { place: 0, hop: 1 });
}

proptest! {
    /// Whoever doubts or not, a packet that has had all its chances is kept, and nobody gets one from himself.
    #[test]
    fn every_walk_ends_and_never_stands_still(
        ids in prop::array::uniform4(0u64..1 << 59), turns in prop::array::uniform4(0usize..4), start in 0usize..4, home: bool,
    ) {
        let all: Vec<_> = (0..OWNERS).map(|at| (ids[at] << 5, TURNS[turns[at]])).collect();
        let row = owners(&all);
        let (mut at, mut hop, mut steps) = (row[start].id, 0, 0);
        while let Next::PassOn { place, hop: after } = next(&row, at, hop, home) {
            prop_assert!(row[place].id != at, "from itself");
            prop_assert!(matches!(row[place].turn, Turn::InOrder | Turn::Last));
            prop_assert!(after == FINAL || after & 7 > hop & 7, "{hop} → {after}");
            (at, hop, steps) = (row[place].id, after, steps + 1);
            prop_assert!(steps <= OWNERS + 2);
        }
    }
}
