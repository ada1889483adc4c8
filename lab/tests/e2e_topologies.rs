//! Every way to set up a lab that needs no other kernel: each serves requests at all VIPs and leaves nothing.

mod common;

use common::{Lab, figure, load};

/// What is changed from the reference, beside the size.
const TOPOLOGIES: [&[&str]; 16] = [
    &["bgp=bird"],
    &["bgp=gobgp"],
    &["bgp=alternate", "dns=gdnsd"],
    &["bgp=bird", "bfd=true"],
    &["bgp=bird", "xdp=generic"],
    &["bgp=bird", "xdp=generic", "decapsulation=tc"],
    &["bgp=bird", "xdp=native"],
    &["bgp=bird", "manifest=false"],
    &["bgp=gobgp", "manifest=false", "dns=gdnsd"],
    &["bgp=bird", "affinity=flow-table"],
    &["bgp=bird", "affinity=none"],
    &["bgp=bird", "routers=1", "reflectors=1"],
    &["bgp=alternate", "routers=4", "reflectors=3"],
    &["bgp=bird", "lb4=1", "lb7=1", "servers=1"],
    &["bgp=bird", "lb4=7", "lb7=2"],
    &["bgp=bird", "lb4=2", "lb7=13"],
];

#[test]
#[ignore = "long: sixteen labs; needs root"]
fn every_topology_serves_all_vips() {
    for changes in TOPOLOGIES {
        let sets = [&["lb4=2", "lb7=3", "servers=2"], changes].concat();
        let Some((lab, _)) = Lab::up("topologies", &sets) else { return };
        let report = load::requests(&lab, 200);
        report.assert_flawless();
        assert_eq!(report.by_vip.len(), 8, "{changes:?}");
        figure(&changes.join(" "), report.summary());
    }
}
