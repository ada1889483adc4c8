use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const UP: Standing = Standing::Up(1000);
const NOWHERE: Located<'_> = Located { regions: &[], scope: 0, source: None };

fn v4(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

/// A name with IPv4 members 1 to `members`.
fn choice(policy: Policy, members: u8) -> Choice {
    let member = |last| Member {
        address: v4(last),
        weight: 1,
        subnets: Vec::new(),
        regions: Vec::new(),
        checks: Vec::new(),
    };
    Choice {
        name: Name::from_ascii("www.example.org.").unwrap(),
        policy,
        ttl: 60,
        answers: if matches!(policy, Policy::All | Policy::Subnet | Policy::Geo) { 1000 } else { 1 },
        min_up: Least::Count(1),
        all_down: AllDown::All,
        fallback: Vec::new(),
        members: (1..=members).map(member).collect(),
    }
}

fn client(text: &str) -> Client {
    Client { source: "127.0.0.1".parse().unwrap(), subnet: Some(text.parse().unwrap()) }
}

fn chosen(choice: &Choice, standings: &[Standing], client: &Client, roll: u64) -> Chosen {
    choice.choose(Family::V4, &Circumstances { standings, starting: false, client, located: NOWHERE, roll })
}

/// The last bytes of the addresses.
fn lasts(chosen: &Chosen) -> Vec<u8> {
    let Verdict::Addresses(addresses) = &chosen.verdict else { panic!("SERVFAIL") };
    addresses
        .iter()
        .map(|address| match address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(_) => panic!("IPv6"),
        })
        .collect()
}

fn somebody() -> Client {
    client("203.0.113.7/32")
}

#[test]
fn all_that_work_are_given_beginning_with_another_one_each_time() {
    let choice = choice(Policy::All, 3);
    let standings = [UP, Standing::Failed, UP];
    assert_eq!(lasts(&chosen(&choice, &standings, &somebody(), 0)), [1, 3]);
    let given = chosen(&choice, &standings, &somebody(), 1);
    assert_eq!(lasts(&given), [3, 1]);
    assert_eq!(given.fates, [Fate::Given, Fate::Failed, Fate::Given]);
    assert_eq!((given.basis, given.scope), (Basis::Healthy, 0));
}

#[test]
fn failover_gives_the_first_that_works() {
    let choice = choice(Policy::Failover, 3);
    let given = chosen(&choice, &[Standing::Drained, UP, UP], &somebody(), 7);
    assert_eq!(lasts(&given), [2]);
    assert_eq!(given.fates, [Fate::Drained, Fate::Given, Fate::Behind]);
}

#[test]
fn what_leaves_is_given_when_too_few_others_work_and_before_what_fails() {
    let mut choice = choice(Policy::All, 3);
    let given = |choice: &Choice, standings: &[Standing]| lasts(&chosen(choice, standings, &somebody(), 0));
    let (leaving, failed) = (Standing::Leaving, Standing::Failed);
    let with = chosen(&choice, &[leaving, UP, failed], &somebody(), 0);
    assert_eq!(lasts(&with), [2]);
    assert_eq!(with.fates, [Fate::Leaving, Fate::Given, Fate::Failed]);
    let alone = chosen(&choice, &[leaving, failed, failed], &somebody(), 0);
    assert_eq!((lasts(&alone), alone.basis, alone.fates[0]), (vec![1], Basis::TooFew, Fate::Given));
    choice.min_up = Least::Count(2);
    assert_eq!(given(&choice, &[leaving, UP, failed]), [1, 2]);
    assert_eq!(given(&choice, &[leaving, failed, Standing::Drained]), [1, 2], "not enough even so");
    // Where the name has another rule, that holds.
    choice.all_down = AllDown::None;
    assert_eq!(given(&choice, &[leaving, UP, failed]), Vec::<u8>::new());
}

#[test]
fn weights_decide_how_often_each_is_drawn_and_capacity_scales_them() {
    let mut choice = choice(Policy::Weighted, 3);
    choice.members[0].weight = 6;
    choice.members[1].weight = 2;
    choice.members[2].weight = 2;
    let standings = [Standing::Up(500), UP, UP];
    let mut drawn = [0u32; 4];
    for roll in 0..70_000 {
        drawn[usize::from(lasts(&chosen(&choice, &standings, &somebody(), mix(roll)))[0])] += 1;
    }
    // 6 × 0.5 : 2 : 2.
    for (last, expected) in [(1, 30_000), (2, 20_000), (3, 20_000)] {
        assert!(drawn[last].abs_diff(expected) < 700, "{drawn:?}");
    }
    choice.answers = 2;
    let two = chosen(&choice, &standings, &somebody(), 3);
    assert_eq!(lasts(&two).iter().collect::<BTreeSet<_>>().len(), 2);
    assert_eq!(two.fates.iter().filter(|fate| **fate == Fate::NotDrawn).count(), 1);
}

/// What little capacity there is counts to the last thousandth, and a member that has none is still drawn now and then.
#[test]
fn the_smallest_shares_are_drawn_in_proportion() {
    let choice = choice(Policy::Weighted, 2);
    for (first, second, of_first) in [(1, 1, 0.5), (0, 0, 0.5), (0, 4, 0.2), (0, 1, 0.5), (3, 1, 0.75)] {
        let standings = [Standing::Up(first), Standing::Up(second)];
        let given = |roll| lasts(&chosen(&choice, &standings, &somebody(), mix(roll)));
        let drawn = (0..10_000).filter(|roll| given(*roll) == [1]).count();
        assert!((drawn as f64 / 10_000.0 - of_first).abs() < 0.03, "{first} beside {second}: {drawn}");
    }
}

/// One after the other, by chance each: who comes second does not follow from who came first.
#[test]
fn every_order_of_equal_members_is_drawn_as_often() {
    let choice = Choice { answers: 3, ..choice(Policy::Weighted, 3) };
    let mut orders: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for roll in 0..6000 {
        *orders.entry(lasts(&chosen(&choice, &[UP; 3], &somebody(), mix(roll)))).or_default() += 1;
    }
    assert_eq!(orders.len(), 6);
    assert!(orders.values().all(|count| count.abs_diff(1000) < 150), "{orders:?}");
}

#[test]
fn a_share_of_the_members_is_rounded_up() {
    let table =
        [((50, 2), 1), ((67, 3), 3), ((34, 3), 2), ((33, 3), 1), ((1, 100), 1), ((100, 7), 7), ((0, 7), 0)];
    for ((percent, members), least) in table {
        assert_eq!(Least::Percent(percent).of(members), least, "{percent} % of {members}");
    }
}

#[test]
fn the_smallest_subnet_decides_and_the_scope_says_how_far_that_holds() {
    let mut choice = choice(Policy::Subnet, 3);
    choice.members[0].subnets = vec!["203.0.113.0/24".parse().unwrap()];
    choice.members[1].subnets = vec!["203.0.113.128/25".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
    let given = |who: &str| {
        let given = chosen(&choice, &[UP; 3], &client(who), 0);
        (lasts(&given), given.scope)
    };
    assert_eq!(given("203.0.113.0/25"), (vec![1], 25));
    assert_eq!(given("203.0.113.200/32"), (vec![2], 25));
    assert_eq!(given("198.51.100.0/24"), (vec![3], 5));
    assert_eq!(given("2001:db8:7::/48"), (vec![2], 32));
    assert_eq!(
        given("203.0.113.0/24"),
        (vec![1], 25),
        "it holds for a part of the network only, and says so"
    );
    let without_the_second = chosen(&choice, &[UP, Standing::Failed, UP], &client("203.0.113.200/32"), 0);
    assert_eq!(lasts(&without_the_second), [1], "the next larger subnet stands in");
    let none_for_it = chosen(&choice, &[UP, UP, Standing::Failed], &client("198.51.100.0/24"), 0);
    assert_eq!(lasts(&none_for_it), [1, 2], "any is better than none");
    // Half of all addresses is nearer than all of them.
    choice.members[1].subnets = vec!["128.0.0.0/1".parse().unwrap()];
    assert_eq!(lasts(&chosen(&choice, &[UP; 3], &client("198.51.100.0/24"), 0)), [2]);
}

#[test]
fn the_smallest_region_with_a_member_that_works_decides() {
    let mut choice = choice(Policy::Geo, 5);
    let regions =
        |text: &str| -> Vec<Region> { text.split(' ').map(|region| region.parse().unwrap()).collect() };
    for (member, of) in choice.members.iter_mut().zip(["EU US-CA", "DE", "US", "US-CA DE"]) {
        member.regions = regions(of);
    }
    let given = |at: &str, standings: [Standing; 5]| {
        let regions = regions(at)[0].outwards();
        let located = Located { regions: &regions, scope: 20, source: None };
        let client = somebody();
        let now = Circumstances { standings: &standings, starting: false, client: &client, located, roll: 0 };
        choice.choose(Family::V4, &now)
    };
    let failed = |which: &[usize]| {
        let mut standings = [UP; 5];
        which.iter().for_each(|i| standings[*i - 1] = Standing::Failed);
        standings
    };
    assert_eq!(lasts(&given("US-CA", [UP; 5])), [1, 4]);
    assert_eq!(lasts(&given("US-CA", failed(&[1]))), [4]);
    assert_eq!(lasts(&given("US-CA", failed(&[1, 4]))), [3], "the country stands in for its part");
    assert_eq!(lasts(&given("US-NY", [UP; 5])), [3]);
    assert_eq!(lasts(&given("DE", failed(&[2, 4]))), [1], "the continent for the country");
    assert_eq!(lasts(&given("US-NY", failed(&[3]))), [5], "those without regions for all others");
    assert_eq!(lasts(&given("JP", [UP; 5])), [5]);
    assert_eq!(lasts(&given("JP", failed(&[5]))), [1, 2, 3, 4], "any is better than none");
    let of_country = given("US-NY", failed(&[1]));
    assert_eq!(
        (of_country.scope, of_country.fates),
        (20, vec![Fate::Failed, Fate::OtherClients, Fate::Given, Fate::OtherClients, Fate::OtherClients])
    );
    assert_eq!(lasts(&chosen(&choice, &[UP; 5], &somebody(), 0)), [5], "a client that is nowhere");
    assert_eq!(lasts(&given("DE", [Standing::Failed; 5])), [2, 4], "as if all worked");
}

#[test]
fn a_resolver_that_hides_its_client_is_taken_for_it() {
    let source = "203.0.113.7".parse().unwrap();
    let hidden = Client { source, subnet: Some("0.0.0.0/0".parse().unwrap()) };
    assert_eq!(hidden.network(), Prefix::host(source));
    assert_eq!(client("128.0.0.0/1").network(), "128.0.0.0/1".parse().unwrap(), "one bit is something");
}

#[test]
fn hashing_spreads_clients_by_weight() {
    let mut choice = choice(Policy::Hash, 3);
    choice.members[0].weight = 2;
    let mut drawn = [0u32; 4];
    for network in 0..40_000u32 {
        let who = client(&format!("{}/24", Ipv4Addr::from_bits(0x0a00_0000 + (network << 8))));
        drawn[usize::from(lasts(&chosen(&choice, &[UP; 3], &who, 0))[0])] += 1;
    }
    for (last, expected) in [(1, 20_000), (2, 10_000), (3, 10_000)] {
        assert!(drawn[last].abs_diff(expected) < 500, "{drawn:?}");
    }
}

#[test]
fn clients_of_a_network_are_hashed_alike() {
    let choice = choice(Policy::Hash, 9);
    let of = |who: &str| chosen(&choice, &[UP; 9], &client(who), 0);
    assert_eq!(of("203.0.113.7/32"), of("203.0.113.99/32"));
    assert_eq!(of("203.0.113.0/24").scope, 24);
    assert_eq!(of("203.0.0.0/16").scope, 16);
    assert_eq!(of("2001:db8::1/128").scope, 56);
}

#[test]
fn too_few_members_are_answered_as_the_name_says() {
    let mut choice = choice(Policy::All, 4);
    choice.min_up = Least::Percent(50);
    choice.fallback = vec![v4(99), "2001:db8::99".parse().unwrap()];
    let standings = [UP, Standing::Failed, Standing::Drained, Standing::Down];
    let of = |choice: &Choice| chosen(choice, &standings, &somebody(), 0);
    let all = of(&choice);
    assert_eq!((lasts(&all), all.basis), (vec![1, 2], Basis::TooFew));
    assert_eq!(all.fates, [Fate::Given, Fate::LastResort, Fate::Drained, Fate::Down]);
    choice.all_down = AllDown::Fallback;
    assert_eq!(lasts(&of(&choice)), [99]);
    choice.all_down = AllDown::None;
    assert_eq!(of(&choice).verdict, Verdict::Addresses(Vec::new()));
    choice.all_down = AllDown::Servfail;
    assert_eq!(of(&choice).verdict, Verdict::Servfail);
}

#[test]
fn what_is_drained_comes_back_only_when_nothing_else_is_left_and_what_is_down_never() {
    let choice = choice(Policy::All, 2);
    let given = |standings: [Standing; 2]| chosen(&choice, &standings, &somebody(), 0);
    assert_eq!(lasts(&given([Standing::Drained, Standing::Failed])), [2]);
    assert_eq!(lasts(&given([Standing::Drained, Standing::Down])), [1]);
    assert_eq!(given([Standing::Down, Standing::Down]).verdict, Verdict::Servfail);
}

#[test]
fn nothing_is_answered_before_the_first_checks() {
    let choice = choice(Policy::Failover, 2);
    let at = |standings: &[Standing], starting| {
        let client = somebody();
        let now = Circumstances { standings, starting, client: &client, located: NOWHERE, roll: 0 };
        choice.choose(Family::V4, &now)
    };
    // At the start the first one may well work: nobody is sent to the second too early.
    assert_eq!(at(&[Standing::Unknown, UP], true).verdict, Verdict::Servfail);
    // A member that a reload has added does not take the name away.
    assert_eq!(lasts(&at(&[Standing::Unknown, UP], false)), [2]);
    assert_eq!(at(&[Standing::Unknown, Standing::Failed], false).basis, Basis::NotYetChecked);
}

#[test]
fn families_are_judged_by_themselves() {
    let mut choice = choice(Policy::All, 2);
    choice.members[1].address = "2001:db8::1".parse().unwrap();
    choice.all_down = AllDown::None;
    let client = somebody();
    let standings = &[Standing::Failed, UP];
    let now = Circumstances { standings, starting: false, client: &client, located: NOWHERE, roll: 0 };
    assert_eq!(choice.choose(Family::V4, &now).verdict, Verdict::Addresses(Vec::new()));
    let v6 = choice.choose(Family::V6, &now);
    assert_eq!(v6.verdict, Verdict::Addresses(vec![choice.members[1].address]));
    assert_eq!(v6.fates, [Fate::OtherFamily, Fate::Given]);
    choice.members.truncate(1);
    assert_eq!(choice.choose(Family::V6, &now).basis, Basis::NoSuchFamily);
}

#[test]
fn the_logarithm_is_right_to_the_eighth_digit() {
    for hash in [1, 2, 3, 1 << 32, u64::MAX / 3, u64::MAX / 2, u64::MAX] {
        let expected = 64.0 - (hash as f64).log2();
        let got = negative_log2(hash) as f64 / f64::from(1u32 << 16) / f64::from(1u32 << 16);
        assert!((got - expected).abs() < 1e-8, "{hash}: {got} {expected}");
    }
}

fn any_standing() -> impl Strategy<Value = Standing> {
    prop_oneof![
        4 => (1u16..=1000).prop_map(Standing::Up),
        1 => Just(Standing::Unknown),
        3 => Just(Standing::Failed),
        1 => Just(Standing::Leaving),
        1 => Just(Standing::Drained),
        1 => Just(Standing::Down),
    ]
}

fn any_policy() -> impl Strategy<Value = Policy> {
    use Policy::{All, Failover, Geo, Hash, Subnet, Weighted};
    prop::sample::select(vec![All, Failover, Weighted, Subnet, Geo, Hash])
}

proptest! {
    /// Nothing that fails is given while enough others work; nothing that is down is given ever; fates and answer agree.
    #[test]
    fn answers_hold_only_what_may_be_given(
        policy in any_policy(),
        standings in prop::collection::vec(any_standing(), 1..12),
        least in 1u32..5,
        answers in 1usize..5,
        roll: u64,
        source: u32,
    ) {
        let mut choice = choice(policy, standings.len() as u8);
        (choice.min_up, choice.answers) = (Least::Count(least), answers);
        let who = Client { source: Ipv4Addr::from_bits(source).into(), subnet: None };
        let given = chosen(&choice, &standings, &who, roll);
        prop_assert_eq!(given.fates.len(), standings.len());
        let Verdict::Addresses(addresses) = &given.verdict else { return Ok(()) };
        prop_assert!(!addresses.is_empty() && addresses.len() <= answers);
        let up = standings.iter().filter(|standing| matches!(standing, Standing::Up(_))).count();
        for ((member, standing), fate) in choice.members.iter().zip(&standings).zip(&given.fates) {
            let is_given = addresses.contains(&member.address);
            prop_assert_eq!(is_given, matches!(fate, Fate::Given | Fate::LastResort));
            prop_assert!(!is_given || *standing != Standing::Down);
            prop_assert!(!is_given || up < least as usize || matches!(standing, Standing::Up(_)));
        }
    }

    /// Consistent hashing: when a member fails, only its own clients go elsewhere, and they come back to it.
    #[test]
    fn only_the_clients_of_a_failed_member_move(source: u32, failed in 0usize..8) {
        let choice = choice(Policy::Hash, 8);
        let who = Client { source: Ipv4Addr::from_bits(source).into(), subnet: None };
        let before = lasts(&chosen(&choice, &[UP; 8], &who, 0));
        let mut standings = [UP; 8];
        standings[failed] = Standing::Failed;
        let after = lasts(&chosen(&choice, &standings, &who, 1));
        prop_assert_eq!(before != after, before == [failed as u8 + 1]);
    }

    /// The scope of RFC 7871: all clients within it get the same members.
    #[test]
    fn clients_within_the_scope_get_the_same(
        subnets in prop::collection::vec((any::<u32>(), 1u8..=32), 1..6),
        client: u32,
        other: u32,
    ) {
        let mut choice = choice(Policy::Subnet, 6);
        for ((address, length), member) in subnets.iter().zip(&mut choice.members) {
            let address = Ipv4Addr::from_bits(address & (u32::MAX << (32 - length)));
            member.subnets = vec![Prefix { address: address.into(), length: *length }];
        }
        let of = |bits: u32| {
            let who = Client { source: Ipv4Addr::from_bits(bits).into(), subnet: None };
            chosen(&choice, &[UP; 6], &who, 0)
        };
        let first = of(client);
        let mask = u32::MAX.checked_shl(32 - u32::from(first.scope)).unwrap_or(0);
        prop_assert_eq!(of(client & mask | other & !mask).verdict, first.verdict);
    }
}

/// What a name is to answer before its policy chooses, in the words of the documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Servfail,
    Fixed(Vec<IpAddr>),
    /// Among these members, which are all good or a last resort.
    Among(Vec<usize>),
}

fn told(choice: &Choice, family: Family, standings: &[Standing], starting: bool) -> (Basis, Told) {
    let is = |i: &usize, wanted: &[Standing]| wanted.contains(&standings[*i]);
    let up = |i: &usize| matches!(standings[*i], Standing::Up(_));
    let of_family = |address: &IpAddr| address.is_ipv4() == (family == Family::V4);
    let members: Vec<usize> =
        (0..standings.len()).filter(|i| of_family(&choice.members[*i].address)).collect();
    let least = match choice.min_up {
        Least::Count(count) => count as usize,
        Least::Percent(percent) => (members.len() as f64 * f64::from(percent) / 100.0).ceil() as usize,
    };
    // Nobody is never enough, whatever the name says.
    let least = if least == 0 { 1 } else { least };
    let which =
        |is: &dyn Fn(&usize) -> bool| -> Vec<usize> { members.iter().copied().filter(|i| is(i)).collect() };
    let working = which(&up);
    if members.is_empty() {
        return (Basis::NoSuchFamily, Told::Fixed(Vec::new()));
    }
    if members.iter().any(|i| is(i, &[Standing::Unknown])) && (starting || working.len() < least) {
        return (Basis::NotYetChecked, Told::Servfail);
    }
    if working.len() >= least {
        return (Basis::Healthy, Told::Among(working));
    }
    let answer = match choice.all_down {
        AllDown::Servfail => Told::Servfail,
        AllDown::None => Told::Fixed(Vec::new()),
        AllDown::Fallback => Told::Fixed(choice.fallback.iter().copied().filter(of_family).collect()),
        AllDown::All => {
            let leaving = which(&|i| up(i) || is(i, &[Standing::Leaving]));
            let failed = which(&|i| !is(i, &[Standing::Drained, Standing::Down]));
            let drained = which(&|i| is(i, &[Standing::Drained]));
            let resorts = [(leaving.len() >= least, leaving), (!failed.is_empty(), failed), (true, drained)];
            let (_, last) = resorts.into_iter().find(|(will_do, _)| *will_do).unwrap();
            if last.is_empty() { Told::Servfail } else { Told::Among(last) }
        }
    };
    (Basis::TooFew, answer)
}

fn any_least() -> impl Strategy<Value = Least> {
    prop_oneof![(0u32..5).prop_map(Least::Count), (0u32..=100).prop_map(Least::Percent)]
}

proptest! {
    /// For any name and any standings: why it is answered as it is, among whom is chosen, and what becomes of each member.
    #[test]
    fn a_name_answers_as_it_says(
        (policy, min_up, starting) in (any_policy(), any_least(), prop::bool::weighted(0.2)),
        all_down in prop::sample::select(vec![AllDown::All, AllDown::Fallback, AllDown::Servfail, AllDown::None]),
        members in prop::collection::vec((any_standing(), prop::bool::weighted(0.8)), 0..7),
        (answers, roll, v6) in (1usize..5, any::<u64>(), prop::bool::weighted(0.2)),
    ) {
        let fallback = vec![v4(99), "2001:db8::99".parse().unwrap(), v4(98)];
        let mut choice = Choice { min_up, all_down, answers, fallback, ..choice(policy, members.len() as u8) };
        for (number, ((_, is_v4), member)) in members.iter().zip(&mut choice.members).enumerate() {
            if !is_v4 {
                member.address = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, number as u16]);
            }
        }
        let standings: Vec<Standing> = members.iter().map(|(standing, _)| *standing).collect();
        let family = if v6 { Family::V6 } else { Family::V4 };
        let client = somebody();
        let now = Circumstances { standings: &standings, starting, client: &client, located: NOWHERE, roll };
        let given = choice.choose(family, &now);
        let (basis, told) = told(&choice, family, &standings, starting);
        prop_assert_eq!(given.basis, basis);
        let addresses = match (&given.verdict, &told) {
            (Verdict::Servfail, told) => {
                prop_assert_eq!(told, &Told::Servfail);
                Vec::new()
            }
            (Verdict::Addresses(addresses), Told::Fixed(fixed)) => {
                prop_assert_eq!(addresses, fixed);
                Vec::new()
            }
            (Verdict::Addresses(addresses), Told::Among(among)) => {
                let among: Vec<IpAddr> = among.iter().map(|i| choice.members[*i].address).collect();
                prop_assert_eq!(addresses.len(), among.len().min(answers));
                let first = match policy {
                    Policy::Failover => 0,
                    // Nobody has subnets or regions, so that all fit.
                    Policy::All | Policy::Subnet | Policy::Geo => (roll % among.len() as u64) as usize,
                    Policy::Weighted | Policy::Hash => {
                        let distinct: BTreeSet<_> = addresses.iter().collect();
                        prop_assert!(distinct.len() == addresses.len() && distinct.iter().all(|a| among.contains(a)));
                        among.iter().position(|address| *address == addresses[0]).unwrap()
                    }
                };
                if !matches!(policy, Policy::Weighted | Policy::Hash) {
                    let turned: Vec<_> = among.iter().cycle().skip(first).take(addresses.len()).copied().collect();
                    prop_assert_eq!(addresses, &turned);
                }
                addresses.clone()
            }
            (verdict, told) => panic!("{verdict:?} {told:?}"),
        };
        for ((member, standing), fate) in choice.members.iter().zip(&standings).zip(&given.fates) {
            let others = match (basis, policy) {
                (Basis::Healthy, Policy::Weighted) => Fate::NotDrawn,
                (Basis::Healthy, Policy::Hash) => Fate::OtherClients,
                _ => Fate::Behind,
            };
            let expected = match standing {
                _ if member.address.is_ipv4() == v6 => Fate::OtherFamily,
                Standing::Up(_) | Standing::Leaving if addresses.contains(&member.address) => Fate::Given,
                _ if addresses.contains(&member.address) => Fate::LastResort,
                Standing::Up(_) => others,
                Standing::Unknown => Fate::Unknown,
                Standing::Failed => Fate::Failed,
                Standing::Leaving => Fate::Leaving,
                Standing::Drained => Fate::Drained,
                Standing::Down => Fate::Down,
            };
            prop_assert_eq!(*fate, expected);
        }
        // In how many ways chance chooses, where all clients share it.
        let ways = match (&told, policy) {
            (Told::Among(among), Policy::All) => Some(among.len()),
            (Told::Among(_), Policy::Weighted | Policy::Subnet | Policy::Geo | Policy::Hash) => None,
            _ => Some(1),
        };
        prop_assert_eq!(given.ways, ways);
        // Servers that give everybody the same.
        let everybody = choice.for_everybody(family, &standings, starting);
        let all = |among: &Vec<usize>| among.iter().map(|i| choice.members[*i].address).collect::<Vec<_>>();
        let expected = match &told {
            Told::Servfail => None,
            Told::Fixed(fixed) => Some(fixed.clone()),
            Told::Among(among) if policy == Policy::Failover => Some(all(among).into_iter().take(answers).collect()),
            Told::Among(among) => Some(all(among)),
        };
        prop_assert_eq!(everybody, expected);
    }

    /// Of the networks that hold or meet a client's, how many bits decide: told bit by bit.
    #[test]
    fn subnets_fit_bit_by_bit(subnet: u128, length in 0u8..=128, client: u128, shared in 0u32..=128, of_client in 0u8..=128, v4: bool) {
        let (width, bits) = if v4 { (32, 96) } else { (128, 0) };
        let (length, of_client) = (length % (width + 1), of_client % (width + 1));
        // The two have so many bits in common, at least.
        let mask = u128::MAX.checked_shl(128 - shared).unwrap_or(0);
        let client = subnet & mask | client & !mask;
        let address = |value: u128| -> IpAddr {
            if v4 { Ipv4Addr::from_bits((value >> bits) as u32).into() } else { std::net::Ipv6Addr::from_bits(value).into() }
        };
        let member = |length| Member {
            address: address(0), weight: 1, regions: Vec::new(), checks: Vec::new(),
            subnets: vec![Prefix { address: address(subnet), length }.network()],
        };
        let network = Prefix { address: address(client), length: of_client }.network();
        let same = |count: u8| (0..u32::from(count)).all(|bit| (subnet ^ client) >> (127 - bit) & 1 == 0);
        let fits = length <= of_client && same(length);
        prop_assert_eq!(member(length).fit(network), fits.then_some(length));
        let elsewhere = Prefix::host(if v4 { "2001:db8::1".parse().unwrap() } else { v4_of(1) });
        prop_assert_eq!(member(length).fit(elsewhere), None);
        // The scope ends at the first bit that differs, or where the subnet does.
        let choice = Choice { members: vec![member(length)], ..choice(Policy::Subnet, 1) };
        let network_bits = Prefix { address: address(client), length: width };
        let common = (0..length).find(|bit| !same(bit + 1));
        prop_assert_eq!(choice.scope(network_bits), common.map_or(length, |bit| bit + 1));
        prop_assert_eq!(choice.scope(elsewhere), 0);
    }

    /// The part of a network that is hashed is at most its first 24 or 56 bits, and nothing else of it counts.
    #[test]
    fn only_the_leading_bits_are_hashed(bits: u128, length in 0u8..=128) {
        let v6 = hashed(Prefix { address: std::net::Ipv6Addr::from_bits(bits).into(), length });
        let keep = length.min(56);
        let expected = std::net::Ipv6Addr::from_bits(if keep == 0 { 0 } else { bits >> (128 - keep) << (128 - keep) });
        prop_assert_eq!(v6, Prefix { address: expected.into(), length: keep });
        let (bits, keep) = (bits as u32, length.min(32).min(24));
        let v4 = hashed(Prefix { address: Ipv4Addr::from_bits(bits).into(), length: length.min(32) });
        let expected = Ipv4Addr::from_bits(if keep == 0 { 0 } else { bits >> (32 - keep) << (32 - keep) });
        prop_assert_eq!(v4, Prefix { address: expected.into(), length: keep });
    }
}

fn v4_of(last: u8) -> IpAddr {
    v4(last)
}

/// All name servers of a name send a client to the same member, whatever their release and machine.
#[test]
fn hashing_and_drawing_are_what_they_were() {
    let mut hashed = choice(Policy::Hash, 5);
    hashed.answers = 5;
    hashed.members[4].address = v4(5);
    hashed.members[2].weight = 7;
    let order = |who: &str| lasts(&chosen(&hashed, &[UP; 5], &client(who), 0));
    assert_eq!(
        [order("203.0.113.0/24"), order("198.51.100.0/24"), order("2001:db8:7::/48")],
        [[3, 4, 5, 2, 1], [3, 2, 4, 1, 5], [3, 5, 2, 4, 1]]
    );
    // As others have SplitMix64.
    assert_eq!([0, 1_234_567].map(mix), [0xe220_a839_7b1d_cdaf, 6_457_827_717_110_365_317]);
}

#[test]
fn everybody_gets_all_that_work_where_clients_or_chance_decide() {
    let standings = [Standing::Failed, UP, UP];
    for policy in [Policy::All, Policy::Weighted, Policy::Subnet, Policy::Geo, Policy::Hash] {
        let choice = Choice { answers: 1, ..choice(policy, 3) };
        let everybody = choice.for_everybody(Family::V4, &standings, false);
        assert_eq!(everybody, Some(vec![v4(2), v4(3)]), "{policy:?}");
    }
    let failover = choice(Policy::Failover, 3);
    assert_eq!(failover.for_everybody(Family::V4, &standings, false), Some(vec![v4(2)]));
}
