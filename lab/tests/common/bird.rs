//! A BIRD on a machine made by hand.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wires::Machine;

/// A BIRD of a machine; it ends with the value.
pub struct Bird(Child);

impl Drop for Bird {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether BIRD is there; if not, says so.
pub fn has_bird(test: &str) -> bool {
    let there = Command::new("bird").arg("--version").output().is_ok();
    if !there {
        println!("skipped: {test}: bird is missing; run: sudo scripts/setup");
    }
    there
}

impl Bird {
    /// Has it stand still, or go on: it holds what it had, and takes nothing new.
    pub fn stands_still(&self, still: bool) {
        let signal = if still { Signal::SIGSTOP } else { Signal::SIGCONT };
        kill(Pid::from_raw(self.0.id() as i32), signal).expect("a signal");
    }

    /// Starts it at 10.1.0.`number`, with these neighbours; it includes `lb.conf` of the folder, where its socket `bird.ctl` is, too.
    pub fn start(machine: &Machine, folder: &Path, number: u8, neighbours: &[u8]) -> Self {
        let include = folder.join("lb.conf");
        fs::write(&include, "").expect("a file");
        let peer = |neighbour: &u8| {
            format!(
                "protocol bgp peer{neighbour} {{
  local 10.1.0.{number} as 65000;
  neighbor 10.1.0.{neighbour} as 65000;
  direct;
  connect delay time 1; connect retry time 1; error wait time 1, 2;
  ipv4 {{ import all; export where source != RTS_BGP; next hop self; }};
}}
"
            )
        };
        let peers: String = neighbours.iter().map(peer).collect();
        let text = format!(
            "log stderr all;\nrouter id 10.1.0.{number};\nprotocol device {{}}
protocol kernel {{ ipv4 {{ export where proto != \"lb_vips4\"; }}; }}
{peers}include \"{}\";
",
            include.display()
        );
        fs::write(folder.join("bird.conf"), text).expect("a configuration");
        let command =
            format!("exec bird -f -c {0}/bird.conf -s {0}/bird.ctl -P {0}/bird.pid", folder.display());
        let spawn = || Command::new("sh").args(["-c", &command]).stderr(Stdio::null()).spawn();
        Bird(machine.inside(spawn).expect("bird"))
    }
}
