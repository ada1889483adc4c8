//! A host as the tests see it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;
use lb_common::reasons::Host;
use lb_tests::isolation::{self, ip, isolated};
use lb_tests::packets::*;
use lb_tests::vector::{self, Bench, Context, Hook, Vector, check};
use lb_tests::world::{World, client4, client6, generation, vip, vip4, vip6};
use lb_user::config::{Capacity, Decapsulation, XdpMode};
use lb_user::dataplane::counters::Counter;
use lb_user::dataplane::host::{Accept, Fellows, HostOptions, HostPlane};
use lb_user::dataplane::slots::stable_id;
use lb_user::model::{Doubt, HostId, Protocol, ServiceKey};

const DIRECTOR4: [u8; 4] = [192, 0, 2, 150];
const DIRECTOR6: &str = "2001:db8::c000:296";

/// A VIP, whose port 80/tcp is the same pool's.
pub const PREFIX: &str = "2001:db8:7::/64";

/// The pool of [`vip::WEB`].
const POOL: &str = "web";

/// A host's programs over the world, seen by one of its hosts.
pub struct Seen {
    pub world: World,
    pub own: String,
    pub doubts: BTreeMap<HostId, Doubt>,
    pub per_second: u32,
    pub plane: HostPlane,
    pub hook: Hook,
}

impl Bench for Seen {
    fn run(&mut self, packet: &[u8], context: &Context) -> Result<(u32, Vec<u8>)> {
        match self.hook {
            Hook::Xdp => vector::run(self.plane.program()?, packet, context),
            Hook::Tc => vector::run(self.plane.tc_program()?, packet, context),
        }
    }

    fn counters(&self) -> Result<Vec<Counter>> {
        Ok(self.plane.counters()?)
    }
}

impl Seen {
    pub fn by(own: &str, hook: Hook) -> Self {
        let options = HostOptions {
            interfaces: Vec::new(),
            decapsulation: Decapsulation::Auto,
            xdp: XdpMode::Auto,
            prefixes: true,
            capacity: Capacity::default(),
        };
        let mut seen = Seen {
            world: World::default(),
            own: own.into(),
            doubts: BTreeMap::new(),
            per_second: 1_000_000,
            plane: HostPlane::load(options, None).unwrap(),
            hook,
        };
        let vip = PREFIX.parse().unwrap();
        seen.world.serve(ServiceKey { vip, port: 80, protocol: Protocol::Tcp }, POOL);
        seen.sync();
        seen
    }

    pub fn sync(&mut self) {
        let accept = Accept {
            senders: vec![([192, 0, 2, 0].into(), 24), ("2001:db8::c000:200".parse().unwrap(), 120)],
            locals: self.locals(),
            vips: [vip4(vip::WEB).into(), vip6(vip::WEB).into(), PREFIX.parse().unwrap()].into(),
        };
        self.plane.sync(&accept).unwrap();
        let fellows = Fellows {
            model: &self.world.model,
            locals: &accept.locals,
            nexthops: &self.world.nexthops,
            doubts: &self.doubts,
            per_second: self.per_second,
        };
        self.plane.sync_fellows(&fellows).unwrap();
    }

    fn locals(&self) -> Vec<IpAddr> {
        self.addresses(&self.own)
    }

    pub fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let host = &self.world.model.pools[POOL].hosts[name];
        vec![host.address4.unwrap().into(), host.address6.unwrap().into()]
    }

    pub fn doubt(&mut self, name: &str, doubt: Option<Doubt>) {
        let id = HostId { pool: POOL.into(), host: name.into() };
        match doubt {
            Some(doubt) => drop(self.doubts.insert(id, doubt)),
            None => drop(self.doubts.remove(&id)),
        }
        self.sync();
    }

    /// `packet` as a director sends it here.
    pub fn came(&self, packet: &[u8], hop: u8) -> Vec<u8> {
        let v6 = packet[12] != 8;
        self.came_over(packet, hop, v6)
    }

    pub fn came_over(&self, packet: &[u8], hop: u8, outer6: bool) -> Vec<u8> {
        let source = if outer6 { DIRECTOR6.parse().unwrap() } else { DIRECTOR4.into() };
        let destination = self.locals()[usize::from(outer6)];
        let outer = Outer {
            tags: Vec::new(),
            own_mac: ROUTER,
            next_mac: MACHINE,
            source,
            destination,
            generation: generation(vip::WEB),
        };
        with_hop(&tunnel(&outer, packet), hop)
    }

    /// `packet` as it goes to another host.
    pub fn went(&self, packet: &[u8], to: &str, hop: u8) -> Vec<u8> {
        let destination = self.addresses(to)[usize::from(packet[12] != 8)];
        let way = self.world.nexthops[&destination].as_ref().unwrap();
        let outer = Outer {
            tags: Vec::new(),
            own_mac: way.source_mac,
            next_mac: way.mac,
            source: way.source.unwrap(),
            destination,
            generation: generation(vip::WEB),
        };
        with_outer_ttl(&with_hop(&tunnel(&outer, packet), hop), 63)
    }

    /// The owners of the flow in the order of their turns here, without this host, each with the hop it gets from 0.
    pub fn others(&self, ends: Ends) -> Vec<(String, u8)> {
        self.others_of(ends, Protocol::Tcp)
    }

    pub fn others_of(&self, ends: Ends, protocol: Protocol) -> Vec<(String, u8)> {
        let pool = &self.world.model.pools[POOL];
        let id =
            |name: &String| stable_id(&HostId { pool: POOL.into(), host: name.clone() }, &pool.hosts[name]);
        let own = id(&self.own);
        let mut owners = self.world.owners(ends, protocol);
        owners.retain(|name| *name != self.own);
        owners.sort_by_key(|name| id(name).wrapping_sub(own));
        owners.into_iter().zip(1..).collect()
    }

    pub fn passes(&self, says: &'static str, ends: Ends, packet: &[u8]) -> Vector<Host> {
        let (to, hop) = self.others(ends)[0].clone();
        Vector::new(says, self.came(packet, 0), Host::PassedOn, self.went(packet, &to, hop))
    }

    pub fn keeps(&self, says: &'static str, packet: &[u8], hop: u8, reason: Host) -> Vector<Host> {
        Vector::new(says, self.came(packet, hop), reason, packet.to_vec())
    }

    pub fn check(&mut self, vectors: &[Vector<Host>]) {
        let hook = self.hook;
        let action = |v: &Vector<Host>| match hook {
            // At TC every packet that is sent on is redirected.
            Hook::Tc => hook.action(v.reason.verdict(), true),
            Hook::Xdp => hook.action(v.reason.verdict(), v.redirected),
        };
        check(self, vectors, |v| (action(v), v.output.clone()), |_| true);
    }
}

/// Runs a test at both hooks, each in a network of its own.
pub fn at_both(what: &str, test: impl Fn(&mut Seen) + Sync) {
    if !isolation::can_run(what) {
        return;
    }
    for hook in [Hook::Xdp, Hook::Tc] {
        isolated(|_: &Path| {
            for address in [IpAddr::from(vip4(vip::WEB)), vip6(vip::WEB).into()] {
                ip(&format!("addr add {address} dev lo"));
            }
            ip("addr add 203.0.113.7 dev lo");
            ip("addr add 2001:db8::cb00:7107 dev lo nodad");
            test(&mut Seen::by("a", hook));
        });
    }
}

/// Two flows, one of each family, of which `a` is no owner or the second one, whose first owner is therefore another.
pub fn flows(seen: &Seen) -> [Ends; 2] {
    [strange(seen, client4(vip::WEB)), strange(seen, client6(vip::WEB))]
}

/// Such a flow between these ends.
pub fn strange(seen: &Seen, ends: Ends) -> Ends {
    let with_port = |port| Ends { source: (ends.source.ip(), port).into(), ..ends };
    let fits = |ends: &Ends| seen.world.owners(*ends, Protocol::Tcp)[0] != seen.own;
    (40000..41000).map(with_port).find(fits).unwrap()
}
