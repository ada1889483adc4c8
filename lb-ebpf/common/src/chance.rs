//! The second chance: which host gets a packet next that this one knows nothing of.
//!
//! A packet walks the owners of its row in the circular order of their ids, from wherever it began. The order does not
//! depend on generations, so hosts whose manifests are a version apart still walk the same way round, and every owner that
//! both know gets its turn. The hop field of the outer header counts places in its low three bits, and ends the walk; its
//! fourth bit says that an owner that may live was left out on the way.

use crate::maps::OWNERS;

/// Hop of a packet that has had all its chances: whoever gets it keeps it.
pub const FINAL: u8 = 15;

/// Bit of the hop: an owner that may hold the connection was passed over.
const PASSED_OVER: u8 = 8;

/// When an owner's turn comes: a bit for each kind of turn, and one for an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Turn {
    /// In its order.
    InOrder = 0b1001,
    /// After all others: some director doubts that it lives.
    Last = 0b1010,
    /// Not now: it lives, but there is no way to it for the moment.
    NoWay = 0b1100,
    /// Never: it is dead.
    Never = 0b1000,
    /// Never: the place is unused.
    Nobody = 0,
}

/// An owner of the row, as this host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its stable id.
    pub id: u64,
    /// When its turn comes.
    pub turn: Turn,
}

/// An unused place.
pub const NOBODY: Owner = Owner { id: 0, turn: Turn::Nobody };

/// What becomes of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is passed on to the owner at this place of the row, with this hop.
    PassOn {
        /// Index into the row.
        place: usize,
        /// For the outer header.
        hop: u8,
    },
    /// Nobody is left: it is kept.
    Keep,
    /// Nobody is left, but an owner that may live was passed over, by this host for want of a way, or by another one that
    /// doubts what this one does not: it is dropped, to be sent again when that has changed. An answer from here could break
    /// a connection that the owner holds.
    Wait,
}

/// Decides for the host `own`, which need not be an owner.
///
/// With `home`, the walk ends where it began (for protocols whose first packet no socket knows); without, it goes one
/// place further, for the sake of owners that only some hosts know yet.
///
/// Without branches where it can be, as the verifier follows every path through four owners with their turns. What decides is
/// in numbers that compare as their owners do: how far its id is, then its place; those whose turn it is not are [`FAR`].
#[inline(always)]
pub fn next(owners: &[Owner; OWNERS], own: u64, hop: u8, home: bool) -> Next {
    if hop >= FINAL {
        return Next::Keep;
    }
    let (passed_over, hop) = (hop & PASSED_OVER, hop & (PASSED_OVER - 1));
    let (mut count, mut steps) = (0, u64::from(hop));
    let (mut first, mut last, mut lost) = (ITSELF, ITSELF, ITSELF);
    let mut place = 0;
    while place < OWNERS {
        let far = far(&owners[place], place, own);
        let turn = owners[place].turn as u64;
        count += turn >> 3;
        first = least(first, far + (!turn & 1) * FAR);
        last = least(last, far + (!turn >> 1 & 1) * FAR);
        lost = least(lost, far + (!turn >> 2 & 1) * FAR);
        place += 1;
    }
    // Places on the way count, whether or not their owners get a turn.
    let mut place = 0;
    while place < OWNERS {
        let is_beyond = less(first, far(&owners[place], place, own));
        steps += owners[place].turn as u64 >> 3 & !is_beyond;
        place += 1;
    }
    if first < ITSELF && steps <= count + u64::from(!home) {
        let doubt = (less(last, first) | less(lost, first)) as u8 * PASSED_OVER;
        return Next::PassOn { place: first as usize % OWNERS, hop: steps as u8 | passed_over | doubt };
    }
    if last < ITSELF {
        return Next::PassOn { place: last as usize % OWNERS, hop: FINAL };
    }
    let may_live = passed_over != 0 || lost < ITSELF;
    if may_live && !home { Next::Wait } else { Next::Keep }
}

/// Beyond all that [`far`] says.
const FAR: u64 = 1 << 62;

/// The host itself, which gets nothing from itself.
const ITSELF: u64 = FAR - OWNERS as u64;

/// How far it is to an owner. Zero for the next id, the largest for the own one; ids that differ in their last four bits
/// only (one in 2^60 does) go by their places.
#[inline(always)]
fn far(owner: &Owner, place: usize, own: u64) -> u64 {
    (owner.id.wrapping_sub(own).wrapping_sub(1) >> 4) * OWNERS as u64 + place as u64
}

/// The smaller of two, both below 2^63.
#[inline(always)]
fn least(a: u64, b: u64) -> u64 {
    b.wrapping_add(a.wrapping_sub(b) & less(a, b).wrapping_neg())
}

/// Whether `a` is less than `b`, as 1 or 0; both are below 2^63.
#[cfg(not(target_arch = "bpf"))]
fn less(a: u64, b: u64) -> u64 {
    u64::from(a < b)
}

/// The same. The compiler knows this for a comparison, and would make a branch of it.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn less(mut a: u64, b: u64) -> u64 {
    // SAFETY: arithmetic on two registers.
    unsafe {
        core::arch::asm!("{0} -= {1}", "{0} >>= 63", inout(reg) a, in(reg) b, options(pure, nomem, nostack));
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn in_order(ids: [u64; OWNERS]) -> [Owner; OWNERS] {
        ids.map(|id| if id == 0 { NOBODY } else { Owner { id, turn: Turn::InOrder } })
    }

    /// The ids that a packet visits, from `start`.
    fn walk(owners: &[Owner; OWNERS], start: u64, home: bool) -> Vec<u64> {
        let (mut at, mut hop, mut visited) = (start, 0, vec![start]);
        while let Next::PassOn { place, hop: next } = next(owners, at, hop, home) {
            assert!(next > hop, "the hop rises");
            (at, hop) = (owners[place].id, next);
            visited.push(at);
        }
        visited
    }

    #[test]
    fn a_packet_goes_round_by_id() {
        let owners = in_order([3000, 1000, 2000, 0]);
        assert_eq!(walk(&owners, 2000, true), [2000, 3000, 1000, 2000]);
        assert_eq!(walk(&owners, 2000, false), [2000, 3000, 1000, 2000, 3000]);
        // A host that is no owner begins at the next id.
        assert_eq!(walk(&owners, 2500, true), [2500, 3000, 1000, 2000]);
    }

    #[test]
    fn the_only_owner_keeps_its_packets() {
        assert_eq!(walk(&in_order([700, 0, 0, 0]), 700, true), [700]);
        assert_eq!(walk(&in_order([700, 0, 0, 0]), 900, true), [900, 700]);
        assert_eq!(walk(&in_order([0; OWNERS]), 900, false), [900]);
    }

    #[test]
    fn doubtful_owners_come_last_and_dead_ones_never() {
        let mut owners = in_order([1000, 2000, 3000, 4000]);
        owners[1].turn = Turn::Last;
        owners[2].turn = Turn::Never;
        assert_eq!(walk(&owners, 1000, true), [1000, 4000, 1000, 2000]);
        owners[1].turn = Turn::Never;
        assert_eq!(walk(&owners, 1000, true), [1000, 4000, 1000]);
    }

    #[test]
    fn hosts_that_disagree_on_doubts_answer_nothing() {
        let owners = in_order([1000, 2000, 3000, 0]);
        let mut doubting = owners;
        doubting[2].turn = Turn::Last;
        let Next::PassOn { place: 0, hop } = next(&doubting, 2000, 0, false) else { panic!("not to 1000") };
        assert_eq!(hop, 2 | PASSED_OVER);
        // The next one has no doubt, and goes on until the round is over.
        let Next::PassOn { place: 1, hop } = next(&owners, 1000, hop, false) else { panic!("not to 2000") };
        let Next::PassOn { place: 0, hop: late } = next(&doubting, 2000, 0, false) else { panic!() };
        assert_eq!(next(&owners, 1000, late + 2, false), Next::Wait);
        assert_eq!(next(&doubting, 1000, late + 2, false), Next::PassOn { place: 2, hop: FINAL });
        assert_eq!(hop, 3 | PASSED_OVER);
    }

    #[test]
    fn while_there_is_no_way_to_an_owner_nobody_answers_for_it() {
        let mut owners = in_order([1000, 2000, 3000, 0]);
        owners[1].turn = Turn::NoWay;
        let Next::PassOn { place: 2, hop } = next(&owners, 1000, 0, false) else { panic!("not to 3000") };
        assert_eq!(hop, 2 | PASSED_OVER);
        assert_eq!(
            next(&owners, 3000, 3 | PASSED_OVER, false),
            Next::PassOn { place: 0, hop: 4 | PASSED_OVER }
        );
        assert_eq!(next(&owners, 1000, 4, false), Next::Wait);
        // Its packet may be its first, for all that a host knows.
        assert_eq!(next(&owners, 1000, 3, true), Next::Keep);
    }

    #[test]
    fn what_is_final_is_kept() {
        assert_eq!(next(&in_order([1000, 2000, 0, 0]), 1000, FINAL, false), Next::Keep);
    }

    /// The same with branches, as one would write it.
    fn plainly(owners: &[Owner; OWNERS], own: u64, hop: u8, home: bool) -> Next {
        if hop >= FINAL {
            return Next::Keep;
        }
        let (passed_over, hop) = (hop & PASSED_OVER, hop & (PASSED_OVER - 1));
        let (mut count, mut best, mut last) = (0u8, OWNERS, OWNERS);
        let (mut best_way, mut last_way, mut lost_way) = (u64::MAX, u64::MAX, u64::MAX);
        let mut place = 0;
        while place < OWNERS {
            let owner = owners[place];
            if owner.turn != Turn::Nobody {
                count += 1;
                // Zero for the next id, the largest for the own one.
                let way = owner.id.wrapping_sub(own).wrapping_sub(1);
                match owner.turn {
                    Turn::InOrder if way < best_way => (best, best_way) = (place, way),
                    Turn::Last if way < last_way => (last, last_way) = (place, way),
                    Turn::NoWay if way < lost_way => lost_way = way,
                    _ => {}
                }
            }
            place += 1;
        }
        if best < OWNERS {
            // Places on the way count, whether or not their owners get a turn.
            let mut steps = hop;
            let mut place = 0;
            while place < OWNERS {
                let owner = owners[place];
                if owner.turn != Turn::Nobody && owner.id.wrapping_sub(own).wrapping_sub(1) <= best_way {
                    steps += 1;
                }
                place += 1;
            }
            if steps <= count + !home as u8 {
                let doubt = if last_way < best_way || lost_way < best_way { PASSED_OVER } else { 0 };
                return Next::PassOn { place: best, hop: steps | passed_over | doubt };
            }
        }
        if last < OWNERS {
            return Next::PassOn { place: last, hop: FINAL };
        }
        let may_live = passed_over != 0 || lost_way < u64::MAX;
        if may_live && !home { Next::Wait } else { Next::Keep }
    }

    fn any_owner() -> impl Strategy<Value = Owner> {
        let turns = [Turn::InOrder, Turn::InOrder, Turn::Last, Turn::NoWay, Turn::Never, Turn::Nobody];
        (0u64..1 << 59, prop::sample::select(turns.to_vec())).prop_map(|(id, turn)| match turn {
            Turn::Nobody => NOBODY,
            turn => Owner { id: id << 5, turn },
        })
    }

    proptest! {
        #[test]
        fn branches_or_not_the_decision_is_one(
            owners in prop::array::uniform4(any_owner()),
            (other, at) in ((0u64..1 << 59).prop_map(|id| id << 5), 0usize..8),
            (hop, home) in (0u8..16, any::<bool>()),
        ) {
            // The own id is that of an owner half of the time.
            let own = owners.get(at).map_or(other, |owner| owner.id);
            prop_assert_eq!(next(&owners, own, hop, home), plainly(&owners, own, hop, home));
        }

        /// Whatever the ids, every owner in order gets its turn, and the walk ends.
        #[test]
        fn every_owner_gets_its_turn(ids in prop::array::uniform4(any::<u64>()), start: u64, home: bool) {
            let owners = in_order(ids);
            let visited = walk(&owners, start, home);
            for owner in owners.iter().filter(|owner| owner.id != 0) {
                prop_assert!(visited.contains(&owner.id), "{visited:?}");
            }
            prop_assert!(visited.len() <= OWNERS + 2);
        }
    }
}
