//! Programs beside the agents on machines made by hand.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[allow(unused_imports)] // not every test program needs others
pub use lb_test_support::has_programs as has;

use super::wires::Machine;

/// A program on a machine; it ends with the value.
pub struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    /// Starts what this command says, which must `exec` what is to end with it.
    pub fn start(machine: &Machine, command: &str) -> Self {
        let spawn = || {
            let mut shell = Command::new("sh");
            shell
                .args(["-ec", command])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
        };
        Program(machine.inside(spawn).expect("a program"))
    }

    /// Hangs: it keeps its sockets and does nothing. Or goes on.
    pub fn hang(&self, hangs: bool) {
        let signal = if hangs { Signal::SIGSTOP } else { Signal::SIGCONT };
        kill(Pid::from_raw(self.0.id() as i32), signal).expect("a signal");
    }

    /// A BIRD at 10.1.0.`number` that has these neighbours in its network, all of one AS. It includes `lb.conf` of the folder,
    /// where its socket `bird.ctl` is, too.
    pub fn bird(machine: &Machine, folder: &Path, number: u8, neighbours: &[u8]) -> Self {
        let folder = folder.display();
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
{peers}include \"{folder}/lb.conf\";
"
        );
        fs::write(format!("{folder}/lb.conf"), "").expect("a file");
        fs::write(format!("{folder}/bird.conf"), text).expect("a configuration");
        Self::start(
            machine,
            &format!("exec bird -f -c {folder}/bird.conf -s {folder}/bird.ctl -P {folder}/bird.pid"),
        )
    }
}
