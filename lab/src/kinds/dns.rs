//! dns: gdnsd answers for example.org with the VIPs that an external file and its own checks call healthy.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::kinds::users;
use crate::plan::{NodePlan, ProcessPlan};
use crate::topology::{Topology, vips};

const FOLDER: &str = "/etc/gdnsd";
const EXTERNAL: &str = "/etc/lb/ext";

/// Name → numbers of the VIPs it stands for.
const NAMES: [(&str, &[u8]); 3] = [("www", &[1, 2, 3, 4]), ("www1", &[1, 2]), ("www2", &[3, 4])];

pub fn plan(topology: &Topology) -> NodePlan {
    NodePlan {
        files: vec![
            (format!("{FOLDER}/config"), config()),
            (format!("{FOLDER}/zones/example.org"), zone()),
            (EXTERNAL.to_owned(), vips().iter().map(|vip| format!("{vip} => UP\n")).collect()),
        ],
        folders: vec!["/run/gdnsd/state".to_owned()],
        routes: users::default_routes(topology),
        processes: vec![ProcessPlan::new("gdnsd", &format!("gdnsd -c {FOLDER} start"))],
        ..NodePlan::default()
    }
}

fn config() -> String {
    let resources: String = NAMES
        .iter()
        .map(|(name, numbers)| {
            let list = |v4: bool| {
                let all: Vec<IpAddr> = vips().into_iter().filter(|vip| vip.is_ipv4() == v4).collect();
                numbers.iter().map(|n| all[usize::from(*n) - 1].to_string()).collect::<Vec<_>>().join(", ")
            };
            format!("    {name} => {{ addrs_v4 => [ {} ], addrs_v6 => [ {} ] }}\n", list(true), list(false))
        })
        .collect();
    format!(
        "options => {{
  listen => any
  run_dir => /run/gdnsd
  state_dir => /run/gdnsd/state
  udp_threads => 1
  tcp_threads => 1
}}
service_types => {{
  file => {{ plugin => extfile, file => {EXTERNAL}, direct => true }}
  healthcheck => {{
    plugin => http_status, port => 80, url_path => /healthcheck,
    interval => 5, timeout => 2, up_thresh => 1, ok_thresh => 1, down_thresh => 5
  }}
}}
plugins => {{
  multifo => {{
    service_types => [ file, healthcheck ]
{resources}  }}
}}
"
    )
}

fn zone() -> String {
    let mut text = "@ 3600 SOA dns hostmaster 1 3600 600 86400 60
@ 3600 NS dns
dns 3600 A 192.0.2.3
dns 3600 AAAA 2001:db8::c000:203
"
    .to_owned();
    for (name, _) in NAMES {
        text.push_str(&format!("{name} 60 DYNA multifo!{name}\n"));
    }
    text
}

pub fn health() -> Vec<String> {
    match answers_for_www() {
        Ok(0) => vec!["gdnsd has no address for www.example.org".to_owned()],
        Ok(_) => vec![],
        Err(error) => vec![format!("{error:#}")],
    }
}

/// How many addresses the server has for `www.example.org`.
fn answers_for_www() -> Result<u16> {
    let socket = UdpSocket::bind("127.0.0.1:0").context("no loopback in the dns node")?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    socket.connect("127.0.0.1:53")?;
    socket.send(&query()).context("gdnsd does not listen on port 53")?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).context("gdnsd does not answer on port 53")?;
    ensure!(length >= 12 && answer[..2] == query()[..2], "gdnsd answers something else than DNS");
    Ok(u16::from_be_bytes([answer[6], answer[7]]))
}

/// `www.example.org. A IN`, identified by 0x6c62.
fn query() -> Vec<u8> {
    let mut query = vec![0x6c, 0x62, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["www", "example", "org", ""] {
        query.push(u8::try_from(label.len()).expect("short labels"));
        query.extend(label.as_bytes());
    }
    query.extend([0, 1, 0, 1]);
    query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn www1_stands_for_the_first_two_vips_in_both_families() {
        let text = config();
        assert!(
            text.contains(
                "www1 => { addrs_v4 => [ 198.51.100.1, 198.51.100.2 ], addrs_v6 => [ 2001:db8::c633:6401, 2001:db8::c633:6402 ] }"
            ),
            "{text}"
        );
        assert!(zone().contains("www2 60 DYNA multifo!www2\n"));
    }

    #[test]
    fn query_is_29_bytes_plus_the_name() {
        assert_eq!(query().len(), 12 + 17 + 4);
    }
}
