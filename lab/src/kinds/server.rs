//! S1…: nginx behind the PROXY protocol, answering with its name; `lab serve` for transfers; `lb agent` answers HAProxy's
//! agent check.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;

use crate::agent;
use crate::patience::ANSWER;
use crate::plan::{NodePlan, ProcessPlan};
use crate::serve::bulk;
use crate::topology::Node;

/// Where servers listen.
pub const PORT: u16 = 88;

const CONFIG: &str = "/etc/nginx/nginx.conf";

pub fn plan(node: &Node) -> NodePlan {
    NodePlan {
        files: vec![(CONFIG.to_owned(), nginx(&node.name)), (agent::CONFIG.to_owned(), agent::server(node))],
        folders: vec!["/run/nginx".to_owned(), agent::FOLDER.to_owned()],
        processes: vec![
            ProcessPlan::new("nginx", &format!("nginx -e stderr -c {CONFIG}")),
            ProcessPlan::new("bulk", &format!("lab serve bulk {}", node.name)),
            agent::process(),
        ],
        ..NodePlan::default()
    }
}

fn nginx(name: &str) -> String {
    format!(
        "daemon off;
master_process off;
pid /run/nginx/nginx.pid;
error_log stderr;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  keepalive_timeout 1h;
  keepalive_time 24h;
  keepalive_requests 1000000;
  default_type text/plain;
  client_body_temp_path /run/nginx/body;
  proxy_temp_path /run/nginx/proxy;
  fastcgi_temp_path /run/nginx/fastcgi;
  uwsgi_temp_path /run/nginx/uwsgi;
  scgi_temp_path /run/nginx/scgi;
  server {{
    listen [::]:{PORT} proxy_protocol ipv6only=on backlog=1024;
    set_real_ip_from ::/0;
    real_ip_header proxy_protocol;
    add_header X-Server {name} always;
    add_header X-Client $proxy_protocol_addr always;
    add_header X-Echo $request_uri always;
    location / {{ return 200 \"{name}\\n\"; }}
  }}
}}
"
    )
}

pub fn health(node: &Node, lb: &Path) -> Vec<String> {
    let mut reasons = agent::health(lb);
    for (process, port) in [("nginx", PORT), ("bulk", bulk::PORT)] {
        let address = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port);
        if let Err(error) = TcpStream::connect_timeout(&address, ANSWER) {
            let name = &node.name;
            reasons.push(format!("{process} of {name} does not accept connections on port {port}: {error}"));
        }
    }
    reasons
}
