//! BIRD: pieces of configuration, and its control socket.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};

use crate::address::Prefix;
use crate::patience::ANSWER;
use crate::plan::ProcessPlan;
use crate::topology::{INFRA_NET, Node, Prefix4, VIP_NET, net};

/// The site's autonomous system.
pub const SITE_AS: u32 = 65000;
/// The one internet router's.
pub const INTERNET_AS: u32 = 65001;

const CONFIG: &str = "/etc/bird/bird.conf";
const CONTROL: &str = "/run/bird/bird.ctl";

/// An address family, and the reference's timers for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4: hold time 6 s.
    V4,
    /// IPv6: hold time 3 s.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// `4` or `6`.
    pub fn digit(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }

    /// Seconds without a message after which a session is dead, and between messages.
    pub fn timers(self) -> (u32, u32) {
        match self {
            Self::V4 => (6, 2),
            Self::V6 => (3, 1),
        }
    }

    /// The node's address in this family on interface `interface`.
    pub fn address(self, node: &Node, interface: usize) -> IpAddr {
        let addresses = &node.interfaces[interface].addresses;
        let wanted = |address: &IpAddr| address.is_ipv4() == (self == Self::V4);
        addresses.iter().map(|prefix| prefix.address).find(wanted).expect("BGP speakers have both families")
    }

    /// `network` itself or its twin.
    pub fn prefix(self, network: Prefix4) -> Prefix {
        match self {
            Self::V4 => net(network),
            Self::V6 => net(network).twin(),
        }
    }

    /// Everything.
    pub fn default_route(self) -> Prefix {
        match self {
            Self::V4 => Prefix::new(Ipv4Addr::UNSPECIFIED, 0),
            Self::V6 => Prefix::new(Ipv6Addr::UNSPECIFIED, 0),
        }
    }

    /// What routers tell internet, as a filter: the VIPs, each a host route, and the infrastructure.
    pub fn site_routes(self) -> String {
        let bits = if self == Self::V4 { 32 } else { 128 };
        format!("where net ~ [{}{{{bits},{bits}}}, {}]", self.prefix(VIP_NET), self.prefix(INFRA_NET))
    }
}

/// One BGP session of a configuration.
pub struct Session<'a> {
    /// Protocol name without the family's digit.
    pub name: &'a str,
    /// The family carried, over the same family.
    pub family: Family,
    /// Our address.
    pub local: IpAddr,
    /// Our autonomous system.
    pub local_as: u32,
    /// The neighbour's address.
    pub neighbour: IpAddr,
    /// Its autonomous system.
    pub neighbour_as: u32,
    /// Filter expression or `none`.
    pub import: String,
    /// Filter expression or `none`.
    pub export: String,
    /// Further lines of the channel.
    pub channel: &'a str,
    /// Further lines of the protocol.
    pub protocol: &'a str,
}

impl Session<'_> {
    /// The protocol as BIRD reads it. Retries are quick: in a lab, the other side is about to come up.
    pub fn render(&self) -> String {
        let Self {
            name,
            family,
            local,
            local_as,
            neighbour,
            neighbour_as,
            import,
            export,
            channel,
            protocol,
        } = self;
        let digit = family.digit();
        let (hold, keepalive) = family.timers();
        format!(
            "
protocol bgp {name}_{digit} {{
  local {local} as {local_as};
  neighbor {neighbour} as {neighbour_as};
  hold time {hold};
  keepalive time {keepalive};
  connect delay time 1;
  connect retry time 1;
  error wait time 1, 2;
  {protocol}
  ipv{digit} {{ import {import}; export {export}; next hop self; {channel} }};
}}
"
        )
    }
}

/// The head of every configuration: devices, connected networks.
pub fn head(node: &Node) -> String {
    format!(
        "log stderr all;
router id {};
protocol device {{ scan time 60; }}
protocol direct {{ ipv4; ipv6; interface \"eth*\"; }}
",
        node.router_id()
    )
}

/// Puts BGP routes into the kernel, equal ones as one multipath route, and leaves them there when BIRD stops.
pub fn kernel() -> String {
    Family::ALL
        .map(|family| {
            let digit = family.digit();
            format!(
                "protocol kernel kernel{digit} {{
  ipv{digit} {{ import none; export where source = RTS_BGP; }};
  merge paths yes limit 64;
  persist;
  scan time 20;
}}
"
            )
        })
        .concat()
}

/// BFD between internet and routers: a silent neighbour is noticed within a second.
pub const BFD: &str = "protocol bfd { interface \"eth1\" { interval 200 ms; multiplier 5; }; }\n";

/// The files of a BIRD that reads `config`.
pub fn files(config: String) -> Vec<(String, String)> {
    vec![(CONFIG.to_owned(), config)]
}

/// The folder of the control socket.
pub const FOLDER: &str = "/run/bird";

/// BIRD in the foreground.
pub fn process() -> ProcessPlan {
    ProcessPlan::new("bird", &format!("bird -f -c {CONFIG} -s {CONTROL} -P /run/bird/bird.pid"))
}

/// Why BIRD is not ready: it does not answer, or sessions are not up. Call inside the node.
pub fn health() -> Vec<String> {
    match sessions() {
        Err(error) => vec![format!("{error:#}")],
        Ok(sessions) => sessions
            .into_iter()
            .filter(|session| session.state != "up")
            .map(|session| format!("BGP session {} is {} ({})", session.name, session.state, session.info))
            .collect(),
    }
}

struct SessionState {
    name: String,
    state: String,
    info: String,
}

fn sessions() -> Result<Vec<SessionState>> {
    Ok(parse_protocols(&command("show protocols")?))
}

/// Sends one command and returns the answer's text.
fn command(command: &str) -> Result<String> {
    let stream =
        UnixStream::connect(CONTROL).with_context(|| format!("BIRD does not answer on {CONTROL}"))?;
    stream.set_read_timeout(Some(ANSWER))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    read_reply(&mut reader).context("BIRD does not greet")?;
    (&stream).write_all(format!("{command}\n").as_bytes())?;
    read_reply(&mut reader).with_context(|| format!("BIRD does not answer `{command}`"))
}

/// Reads lines up to the one whose four digits are followed by a space.
fn read_reply(reader: &mut impl BufRead) -> Result<String> {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            anyhow::bail!("the connection was closed");
        }
        text.push_str(&line);
        let code = line.as_bytes();
        if code.len() > 4 && code[..4].iter().all(u8::is_ascii_digit) && code[4] == b' ' {
            return Ok(text);
        }
    }
}

/// The BGP lines of `show protocols`.
fn parse_protocols(reply: &str) -> Vec<SessionState> {
    reply
        .lines()
        .map(|line| line.strip_prefix("1002-").unwrap_or(line))
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, "BGP", _table, state, rest @ ..] = words.as_slice() else { return None };
            // "since" is one or two words; what follows is the session's state.
            let info = rest.iter().skip_while(|word| word.starts_with(|c: char| c.is_ascii_digit()));
            Some(SessionState {
                name: (*name).to_owned(),
                state: (*state).to_owned(),
                info: info.copied().collect::<Vec<_>>().join(" "),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLY: &str = "2002-Name       Proto      Table      State  Since         Info
1002-device1    Device     ---        up     01:00:00.123  
 rr1_4      BGP        ---        up     01:00:01.456  Established   
 rr2_4      BGP        ---        start  2026-11-21 01:00:00  Connect       Socket: Connection refused
0000 
";

    #[test]
    fn sessions_are_read_from_show_protocols() {
        let sessions = parse_protocols(REPLY);
        let read: Vec<_> =
            sessions.iter().map(|s| (s.name.as_str(), s.state.as_str(), s.info.as_str())).collect();
        assert_eq!(
            read,
            [("rr1_4", "up", "Established"), ("rr2_4", "start", "Connect Socket: Connection refused")]
        );
    }

    #[test]
    fn reply_ends_at_the_line_with_code_and_space() {
        let mut reader = BufReader::new(format!("{REPLY}0001 next").leak().as_bytes());
        assert_eq!(read_reply(&mut reader).unwrap(), REPLY);
    }

    #[test]
    fn session_renders_addresses_timers_and_filters() {
        let session = Session {
            name: "rr1",
            family: Family::V6,
            local: "2001:db8::1".parse().unwrap(),
            local_as: SITE_AS,
            neighbour: "2001:db8::2".parse().unwrap(),
            neighbour_as: SITE_AS,
            import: "none".to_owned(),
            export: Family::V6.site_routes(),
            channel: "add paths rx;",
            protocol: "",
        };
        let text = session.render();
        assert!(text.contains("protocol bgp rr1_6 {"), "{text}");
        assert!(text.contains("hold time 3;") && text.contains("keepalive time 1;"), "{text}");
        assert!(
            text.contains(
                "ipv6 { import none; export where net ~ [2001:db8::c633:6400/120{128,128}, 2001:db8::c000:280/121]; next hop self; add paths rx; };"
            ),
            "{text}"
        );
    }
}
