//! A flood of questions from one network, and a client of another one.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use lb_test_support::PATIENCE;
use serde_json::Value;

use super::world::Agent;

/// `www.example.org`, A, with its header.
const QUESTION: &[u8] =
    b"\xab\xcd\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x07example\x03org\x00\x00\x01\x00\x01";

/// A client at an address of its own.
fn client(address: &str, agent: &Agent) -> UdpSocket {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(agent.address).unwrap();
    socket
}

/// Whether the next answer has addresses, or says "come by TCP".
fn is_whole(socket: &UdpSocket) -> Option<bool> {
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).ok()?;
    assert_eq!(answer[..2], QUESTION[..2]);
    let (truncated, answers) = (answer[2] & 2 != 0, answer[7]);
    assert_eq!(truncated, answers == 0, "{:?}", &answer[..length]);
    Some(!truncated)
}

#[test]
fn a_flood_gets_its_share_and_others_are_served() {
    let agent = Agent::start(
        "
  rate_limit: {rate: 20, slip: 2, window: 5s}
  zones:
    example.org:
      ns: [ns.example.net.]
      names: {www: {members: [192.0.2.1]}}
",
    );
    // Another loopback network than the one of the flood.
    let (flooder, honest) = (client("127.9.0.1", &agent), client("127.0.0.1", &agent));
    let started = Instant::now();
    let (mut served, mut whole, mut slipped) = (0, 0, 0);
    flooder.set_nonblocking(true).unwrap();
    for round in 0..5000 {
        flooder.send(QUESTION).unwrap();
        while let Some(is_whole) = is_whole(&flooder) {
            *if is_whole { &mut whole } else { &mut slipped } += 1;
        }
        // It stays below its own limit.
        if round % 500 == 0 {
            honest.send(QUESTION).unwrap();
            served += u32::from(is_whole(&honest) == Some(true));
        }
    }
    let took = started.elapsed();
    flooder.set_nonblocking(false).unwrap();
    flooder.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    while let Some(is_whole) = is_whole(&flooder) {
        *if is_whole { &mut whole } else { &mut slipped } += 1;
    }
    println!(
        "figure: of 5000 questions of a network in {took:?}, {whole} were answered, {slipped} told to come by TCP"
    );
    assert_eq!(served, 10, "a client of another network");
    assert!(whole >= 20 && f64::from(whole) <= 20.0 * (took.as_secs_f64() + 2.0), "{whole} in {took:?}");
    let status: Value = serde_json::from_str(&agent.lb(&["dns", "status", "--format", "json"])).unwrap();
    let counter = |name: &str| status["counters"][name].as_u64().unwrap();
    // Some may have found the flooder's queue full.
    assert!(counter("rate_slipped") as u32 >= slipped);
    let (told, dropped) = (counter("rate_slipped"), counter("rate_dropped"));
    assert!(told > 100 && (told / 2..told * 2).contains(&dropped), "each second one: {told} and {dropped}");
}
