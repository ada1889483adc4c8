//! The director's program against the plain model, on packets that nobody thought of.

use lb_common::reasons::Director;
use lb_tests::vector::{self, Bench, Context};
use lb_tests::world::World;
use lb_tests::{director_vectors, isolation, model};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

const CASES: u32 = 20_000;

/// A change to a packet.
#[derive(Clone, Debug)]
enum Change {
    Byte(usize, u8),
    Bit(usize, u8),
    Copy(usize, usize, usize),
    Cut(usize),
    Extend(usize),
}

/// Mostly near the headers.
fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (12usize..100, any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        4 => (12usize..100, 0u8..8).prop_map(|(at, bit)| Change::Bit(at, bit)),
        2 => (14usize..100, 14usize..100, 1usize..17).prop_map(|(from, to, len)| Change::Copy(from, to, len)),
        1 => (14usize..120).prop_map(Change::Cut),
        1 => (1usize..40).prop_map(Change::Extend),
    ]
}

fn apply(packet: &mut Vec<u8>, change: &Change) {
    let len = packet.len();
    match *change {
        Change::Byte(at, byte) => packet[at % len] = byte,
        Change::Bit(at, bit) => packet[at % len] ^= 1 << bit,
        Change::Copy(from, to, bytes) if from.max(to) + bytes <= len => {
            packet.copy_within(from..from + bytes, to)
        }
        Change::Copy(..) => {}
        Change::Cut(at) => packet.truncate(at.max(14)),
        Change::Extend(by) => packet.resize(len + by, 0xa5),
    }
}

/// A vector's packet, more or less changed, or noise behind an EtherType.
fn packets(known: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changed = (prop::sample::select(known), vec(change(), 0..5)).prop_map(|(mut packet, changes)| {
        changes.iter().for_each(|change| apply(&mut packet, change));
        packet
    });
    let noise = (prop::sample::select(vec![[8, 0], [0x86, 0xdd]]), vec(any::<u8>(), 0..120))
        .prop_map(|(ethertype, bytes)| [&[2; 12][..], &ethertype, &bytes].concat());
    prop_oneof![9 => changed, 1 => noise]
}

#[test]
fn the_program_does_what_the_model_says() {
    if !isolation::can_run("differential test of the director") {
        return;
    }
    let world = World::default();
    let mut director = world.director().unwrap();
    let known = director_vectors::all(&world).into_iter();
    let plain = known.filter(|v| matches!(v.context, Context::Plain)).map(|v| v.packet).collect();
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let mut reasons = std::collections::BTreeMap::new();
    let start = std::time::Instant::now();
    let mut before = director.counters().unwrap();
    // The runner takes `Fn`, since it may shrink.
    let cell = std::cell::RefCell::new((&mut director, &mut before, &mut reasons));
    let result = runner.run(&packets(plain), |packet| {
        let (director, before, reasons) = &mut *cell.borrow_mut();
        let want = model::director(&world, &packet);
        let run = director.run(&packet, &Context::Plain);
        let (action, output) = run.map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
        let after = director.counters().unwrap();
        let counted = vector::counted::<Director>(before, &after);
        **before = after;
        prop_assert_eq!(&counted, &vec![(want.reason, 1)]);
        prop_assert_eq!(action, want.action, "{:?}", want.reason);
        prop_assert_eq!(output, want.output, "{:?}", want.reason);
        *reasons.entry(want.reason).or_insert(0) += 1;
        Ok(())
    });
    println!("{CASES} packets in {:.1?}: {reasons:?}", start.elapsed());
    result.unwrap();
    // A generator that reached few reasons would prove little.
    assert!(reasons.len() >= 15, "only {reasons:?}");
}
