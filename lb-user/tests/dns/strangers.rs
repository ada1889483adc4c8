//! What whoever reaches a listener can take from the agent: no line of its log, no more descriptors than its share.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::world::{Agent, eventually, free_address, has_dig};
use super::www;

#[test]
fn what_strangers_send_is_not_in_the_log() {
    let (agent, _first, _second) = www();
    let before = agent.read("log").len();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    // DAU, of which a library writes a line per byte; and the same by TCP.
    let mut packet =
        b"\xab\xcd\x00\x00\x00\x01\x00\x00\x00\x00\x00\x01\x03ns1\x07example\x03org\x00\x00\x01\x00\x01"
            .to_vec();
    packet.extend([0, 0, 41, 16, 0, 0, 0, 0, 0]);
    packet.extend(3904u16.to_be_bytes());
    packet.extend([0, 5]);
    packet.extend(3900u16.to_be_bytes());
    packet.extend([0xff; 3900]);
    let mut answer = [0; 512];
    for _ in 0..20 {
        socket.send_to(&packet, agent.address).unwrap();
        assert!(socket.recv(&mut answer).unwrap() > 12);
        assert_eq!(answer[3] & 15, 0, "NOERROR");
    }
    let mut stream = TcpStream::connect(agent.address).unwrap();
    stream.write_all(&(packet.len() as u16).to_be_bytes()).unwrap();
    stream.write_all(&packet).unwrap();
    assert!(stream.read(&mut answer).unwrap() > 0);
    // Not a line more, but for what checks of its own say.
    let log = agent.read("log");
    assert!(log.len() < before + 1000, "{}", &log[before..log.len().min(before + 2000)]);
}

/// Many connections that say nothing, from an address that may not ask and from one that may.
#[test]
#[ignore = "needs dig"]
fn idle_connections_leave_the_agent_its_descriptors() {
    const MANY: usize = 1100;
    if !has_dig() {
        return;
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    assert!(hard > 2 * MANY as u64, "this test needs {} descriptors of its own", 2 * MANY);
    for (allow, most) in [("[192.0.2.0/24]", 8), ("[127.0.0.1]", 32)] {
        let peers = free_address();
        let dns = format!(
            "\n  zones: {{example.org: {{file: DIR/zone}}}}\npeers: {{listen: \"{peers}\", allow: {allow}}}\n"
        );
        let agent = Agent::start(&dns);
        let idle: Vec<TcpStream> = (0..MANY).map(|_| TcpStream::connect(peers).unwrap()).collect();
        eventually("all but a share are closed again", || {
            idle.iter().filter(|stream| is_open(stream)).count() <= most
        });
        let descriptors = agent.descriptors();
        assert!(descriptors < 60 + most, "{descriptors}, of which some 30 are the agent's own");
        assert_eq!(agent.addresses("www.example.org"), ["192.0.2.1"]);
        assert_eq!(agent.addresses("www.example.org +tcp"), ["192.0.2.1"]);
        assert!(agent.lb(&["dns", "status"]).contains("example.org"), "the API answers");
    }
}

/// Nothing has been said on it, not even that it is over.
fn is_open(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    matches!(stream.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}
