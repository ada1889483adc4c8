use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// All turns in their order, from the start.
fn in_order(members: &[Member<'_>]) -> impl Iterator<Item = (usize, u64)> {
    let mut queue = Turns::new(members, |_| 0);
    std::iter::from_fn(move || {
        let class = queue.pop()?;
        let turns: Vec<_> = class.hosts.iter().map(|host| (usize::from(*host), class.turn)).collect();
        queue.push_next(class);
        Some(turns)
    })
    .flatten()
}

fn members(weights: &[u32]) -> Vec<Member<'static>> {
    // Only weights matter here, and the places of members.
    weights.iter().map(|&weight| Member { name: "", weight }).collect()
}

#[test]
fn turns_come_by_time_then_weight_then_name() {
    let order: String =
        in_order(&members(&[1, 2, 2, 3])).take(16).map(|(host, _)| b"abcd"[host] as char).collect();
    assert_eq!(order, "dbcadbcddbcadbcd");
}

proptest! {
    #[test]
    fn each_turn_is_before_the_next(weights in vec(1_u32..9, 1..20)) {
        let members = members(&weights);
        let turn = |(host, number): (usize, u64)| Turn { number: number as u32, weight: weights[host], host: host as u16 };
        let turns: Vec<_> = in_order(&members).take(200).map(turn).collect();
        for pair in turns.windows(2) {
            prop_assert!(pair[0].is_before(pair[1]) && !pair[1].is_before(pair[0]), "{pair:?}");
        }
    }

    #[test]
    fn counts_are_those_of_the_first_turns(
        weights in prop_oneof![vec(1_u32..9, 1..40), vec(1_u32.., 1..40)], more in 0_u32..2000,
    ) {
        let members = members(&weights);
        let size = weights.len() as u32 + more;
        let mut want = vec![0; weights.len()];
        in_order(&members).take(size as usize).for_each(|(host, _)| want[host] += 1);
        prop_assert_eq!(counts(&members, size), want);
    }
}
