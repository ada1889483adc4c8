//! The lab for real: namespaces, processes, cleanup. Needs root.
//!
//! The agent is a stand-in here: a script that answers `lb status` and announces nothing. What is tested is the
//! lab, whole requests are the end-to-end tests' business.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use lb_test_support::{PATIENCE, check, is_root, skip, this_test, wait_until};
use serde_json::Value;

/// A lab of a unique name, removed when dropped.
struct Lab {
    name: String,
    folder: tempfile::TempDir,
}

impl Lab {
    /// `None`, with the reason printed, where labs cannot run.
    fn new(test: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !is_root(test) {
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let agent = folder.path().join("lb");
        let script = "#!/bin/sh\n\
                      [ \"$1\" = status ] && { echo '{\"ready\":true,\"reasons\":[]}'; exit 0; }\n\
                      exec sleep 1000\n";
        fs::write(&agent, script).expect("writing the stand-in agent");
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).expect("making it executable");
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Some(Self { name: format!("t{}-{count}", std::process::id()), folder })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        command.arg(args[0]).args(["--name", &self.name]).args(&args[1..]);
        command.env("LB_BIN", self.folder.path().join("lb"));
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("running lab")
    }

    /// Brings the smallest useful lab up, without waiting; skips (`false`) where a program is missing.
    fn up(&self) -> bool {
        // What answers names by itself: the agents of these labs do nothing.
        let output = self.run(&["up", &small(), "--set", "bgp=bird", "--set", "dns=gdnsd", "--wait", "none"]);
        let said = text(&output.stderr);
        if said.contains("lab up needs:") {
            skip(&this_test(), said.trim());
            return false;
        }
        assert!(output.status.success(), "{said}");
        true
    }

    fn exec(&self, node: &str, command: &[&str]) -> Output {
        self.run(&[&["exec", node, "--"], command].concat())
    }

    fn status(&self) -> Value {
        serde_json::from_slice(&self.run(&["status", "--format", "json"]).stdout).expect("status is JSON")
    }

    /// Everything on this machine that bears the lab's name.
    fn remains(&self) -> Vec<String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("reading mountinfo");
        let mut found: Vec<String> =
            mounts.lines().filter(|line| line.contains(&self.name)).map(str::to_owned).collect();
        let cgroups = lab::paths::cgroup2_mount().expect("cgroup2").join(format!("lab-{}", self.name));
        let places = [PathBuf::from("/run/lab").join(&self.name), cgroups];
        found.extend(places.iter().filter(|place| place.exists()).map(|place| place.display().to_string()));
        found.extend(self.agents());
        found
    }

    /// Running stand-ins of this lab; they carry the lab's temporary folder in their command line or path.
    fn agents(&self) -> Vec<String> {
        let folder = self.folder.path().display().to_string();
        let processes = fs::read_dir("/proc").expect("reading /proc").flatten();
        processes
            .filter_map(|entry| fs::read(entry.path().join("environ")).ok())
            .map(|environment| text(&environment))
            .filter(|environment| environment.contains(&format!("PATH={folder}:")))
            .collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let output = self.run(&["down"]);
        if !thread::panicking() {
            assert!(output.status.success(), "{}", text(&output.stderr));
        }
    }
}

fn small() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/labs/small.yaml").display().to_string()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until `is_true`.
#[track_caller]
fn wait_for(what: &str, mut is_true: impl FnMut() -> bool) {
    wait_until(what, PATIENCE, || check(is_true(), "it is not"));
}

#[test]
#[ignore = "needs root"]
fn nodes_have_their_own_name_network_files_and_bpffs() {
    let Some(lab) = Lab::new("nodes_have_their_own_name_network_files_and_bpffs") else { return };
    if !lab.up() {
        return;
    }
    assert_eq!(text(&lab.exec("LB4-1", &["hostname"]).stdout), "lb4-1\n");
    assert_eq!(text(&lab.exec("s2", &["cat", "/etc/hostname"]).stdout), "s2\n");
    let configuration = text(&lab.exec("lb4-1", &["cat", "/etc/lb/lb.yaml"]).stdout);
    assert!(configuration.contains("source4: 192.0.2.132"), "{configuration}");
    lab.exec("lb7-1", &["touch", "/etc/lb/disable", "/run/only-here"]);
    assert!(!Path::new("/etc/lb/disable").exists() && !Path::new("/run/only-here").exists());
    assert!(!lab.exec("lb7-2", &["test", "-e", "/etc/lb/disable"]).status.success());
    assert!(lab.exec("lb7-1", &["sh", "-c", "grep -q ' /sys/fs/bpf bpf ' /proc/mounts"]).status.success());
    let interfaces = text(&lab.exec("lb7-1", &["ls", "/sys/class/net"]).stdout);
    assert_eq!(interfaces.split_whitespace().collect::<Vec<_>>(), ["eth0", "eth1", "lo"]);
}

#[test]
#[ignore = "needs root"]
fn exit_status_of_the_command_is_ours_and_unknown_nodes_are_named() {
    let Some(lab) = Lab::new("exit_status_of_the_command_is_ours_and_unknown_nodes_are_named") else {
        return;
    };
    if !lab.up() {
        return;
    }
    assert_eq!(lab.exec("users", &["sh", "-c", "exit 42"]).status.code(), Some(42));
    let output = lab.exec("lb4-9", &["true"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("has no node lb4-9; there are: users internet dns r1"));
}

#[test]
#[ignore = "needs root"]
fn bgp_brings_the_way_back_to_l7_hosts_over_both_routers() {
    let Some(lab) = Lab::new("bgp_brings_the_way_back_to_l7_hosts_over_both_routers") else { return };
    if !lab.up() {
        return;
    }
    for (family, users) in [("-4", "203.0.113.0/24"), ("-6", "2001:db8::cb00:7100/120")] {
        wait_for("two next hops to the users", || {
            let route = lab.exec("lb7-1", &["ip", family, "route", "show", users]);
            text(&route.stdout).matches("nexthop via").count() == 2
        });
    }
    // A VIP announced by hand is spread over both routers by internet.
    let announce = "echo 'protocol static lb_vips4 { ipv4; route 198.51.100.1/32 blackhole; }' \
                    > /etc/lb/bird/lb.conf && birdc -s /run/bird/bird.ctl configure";
    assert!(lab.exec("lb4-1", &["sh", "-c", announce]).status.success());
    wait_for("two next hops to the VIP", || {
        let route = lab.exec("internet", &["ip", "route", "show", "198.51.100.1"]);
        text(&route.stdout).matches("nexthop via").count() == 2
    });
    let route = text(&lab.exec("r1", &["ip", "route", "show", "198.51.100.1"]).stdout);
    assert!(route.contains("via 192.0.2.132 "), "{route}");
}

#[test]
#[ignore = "needs root"]
fn haproxy_passes_requests_to_servers_which_see_the_user() {
    let Some(lab) = Lab::new("haproxy_passes_requests_to_servers_which_see_the_user") else { return };
    if !lab.up() {
        return;
    }
    // Straight to the L7 host's own address: no director is needed for that.
    let curl = ["curl", "-si", "-m", "2", "--interface", "203.0.113.7", "http://192.0.2.134/"];
    let mut answer = String::new();
    wait_for("an answer of lb7-1", || {
        answer = text(&lab.exec("users", &curl).stdout).to_lowercase();
        answer.contains("x-l7: lb7-1")
    });
    assert!(answer.contains("x-client: 203.0.113.7"), "{answer}");
    assert!(answer.contains("\r\n\r\ns1\n") || answer.contains("\r\n\r\ns2\n"), "{answer}");
}

#[test]
#[ignore = "needs root"]
fn dns_answers_with_the_vips() {
    let Some(lab) = Lab::new("dns_answers_with_the_vips") else { return };
    if !lab.up() {
        return;
    }
    let dig = ["dig", "+short", "+time=1", "+tries=1", "www2.example.org", "AAAA"];
    wait_for("both addresses of www2", || {
        let mut addresses: Vec<_> =
            text(&lab.exec("users", &dig).stdout).lines().map(str::to_owned).collect();
        addresses.sort();
        addresses == ["2001:db8::c633:6403", "2001:db8::c633:6404"]
    });
}

#[test]
#[ignore = "needs root"]
fn status_names_a_dead_process_and_the_second_up_names_it_too() {
    let Some(lab) = Lab::new("status_names_a_dead_process_and_the_second_up_names_it_too") else { return };
    if !lab.up() {
        return;
    }
    let again = ["up", &small(), "--set", "bgp=bird", "--set", "dns=gdnsd", "--wait", "none"];
    let second = lab.run(&again);
    assert_eq!(second.status.code(), Some(0), "{}", text(&second.stderr));
    lab.exec("s1", &["sh", "-c", "kill -9 $(cat /run/nginx/nginx.pid)"]);
    wait_for("nginx of s1 to be seen dead", || {
        let status = lab.status();
        let node = status["nodes"].as_array().unwrap().iter().find(|node| node["name"] == "s1").unwrap();
        node["ready"] == false && node["reasons"][0].as_str().unwrap().starts_with("nginx is dead, see ")
    });
    let second = lab.run(&["up", &small(), "--set", "bgp=bird", "--set", "dns=gdnsd", "--set", "lb4=3"]);
    assert_eq!(second.status.code(), Some(1));
    let said = text(&second.stderr);
    assert!(said.contains("lb4: 2 is running, 3 is asked for"), "{said}");
    assert!(said.contains("s1: nginx is dead"), "{said}");
}

#[test]
#[ignore = "needs root"]
fn down_leaves_nothing_and_can_be_repeated() {
    let Some(lab) = Lab::new("down_leaves_nothing_and_can_be_repeated") else { return };
    if !lab.up() {
        return;
    }
    assert!(!lab.remains().is_empty());
    let down = lab.run(&["down"]);
    assert!(down.status.success(), "{}", text(&down.stderr));
    assert_eq!(lab.remains(), Vec::<String>::new());
    let again = lab.run(&["down"]);
    assert!(again.status.success() && text(&again.stderr).contains("nothing to remove"));
}

#[test]
#[ignore = "needs root"]
fn down_removes_what_a_killed_up_left_at_any_moment() {
    let Some(lab) = Lab::new("down_removes_what_a_killed_up_left_at_any_moment") else { return };
    for milliseconds in [2, 10, 20, 40, 60, 90, 130, 180, 240] {
        let mut up = lab.command(&["up", &small(), "--wait", "none"]);
        let mut up = up.stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("running lab up");
        thread::sleep(Duration::from_millis(milliseconds));
        up.kill().expect("killing lab up");
        up.wait().expect("waiting for lab up");
        let down = lab.run(&["down"]);
        assert!(down.status.success(), "{}", text(&down.stderr));
        assert_eq!(lab.remains(), Vec::<String>::new(), "killed after {milliseconds} ms");
    }
}

#[test]
#[ignore = "needs root"]
fn unprivileged_up_says_what_it_needs_in_one_line() {
    let Some(lab) = Lab::new("unprivileged_up_says_what_it_needs_in_one_line") else { return };
    let binary = lab.folder.path().join("lab");
    fs::copy(env!("CARGO_BIN_EXE_lab"), &binary).expect("copying lab");
    fs::set_permissions(lab.folder.path(), fs::Permissions::from_mode(0o755)).expect("opening the folder");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&binary)
        .args(["up", "--name", &lab.name])
        .output()
        .expect("running setpriv");
    assert_eq!(text(&output.stderr), "lab: lab needs root (namespaces, XDP); run it with sudo\n");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
#[ignore = "needs root"]
fn missing_agent_is_said_before_anything_is_touched() {
    let Some(lab) = Lab::new("missing_agent_is_said_before_anything_is_touched") else { return };
    let output = lab.run(&["up", "--lb", "/nowhere/lb"]);
    let said = text(&output.stderr);
    assert!(
        said.contains("the agent, not found at /nowhere/lb (scripts/build, or lab up --lb PATH)"),
        "{said}"
    );
    assert_eq!(lab.remains(), Vec::<String>::new());
}

#[test]
#[ignore = "needs root"]
fn bridges_wake_the_links_that_programs_send_on_and_do_not_flood() {
    let Some(lab) = Lab::new("bridges_wake_the_links_that_programs_send_on_and_do_not_flood") else { return };
    if !lab.up() {
        return;
    }
    let paths = lab::paths::Paths::new(&lab.name).expect("paths");
    let ports = lab::namespace::enter(&paths, "switch", || {
        Command::new("ip").args(["-d", "-o", "link", "show", "type", "veth"]).output().expect("running ip")
    })
    .expect("entering the switch");
    let ports = text(&ports.stdout);
    let port = |name: &str| ports.lines().find(|line| line.contains(&format!(": {name}@"))).expect("a port");
    for sender in ["lb4-1.0", "lb7-1.0"] {
        assert!(port(sender).contains("prog/xdp"), "{}", port(sender));
    }
    for other in ["r1.0", "lb7-1.1", "s1.0", "users.0"] {
        assert!(!port(other).contains("prog/xdp"), "{}", port(other));
    }
    assert!(ports.lines().all(|line| line.contains(" flood off ")), "{ports}");
    assert!(port("lb4-1.0").contains("mtu 1600") && port("users.0").contains("mtu 1500"));
}
