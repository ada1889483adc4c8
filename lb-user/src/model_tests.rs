use proptest::prelude::*;

use super::*;
use crate::bgp::Prefix;

fn vip(text: &str) -> Vip {
    text.parse().unwrap()
}

fn model(services: &[&str]) -> Model {
    let service = |text: &&str| {
        let key: ServiceKey = text.parse().unwrap();
        (key, Service::of("web", key.protocol))
    };
    Model { services: services.iter().map(service).collect(), ..Model::default() }
}

fn served(model: &Model, to: &str, protocol: Protocol) -> String {
    let found = model.service(to.parse().unwrap(), protocol);
    found.map_or("none".into(), |(key, _)| key.to_string())
}

#[test]
fn a_service_is_read_as_it_is_written() {
    for text in ["198.51.100.1:80/tcp", "[2001:db8::1]:*/udp", "[2001:db8:5::/64]:443/tcp"] {
        assert_eq!(text.parse::<ServiceKey>().unwrap().to_string(), text);
    }
    for text in ["198.51.100.1:80", "198.51.100.1/tcp", "198.51.100.1:80/sctp", "[2001:db8::1/64]:80/tcp"] {
        assert!(text.parse::<ServiceKey>().is_err(), "{text}");
    }
}

#[test]
fn the_longest_vip_that_has_the_port_serves() {
    let model = model(&[
        "[2001:db8::/32]:*/tcp",
        "[2001:db8:5::/64]:80/tcp",
        "[2001:db8:5::/64]:443/tcp",
        "[2001:db8:5:0:8000::/65]:*/tcp",
        "[2001:db8:5::1]:80/tcp",
        "198.51.100.1:80/tcp",
    ]);
    for (to, by) in [
        ("[2001:db8:5::1]:80", "[2001:db8:5::1]:80/tcp"),
        ("[2001:db8:5::1]:443", "[2001:db8:5::/64]:443/tcp"),
        ("[2001:db8:5::2]:80", "[2001:db8:5::/64]:80/tcp"),
        ("[2001:db8:5::2]:81", "[2001:db8::/32]:*/tcp"),
        ("[2001:db8:5:0:8000::]:443", "[2001:db8:5:0:8000::/65]:*/tcp"),
        ("[2001:db8:6::]:80", "[2001:db8::/32]:*/tcp"),
        ("[2001:db9::]:80", "none"),
        ("[2001:db7:ffff::]:80", "none"),
        ("198.51.100.1:80", "198.51.100.1:80/tcp"),
        ("198.51.100.2:80", "none"),
    ] {
        assert_eq!(served(&model, to, Protocol::Tcp), by, "{to}");
        assert_eq!(served(&model, to, Protocol::Udp), "none", "{to}");
    }
}

#[test]
fn services_show_through_where_no_longer_vip_hides_them() {
    let model = model(&[
        "[2001:db8::/32]:*/tcp",
        "[2001:db8::/32]:53/udp",
        "[2001:db8:5::/64]:80/tcp",
        "[2001:db8:5::1]:80/tcp",
        "[2001:db8:5::2]:*/tcp",
    ]);
    let at = |text: &str| -> Vec<String> {
        model.services_at(vip(text)).into_iter().map(|(key, _)| key.to_string()).collect()
    };
    assert_eq!(
        at("2001:db8:5::/64"),
        ["[2001:db8:5::/64]:80/tcp", "[2001:db8::/32]:*/tcp", "[2001:db8::/32]:53/udp"]
    );
    assert_eq!(
        at("2001:db8:5::1"),
        ["[2001:db8:5::1]:80/tcp", "[2001:db8::/32]:*/tcp", "[2001:db8::/32]:53/udp"]
    );
    assert_eq!(at("2001:db8:5::2"), ["[2001:db8:5::2]:*/tcp", "[2001:db8::/32]:53/udp"]);
    assert_eq!(at("2001:db8::/32"), ["[2001:db8::/32]:*/tcp", "[2001:db8::/32]:53/udp"]);
}

#[test]
fn fragments_are_of_the_longest_vip_that_has_the_protocol() {
    let mut model = model(&["[2001:db8:5::/64]:53/udp", "[2001:db8:5::1]:53/udp", "[2001:db8:5::2]:80/tcp"]);
    let key: ServiceKey = "[2001:db8:5::/64]:53/udp".parse().unwrap();
    model.services.get_mut(&key).unwrap().fragments = Fragments::Forward;
    let of = |address: &str| {
        model.service_of_fragments(address.parse().unwrap(), Protocol::Udp).map(|(key, _)| key)
    };
    assert_eq!((of("2001:db8:5::3"), of("2001:db8:5::2")), (Some(key), Some(key)));
    assert_eq!((of("2001:db8:5::1"), of("2001:db8:6::")), (None, None));
}

/// Few bits, so that prefixes meet: the first and the last ones.
fn any_vip() -> impl Strategy<Value = Vip> {
    let lengths = prop_oneof![1u8..5, 125u8..=128];
    let v6 = (0u128..16, 0u128..16, lengths)
        .prop_map(|(high, low, length)| Vip::new(Prefix { address: bits(high, low), length }));
    prop_oneof![4 => v6, 1 => (0u8..4).prop_map(|last| Vip::from([198, 51, 100, last]))]
}

fn bits(high: u128, low: u128) -> IpAddr {
    IpAddr::V6((high << 124 | low).into())
}

proptest! {
    #[test]
    fn all_vips_over_one_are_found_the_longest_first(
        vips in prop::collection::btree_set(any_vip(), 0..24), of in any_vip(),
    ) {
        let key = |vip: &Vip| ServiceKey { vip: *vip, port: 80, protocol: Protocol::Tcp };
        let services = vips.iter().map(|vip| (key(vip), Service::of("web", Protocol::Tcp))).collect();
        let model = Model { services, ..Model::default() };
        let found: Vec<Vip> = model.vips_over(of).collect();
        let mut want: Vec<Vip> = vips.into_iter().filter(|vip| vip.covers(of)).collect();
        want.sort_by_key(|vip| std::cmp::Reverse(vip.prefix().length));
        prop_assert_eq!(found, want);
    }
}
