//! The director's program against the plain model of it, on packets that nobody thought of.
//!
//! `LB_SEED` chooses other packets than those of seed 1, and `LB_PACKETS` how many.

use std::collections::BTreeMap;
use std::time::Instant;

use lb_common::reasons::Director;
use lb_tests::random::{Packets, Random};
use lb_tests::vector::{self, Bench, Context, Hook};
use lb_tests::world::{LOOPBACK, World};
use lb_tests::{director_vectors, isolation};
use lb_user::dataplane::director::{Director as Loaded, DirectorOptions};
use lb_user::dataplane::nexthops::Sources;
use lb_user::director_model::{Memory, View, judge};
use lb_user::model::{Affinity, HashBy};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Of each test.
const PACKETS: u64 = 100_000;
/// After so many packets the world changes.
const STEADY: u64 = 2_000;
/// More than all flows of a test: the model forgets none.
const FLOWS: u32 = 1 << 17;

#[test]
#[ignore = "needs root"]
fn without_flow_table_the_program_does_what_the_model_says() {
    compare("differential test by tables", World::default());
}

#[test]
#[ignore = "needs root"]
fn with_a_flow_table_the_program_does_what_the_model_says() {
    let mut world = World::default();
    for service in world.model.services.values_mut() {
        if service.hash == HashBy::FiveTuple && service.affinity != Affinity::Quic {
            service.affinity = Affinity::FlowTable;
        }
    }
    compare("differential test with a flow table", world);
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |value| value.parse().expect(variable))
}

fn compare(test: &str, mut world: World) {
    if !isolation::can_run(test) {
        return;
    }
    stay_on_this_cpu();
    let (seed, count) = (number("LB_SEED", 1), number("LB_PACKETS", PACKETS));
    let options = DirectorOptions { flows: FLOWS, ..World::options() };
    let mut director = Loaded::load(options, None).unwrap();
    world.bring_all_to(&mut director).unwrap();
    let mut pair =
        Pair { view: world.view(), memory: Memory::new(), before: director.counters().unwrap(), director };
    let mut packets = Packets::new(seed, director_vectors::all(&world));
    let mut changes = Random::new(!seed);
    let mut reasons = BTreeMap::new();
    let start = Instant::now();
    for number in 0..count {
        if number % STEADY == STEADY - 1 {
            change(&mut world, &mut changes);
            world.bring_all_to(&mut pair.director).unwrap();
            pair.view = world.view();
        }
        let packet = packets.next_packet();
        match pair.differs(&packet) {
            Ok(reason) => *reasons.entry(reason).or_insert(0) += 1,
            Err(difference) => {
                let hex: String = packet.iter().map(|byte| format!("{byte:02x}")).collect();
                panic!("LB_SEED={seed}, packet {number} of {count}:\n  {hex}\n{difference}");
            }
        }
    }
    println!("{count} packets of seed {seed} in {:.1?}: {reasons:?}", start.elapsed());
    // A generator that did not reach a reason would prove nothing of it.
    let unseen: Vec<_> = Director::ALL.iter().filter(|reason| !reasons.contains_key(reason)).collect();
    assert!(count < PACKETS || unseen == [&Director::NoHeadroom], "unseen: {unseen:?}");
}

/// The program and the model of it.
struct Pair {
    director: Loaded,
    before: Vec<lb_user::dataplane::counters::Counter>,
    view: View,
    memory: Memory,
}

impl Pair {
    /// The reason that both give, or how they differ.
    fn differs(&mut self, packet: &[u8]) -> Result<Director, String> {
        let want = judge(&self.view, &mut self.memory, packet);
        let (action, output) =
            Bench::run(&mut self.director, packet, &Context::Plain).map_err(|error| format!("{error:#}"))?;
        let after = Bench::counters(&self.director).map_err(|error| format!("{error:#}"))?;
        let counted = vector::counted::<Director>(&self.before, &after);
        self.before = after;
        let redirected = want.sent_by().is_some_and(|ifindex| ifindex != LOOPBACK);
        let want_action = Hook::Xdp.action(want.verdict(), redirected);
        if counted == [(want.reason, 1)] && action == want_action && output == want.output {
            return Ok(want.reason);
        }
        let way = &want.way;
        Err(format!(
            "the program counted {counted:?}, returned {action} and gave\n  {output:02x?}\n\
             the model said {:?}, {want_action} and\n  {:02x?}\n{way:#?}",
            want.reason, want.output
        ))
    }
}

/// Health, ways and generations change, as they do in life.
fn change(world: &mut World, random: &mut Random) {
    for healthy in world.health.values_mut() {
        *healthy = !random.once_in(4);
    }
    let plain = World::default();
    world.nexthops = plain.nexthops;
    for hop in world.nexthops.values_mut() {
        match (random.below(8), hop) {
            (0, hop) => *hop = Err("no neighbour".into()),
            (1, Ok(hop)) => hop.mtu = random.of(&[576, 1280, 1520, 9000, 65536]),
            (2, Ok(hop)) => hop.mac[0] ^= 4,
            _ => {}
        }
    }
    let mut prefix = |text: &str| random.once_in(2).then(|| text.parse().unwrap());
    let (spread4, spread6) = (prefix("172.16.0.0/16"), prefix("2001:db8::/112"));
    world.sources = Sources { spread4, spread6, ..Sources::default() };
    for pool in world.model.pools.values_mut() {
        pool.generation = pool.generation.wrapping_add(random.below(3) as u16).max(1);
    }
}

/// The kernel may keep a flow table per CPU.
fn stay_on_this_cpu() {
    let mut cpus = CpuSet::new();
    cpus.set(nix::sched::sched_getcpu().unwrap()).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
}
