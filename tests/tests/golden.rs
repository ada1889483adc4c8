//! Golden values, and that the kernel computes what userspace does: flow hash, row, and digest of a table.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use aya::Ebpf;
use aya::maps::Array;
use aya::programs::Xdp;
use lb_common::digest;
use lb_common::flow::{self, Addr, Flow, golden};
use lb_tests::isolation;
use lb_tests::vector::{Context, run};
use lb_user::dataplane::tables::Tables;
use lb_user::model::Generation;
use lb_user::table::{self, NO_OWNER, Row, host_id};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const OBJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../lb-user/prebuilt/golden.o");
/// `XDP_PASS`: the program wrote its answer.
const PASS: u32 = 2;

fn object() -> Ebpf {
    let mut ebpf = Ebpf::load_file(OBJECT).unwrap();
    for name in ["golden_hash", "golden_digest"] {
        program(&mut ebpf, name).load().unwrap();
    }
    ebpf
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut Xdp {
    ebpf.program_mut(name).unwrap().try_into().unwrap()
}

/// The answer's 32-bit words after the request's, which are `HashRequest`'s (lb-ebpf/src/bin/golden/main.rs).
fn hash_in_kernel(ebpf: &mut Ebpf, seed: u64, flow: &Flow, rows: u32) -> (u32, u32) {
    let mut request = seed.to_ne_bytes().to_vec();
    request.extend(flow.source.octets());
    request.extend(flow.destination.octets());
    for word in [flow.ports, flow.protocol.into(), flow.v6.into(), rows, 0, 0] {
        request.extend(word.to_ne_bytes());
    }
    let (action, answer) = run(program(ebpf, "golden_hash"), &request, &Context::Plain).unwrap();
    assert_eq!(action, PASS);
    let word = |at: usize| u32::from_ne_bytes(answer[at..at + 4].try_into().unwrap());
    (word(56), word(60))
}

fn tcp(source: &str, destination: &str) -> Flow {
    let (source, destination): (SocketAddr, SocketAddr) =
        (source.parse().unwrap(), destination.parse().unwrap());
    Flow {
        source: source.ip().into(),
        destination: destination.ip().into(),
        ports: Flow::ports(source.port(), destination.port()),
        protocol: 6,
        v6: source.is_ipv6(),
    }
}

#[test]
#[ignore = "needs root"]
fn the_kernel_finds_the_golden_hashes() {
    if !isolation::can_run("golden hashes") {
        return;
    }
    let mut ebpf = object();
    let flows = [
        (tcp("203.0.113.1:40000", "198.51.100.1:80"), golden::HASH4),
        (tcp("[2001:db8::cb00:7101]:40000", "[2001:db8::c633:6401]:80"), golden::HASH6),
    ];
    for (flow, want) in flows {
        assert_eq!(flow::hash(0, &flow), want);
        for rows in [1, 2, 251, 65537, 655_373] {
            let row = (u64::from(want) * u64::from(rows)) >> 32;
            assert_eq!(hash_in_kernel(&mut ebpf, 0, &flow, rows), (want, row as u32), "{rows} rows");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn kernel_and_userspace_hash_alike() {
    if !isolation::can_run("hashes of random flows") {
        return;
    }
    let ebpf = std::cell::RefCell::new(object());
    let any_flow = (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<(u32, u8, bool)>()).prop_map(
        |(source, destination, (ports, protocol, v6))| {
            let address = |octets: [u8; 16]| match v6 {
                true => Addr::from_octets(octets),
                false => IpAddr::from([octets[0], octets[1], octets[2], octets[3]]).into(),
            };
            Flow { source: address(source), destination: address(destination), ports, protocol, v6 }
        },
    );
    let config = Config { cases: 5000, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&(any_flow, any::<u64>(), 1u32..), |(flow, seed, rows)| {
        let hash = flow::hash(seed, &flow);
        let have = hash_in_kernel(&mut ebpf.borrow_mut(), seed, &flow, rows);
        prop_assert_eq!(have, (hash, flow::row(hash, rows)));
        Ok(())
    });
    result.unwrap();
}

/// Pools of `hosts` hosts with `weights` different weights, as in the golden test of lb-user's tables.
fn pool(hosts: usize, weights: u32) -> Generation {
    let weight = |number| 1 + number as u32 % weights;
    Generation {
        number: 1,
        hosts: (1..=hosts).map(|number| (format!("lb7-{number}"), weight(number))).collect(),
    }
}

/// Slots that are neither in the order of names nor dense.
fn slots(pool: &Generation) -> BTreeMap<String, u16> {
    pool.hosts.keys().rev().enumerate().map(|(number, name)| (name.clone(), 3 * number as u16 + 5)).collect()
}

#[test]
#[ignore = "needs root"]
fn the_kernel_finds_the_golden_digests_of_tables() {
    if !isolation::can_run("golden digests") {
        return;
    }
    const SEED: u64 = 0xfeed_f00d_dead_beef;
    let pools = [
        ((1, 1, 0, 251), 0x42d0_4bf9_a716_7b3c),
        ((13, 1, 0, 251), 0x548c_7ef0_3b38_bd47),
        ((13, 7, 0, 251), 0x1449_fc6f_1665_6a2f),
        ((13, 7, SEED, 65537), 0xf453_80df_db41_3dfb),
        ((1000, 7, 0, 65537), 0xfbab_27d9_7f24_7b1c),
        ((13, 1, 0, 655_373), 0xcb24_7baf_b1c4_433c),
    ];
    let mut ebpf = object();
    let mut tables = Tables::new(ebpf.take_map("TABLES").unwrap()).unwrap();
    let mut host_ids = Array::<_, u64>::try_from(ebpf.take_map("HOST_IDS").unwrap()).unwrap();
    for (case @ (hosts, weights, seed, size), golden) in pools {
        let pool = pool(hosts, weights);
        let slots = slots(&pool);
        let ids: BTreeMap<u16, u64> = slots.iter().map(|(name, slot)| (*slot, host_id(name))).collect();
        for (slot, id) in &ids {
            host_ids.set(u32::from(*slot), id, 0).unwrap();
        }
        let rows = table::rows(std::slice::from_ref(&pool), seed, size, &slots).unwrap().rows;
        tables.put(2, &rows).unwrap();
        assert_eq!(table::digest(&rows, |slot| ids[&slot]), golden, "computed: {case:?}");
        assert_eq!(tables.digest(2, size, |slot| ids[&slot]).unwrap(), Some(golden), "read: {case:?}");
        assert_eq!(digest_in_kernel(&mut ebpf, 2, size), golden, "in BPF: {case:?}");
    }
}

#[test]
#[ignore = "needs root"]
fn one_changed_place_changes_the_digest_in_the_kernel() {
    if !isolation::can_run("digest of a changed table") {
        return;
    }
    let mut ebpf = object();
    let mut tables = Tables::new(ebpf.take_map("TABLES").unwrap()).unwrap();
    let mut rows: Vec<Row> = vec![[NO_OWNER; 4]; 251];
    tables.put(0, &rows).unwrap();
    let empty = digest_in_kernel(&mut ebpf, 0, 251);
    let folded = (0..251 * 4).fold(digest::START, |state, _| digest::step(state, digest::NO_HOST));
    assert_eq!(empty, folded);
    // Slot 7 has no id here, so counts as nobody: what tells tables apart are hosts, not slots.
    rows[250][3] = 7;
    tables.put(0, &rows).unwrap();
    assert_eq!(digest_in_kernel(&mut ebpf, 0, 251), empty);
    let mut host_ids = Array::<_, u64>::try_from(ebpf.take_map("HOST_IDS").unwrap()).unwrap();
    host_ids.set(7, 1, 0).unwrap();
    assert_ne!(digest_in_kernel(&mut ebpf, 0, 251), empty);
}

/// Runs `golden_digest` until all rows are folded. The request is its `DigestRequest`: state, table, first, rows, done.
fn digest_in_kernel(ebpf: &mut Ebpf, table: u32, rows: u32) -> u64 {
    let (mut state, mut first) = (digest::START, 0u32);
    while first < rows {
        let mut request = state.to_ne_bytes().to_vec();
        for word in [table, first, rows, 0] {
            request.extend(word.to_ne_bytes());
        }
        let (action, answer) = run(program(ebpf, "golden_digest"), &request, &Context::Plain).unwrap();
        assert_eq!(action, PASS);
        state = u64::from_ne_bytes(answer[..8].try_into().unwrap());
        let done = u32::from_ne_bytes(answer[20..24].try_into().unwrap());
        assert!(done > 0);
        first += done;
    }
    state
}
