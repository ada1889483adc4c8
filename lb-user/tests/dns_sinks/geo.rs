//! Where clients are, by an agent and by gdnsd, from the same file.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;

use lb_user::bgp::Prefix;
use lb_user::dns::policy::mix;

use super::agents::Node;
use super::mmdb::mmdb;
use super::servers::{Server, dig, isolated, wait_until};

const AGENT: &str = "dns:
  listen: \"127.0.0.11:5300\"
  geo: {file: GEO, networks: {10.0.0.0/8: DE, 10.64.0.0/10: US-CA, \"2a00:77::/32\": FR}}
  zones:
    example.org:
      ns: [ns1.example.net.]
      names:
        www:
          policy: geo
          members:
            - {address: 192.0.2.1, regions: EU}
            - {address: 192.0.2.2, regions: DE}
            - {address: 192.0.2.3, regions: US}
            - {address: 192.0.2.4, regions: US-CA}
            - 192.0.2.5
";

const GDNSD: &str = "options => { listen => 127.0.0.1:5300, run_dir => FOLDER/run, state_dir => FOLDER/state,
  udp_threads => 1, tcp_threads => 1 }
plugins => { geoip => {
  maps => { world => {
    geoip2_db => GEO
    datacenters => [ rest, europe, germany, states, california ]
    map => {
      default => [ rest ]
      EU => { default => [ europe ], DE => [ germany ] }
      NA => { default => [ rest ], US => { default => [ states ], CA => [ california ] } }
    }
    nets => { 10.0.0.0/8 => [ germany ], 10.64.0.0/10 => [ california ], 2a00:77::/32 => [ europe ] }
  } }
  resources => { www => {
    map => world
    dcmap => { europe => 192.0.2.1, germany => 192.0.2.2, states => 192.0.2.3, california => 192.0.2.4, rest => 192.0.2.5 }
  } }
} }";

/// A network somewhere, one in five close to 10.0.0.0 or 2a00:77::; where neither IPv4 is hidden in IPv6.
fn network(roll: &mut u64, longest: [u8; 2]) -> Prefix {
    let mut next = |below: u64| {
        *roll = mix(*roll);
        *roll % below
    };
    let close = next(5) == 0;
    let (address, length): (IpAddr, _) = if next(2) == 0 {
        let first = if close { 10 } else { 1 + next(222) };
        let bits = (first << 24 | next(1 << 24)) as u32;
        (Ipv4Addr::from_bits(bits).into(), 6 + next(u64::from(longest[0]) - 5))
    } else {
        let first = if close { 0x2a00_0077 } else { 0x2a00_0000 + next(1 << 20) };
        let bits = u128::from(first) << 96 | u128::from(next(1 << 32)) << 64;
        (Ipv6Addr::from_bits(bits).into(), 18 + next(u64::from(longest[1]) - 17))
    };
    Prefix { address, length: length as u8 }.network()
}

/// What a server says to each client, in their order.
fn answers(server: &str, clients: &str) -> Vec<String> {
    let output = Command::new("dig")
        .args([&format!("@{server}"), "-p", "5300", "+short", "+tries=3", "+time=5", "-f", clients])
        .output()
        .expect("dig");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
#[ignore = "needs root"]
fn an_agent_and_gdnsd_choose_the_same_by_the_same_file() {
    isolated("an agent and gdnsd choose the same by the same file", &["gdnsd", "dig"], || async {
        let places = ["EU DE", "EU FR", "NA US CA", "NA US NY", "NA CA ON", "AS JP", "EU DE BY", "EU"];
        let mut roll = std::process::id().into();
        println!("seed: {roll}");
        let networks: Vec<Prefix> = (0..400).map(|_| network(&mut roll, [28, 56])).collect();
        let entries: Vec<String> = networks
            .iter()
            .zip(places.iter().cycle())
            .map(|(network, place)| format!("{network} {place}"))
            .collect();
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("geo.mmdb");
        fs::write(&file, mmdb("Test-City", &entries)).expect("a file");
        let file = file.display().to_string();

        let node = Node::start("127.0.0.11", &AGENT.replace("GEO", &file)).await;
        let mut server =
            Server::new(&["gdnsd", "-c", "FOLDER", "start"], &[("config", GDNSD.replace("GEO", &file))]);
        server.sh("mkdir FOLDER/zones FOLDER/run FOLDER/state");
        let zone = "@ 300 SOA ns1 hostmaster 1 3600 600 86400 30\n@ 300 NS ns1\nns1 300 A 127.0.0.1\nwww 60 DYNA geoip!www\n";
        fs::write(server.folder.path().join("zones/example.org"), zone).expect("a zone");
        server.start();
        wait_until("gdnsd answers", || dig("www.example.org", "A").len() == 1).await;

        // Some in the networks of the file, some around, some so short that they hold several.
        let clients: Vec<String> = (0..800)
            .map(|number| {
                let anywhere = network(&mut roll, [32, 64]);
                let network = networks[number % networks.len()];
                let of_file = Prefix { length: (network.length + number as u8 % 5).min(32), ..network };
                if number % 2 == 0 { anywhere.to_string() } else { of_file.to_string() }
            })
            .collect();
        let questions: String =
            clients.iter().map(|client| format!("www.example.org A +subnet={client}\n")).collect();
        let list = folder.path().join("questions");
        fs::write(&list, questions).expect("a list");
        let list = list.display().to_string();
        let [ours, theirs] = ["127.0.0.11", "127.0.0.1"].map(|server| answers(server, &list));
        assert_eq!([ours.len(), theirs.len()], [clients.len(); 2], "one address for each");
        let differ: Vec<String> = (0..clients.len())
            .filter(|i| ours[*i] != theirs[*i])
            .map(|i| {
                format!(
                    "{}: {} here, {} by gdnsd\n{}",
                    clients[i],
                    ours[i],
                    theirs[i],
                    node.lb(&["dns", "explain", "www.example.org", "--type", "A", "--from", &clients[i]])
                )
            })
            .collect();
        assert!(differ.is_empty(), "{}", differ.join("\n"));
        for last in 1..=5 {
            let address = format!("192.0.2.{last}");
            assert!(
                ours.iter().filter(|other| **other == address).count() > 10,
                "{address} is hardly ever chosen"
            );
        }
    });
}
