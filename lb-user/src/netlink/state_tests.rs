use super::NeighbourState::{Delay, Failed, Incomplete, Noarp, Permanent, Probe, Reachable, Stale};
use super::*;
use crate::netlink::vlan::Tag;

const HOST: &str = "192.0.2.139";
const GATEWAY: &str = "192.0.2.129";
const OURS: Mac = [2, 0, 0, 0, 0, 1];
const THEIRS: Mac = [2, 0, 0, 0, 0, 2];

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn eth0() -> Link {
    Link { name: "eth0".into(), up: true, carrier: true, mac: Some(OURS), mtu: 1500, vlan: None }
}

fn direct() -> Route {
    Route { ifindex: 2, gateway: None, source: Some(ip("192.0.2.132")), mtu: None }
}

fn neighbour(state: NeighbourState, managed: bool) -> Neighbour {
    let mac = matches!(state, Reachable | Stale | Delay | Probe | Permanent).then_some(THEIRS);
    Neighbour { state, mac, managed }
}

fn state(route: Result<Route, String>) -> State {
    let mut state = State::default();
    state.apply(Event::Link(2, eth0()));
    state.set_routes(BTreeMap::from([(ip(HOST), route)]));
    state
}

fn told(state: &State) -> String {
    state.next_hop(ip(HOST)).unwrap_err().to_string()
}

#[test]
fn a_neighbour_on_the_link_is_its_own_next_hop() {
    let mut state = state(Ok(direct()));
    state.apply(Event::Neighbour((2, ip(HOST)), neighbour(Reachable, false)));
    let want = NextHop {
        ifindex: 2,
        source_mac: OURS,
        mac: THEIRS,
        mtu: 1500,
        source: Some(ip("192.0.2.132")),
        below: None,
    };
    assert_eq!(state.next_hop(ip(HOST)), Ok(want));
}

#[test]
fn behind_a_gateway_only_the_gateway_counts() {
    let mut state = state(Ok(Route { gateway: Some(ip(GATEWAY)), ..direct() }));
    state.apply(Event::Neighbour((2, ip(HOST)), neighbour(Reachable, false)));
    assert_eq!(told(&state), "no neighbour entry for 192.0.2.129 on eth0 (state none)");
    assert_eq!(state.needed(), BTreeSet::from([(2, ip(GATEWAY))]));
    state.apply(Event::Neighbour((2, ip(GATEWAY)), neighbour(Stale, false)));
    assert_eq!(state.next_hop(ip(HOST)).unwrap().mac, THEIRS);
}

#[test]
fn a_neighbour_of_the_same_address_on_another_link_does_not_count() {
    let mut state = state(Ok(direct()));
    state.apply(Event::Neighbour((3, ip(HOST)), neighbour(Reachable, false)));
    assert!(state.next_hop(ip(HOST)).is_err());
}

#[test]
fn exactly_the_resolved_states_are_usable() {
    for (word, usable) in [
        (Incomplete, false),
        (Reachable, true),
        (Stale, true),
        (Delay, true),
        (Probe, true),
        (Failed, false),
        (Noarp, true),
        (Permanent, true),
        (NeighbourState::None, false),
    ] {
        let mut state = state(Ok(direct()));
        let neighbour = Neighbour { state: word, mac: Some(THEIRS), managed: false };
        state.apply(Event::Neighbour((2, ip(HOST)), neighbour));
        assert_eq!(state.next_hop(ip(HOST)).is_ok(), usable, "{word}");
        let told = format!("no neighbour entry for 192.0.2.139 on eth0 (state {word})");
        assert!(usable || self::told(&state) == told, "{word}");
    }
}

#[test]
fn asking_again_for_one_that_failed_does_not_change_the_reason() {
    let mut state = state(Ok(direct()));
    for word in [Incomplete, Failed, Incomplete] {
        state.apply(Event::Neighbour((2, ip(HOST)), neighbour(word, true)));
    }
    assert_eq!(told(&state), "no neighbour entry for 192.0.2.139 on eth0 (state failed)");
}

#[test]
fn the_smaller_mtu_of_route_and_link_counts() {
    for (mtu, want) in [(None, 1500), (Some(1280), 1280), (Some(9000), 1500)] {
        let mut state = state(Ok(Route { mtu, ..direct() }));
        state.apply(Event::Neighbour((2, ip(HOST)), neighbour(Reachable, false)));
        assert_eq!(state.next_hop(ip(HOST)).unwrap().mtu, want);
    }
}

/// VLAN `id` of this protocol on an interface.
fn vlan(name: &str, below: u32, protocol: u16, id: u16) -> Link {
    Link { name: name.into(), vlan: Some(Device { below, tag: Tag { protocol, id } }), ..eth0() }
}

#[test]
fn a_way_by_vlan_devices_leaves_by_what_is_below_with_their_tags() {
    let mut state = state(Ok(Route { ifindex: 8, ..direct() }));
    state.apply(Event::Link(7, vlan("eth0.100", 2, 0x88a8, 100)));
    state.apply(Event::Link(8, vlan("eth0.5", 2, 0x8100, 5)));
    state.apply(Event::Neighbour((8, ip(HOST)), neighbour(Reachable, false)));
    let one = state.next_hop(ip(HOST)).unwrap();
    let tag = |protocol, id| Tag { protocol, id };
    assert_eq!(one.below, Some(Below { ifindex: 2, tags: vec![tag(0x8100, 5)] }));
    assert_eq!((one.ifindex, one.mtu), (8, 1500), "one tag is free");
    state.apply(Event::Link(8, vlan("eth0.100.5", 7, 0x8100, 5)));
    let two = state.next_hop(ip(HOST)).unwrap();
    assert_eq!(two.below, Some(Below { ifindex: 2, tags: vec![tag(0x88a8, 100), tag(0x8100, 5)] }));
    assert_eq!(two.mtu, 1496, "the second one is not");
    assert_eq!(state.needed(), BTreeSet::from([(8, ip(HOST))]), "the neighbour is the VLAN device's");
}

#[test]
fn a_vlan_device_without_its_lower_half_is_an_interface_like_others() {
    let mut state = state(Ok(Route { ifindex: 8, ..direct() }));
    state.apply(Event::Link(8, vlan("eth0.5", 9, 0x8100, 5)));
    state.apply(Event::Neighbour((8, ip(HOST)), neighbour(Reachable, false)));
    assert_eq!(state.next_hop(ip(HOST)).unwrap().below, None);
}

#[test]
fn three_tags_are_too_many() {
    let mut state = state(Ok(Route { ifindex: 8, ..direct() }));
    for (ifindex, below) in [(6, 2), (7, 6), (8, 7)] {
        state.apply(Event::Link(ifindex, vlan(&format!("vlan{ifindex}"), below, 0x8100, 5)));
    }
    state.apply(Event::Neighbour((8, ip(HOST)), neighbour(Reachable, false)));
    assert_eq!(told(&state), "vlan8 puts more than two VLAN tags on frames");
}

#[test]
fn each_obstacle_has_its_reason() {
    assert_eq!(
        State::default().next_hop(ip(HOST)).unwrap_err().to_string(),
        "the route to 192.0.2.139 is not known yet"
    );
    assert_eq!(
        told(&state(Err("Network is unreachable".into()))),
        "no route to 192.0.2.139: Network is unreachable"
    );
    let link = |link| {
        let mut state = state(Ok(direct()));
        state.apply(Event::Neighbour((2, ip(HOST)), neighbour(Reachable, false)));
        state.apply(Event::Link(2, link));
        told(&state)
    };
    assert_eq!(link(Link { up: false, ..eth0() }), "eth0 is down");
    assert_eq!(link(Link { carrier: false, ..eth0() }), "eth0 has no carrier");
    assert_eq!(
        link(Link { mac: None, ..eth0() }),
        "eth0 is not an Ethernet interface; route to 192.0.2.139 by one that is"
    );
    let mut gone = state(Ok(direct()));
    gone.apply(Event::LinkGone(2));
    assert_eq!(told(&gone), "the route to 192.0.2.139 leaves by interface 2, which does not exist");
}

#[test]
fn what_can_move_routes_has_them_asked_for_again() {
    let mut state = state(Ok(direct()));
    assert!(!state.apply(Event::Link(2, eth0())), "nothing changed");
    assert!(state.apply(Event::Link(2, Link { up: false, ..eth0() })));
    assert!(state.apply(Event::LinkGone(2)));
    assert!(state.apply(Event::Routing));
    assert!(!state.apply(Event::Neighbour((2, ip(HOST)), neighbour(Reachable, false))));
    assert!(!state.apply(Event::NeighbourGone((2, ip(HOST)))));
}

#[test]
fn a_link_takes_its_neighbours_with_it() {
    let mut state = state(Ok(direct()));
    state.apply(Event::Neighbour((2, ip(HOST)), neighbour(Reachable, false)));
    state.apply(Event::LinkGone(2));
    state.apply(Event::Link(2, eth0()));
    assert!(told(&state).contains("state none"));
}

#[test]
fn the_kernel_is_asked_for_unknown_neighbours_at_once_and_for_others_in_time() {
    let mut state = state(Ok(direct()));
    let place = (2, ip(HOST));
    assert_eq!(state.unresolved(false), [place]);
    for (word, managed, again) in [
        (Incomplete, false, false),
        (Reachable, false, false),
        (Stale, false, true),
        (Stale, true, false),
        (Failed, false, true),
        (Failed, true, true),
        // Asking for a permanent entry would make the kernel forget it.
        (Permanent, false, false),
        (Noarp, false, false),
    ] {
        state.apply(Event::NeighbourGone(place));
        state.apply(Event::Neighbour(place, neighbour(word, managed)));
        assert!(state.unresolved(false).is_empty(), "{word}");
        assert_eq!(!state.unresolved(true).is_empty(), again, "{word}, managed {managed}");
    }
}

#[test]
fn nothing_is_resolved_on_a_link_that_cannot_carry_it() {
    for link in [Link { up: false, ..eth0() }, Link { mac: None, ..eth0() }] {
        let mut state = state(Ok(direct()));
        state.apply(Event::Link(2, link));
        assert!(state.unresolved(true).is_empty());
    }
}
