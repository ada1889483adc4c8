//! `lab run` beside an operator: one at a time, and whatever becomes of it, the lab is as it was and the operator's own
//! changes are there.

mod common;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use common::{Lab, check, figure, text, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Only what hangs takes this long.
const PATIENCE: Duration = Duration::from_secs(120);

/// BIRD on all directors is up soonest.
const SETS: [&str; 6] = ["lb4=3", "lb7=3", "servers=2", "reflectors=1", "bgp=bird", "manifest=true"];

/// A `lab run` in the background, whose timeline does one thing and then waits for ten minutes.
struct Run {
    child: Child,
    said: PathBuf,
    _folder: tempfile::TempDir,
}

impl Run {
    /// Comes back when the action has begun.
    #[track_caller]
    fn start(lab: &Lab, action: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("x.yaml");
        let scenario = format!("timeline:\n  - {{at: 200ms, do: \"{action}\"}}\nduration: 10m\n");
        fs::write(&file, scenario).expect("writing the scenario");
        let said = folder.path().join("said");
        let output = File::create(&said).expect("a file");
        let child = lab
            .command(&["run", &file.display().to_string(), "--connections=10"])
            .stdout(output.try_clone().expect("the same file"))
            .stderr(output)
            .stdin(Stdio::null())
            .spawn()
            .expect("running lab run");
        let run = Self { child, said, _folder: folder };
        run.await_words(&format!(" s: {action}\n"));
        run
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default()
    }

    #[track_caller]
    fn await_words(&self, words: &str) {
        wait_until(words, PATIENCE, || {
            let said = self.said();
            check(said.contains(words), said)
        });
    }

    /// Sends it a signal and waits for its end; its exit status and what it has said.
    fn end(mut self, signal: Signal) -> (Option<i32>, String) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("a signal");
        let status = self.child.wait().expect("waiting for lab run");
        (status.code(), self.said())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for_change(lab: &Lab, what: &str, is_there: impl Fn(&Lab) -> bool) {
    wait_until(what, PATIENCE, || check(is_there(lab), "not yet"));
}

fn is_dead(lab: &Lab, node: &str) -> bool {
    lab.state().processes[node].iter().all(|process| !process.is_running())
}

fn is_halted(lab: &Lab, node: &str) -> bool {
    let state = lab.state();
    let agent = state.processes[node].iter().find(|process| process.name == "lb-agent").expect("an agent");
    let stat = fs::read_to_string(format!("/proc/{}/stat", agent.pid)).unwrap_or_default();
    stat.contains(") T ")
}

fn attribute(lab: &Lab, node: &str, name: &str) -> String {
    text(&lab.exec(node, &["cat", &format!("/sys/class/net/eth0/{name}")]).stdout).trim().to_owned()
}

fn exists(lab: &Lab, node: &str, file: &str) -> bool {
    lab.exec(node, &["test", "-e", file]).status.success()
}

/// Hosts of the pool and their states, as nodes are to have them.
fn pool(lab: &Lab) -> String {
    let shown = lab.sh("lb4-1", "lb pool show --format json");
    let pools: Value = serde_json::from_str(&shown).expect("pools");
    let text = pools.to_string();
    assert!(text.contains("lb7-2"), "{text}");
    ["active", "drain"]
        .map(|state| format!("{state}: {}", text.matches(&format!("\"{state}\"")).count()))
        .join(", ")
}

type Done = fn(&Lab) -> bool;

/// What each action does, and how one sees that it is done.
const ACTIONS: [(&str, Done); 7] = [
    ("power-off lb4-1", |lab| is_dead(lab, "lb4-1")),
    ("kill lb7-1", |lab| is_dead(lab, "lb7-1")),
    ("stop lb4-2", |lab| is_halted(lab, "lb4-2")),
    ("link-down lb4-2", |lab| attribute(lab, "lb4-2", "operstate") == "down"),
    // Below 1280 the kernel takes the IPv6 addresses away.
    ("mtu lb7-1 1000", |lab| attribute(lab, "lb7-1", "mtu") == "1000"),
    ("disable lb4-3", |lab| exists(lab, "lb4-3", "/etc/lb/disable")),
    ("lb drain lb7-2", |lab| pool(lab).contains("drain: 1")),
];

#[test]
fn what_a_killed_run_has_left_the_next_command_puts_back() {
    let Some((lab, _)) = Lab::up("killed runs", &SETS) else { return };
    let sets: Vec<String> = SETS.iter().map(|set| format!("--set={set}")).collect();
    let up: Vec<&str> = ["up"].into_iter().chain(sets.iter().map(String::as_str)).collect();
    let before = pool(&lab);
    for (action, is_done) in ACTIONS {
        let run = Run::start(&lab, action);
        wait_for_change(&lab, action, is_done);
        let (status, _) = run.end(Signal::SIGKILL);
        assert_eq!(status, None, "killed");
        let seen = text(&lab.run(&["status"]).stdout);
        assert!(
            seen.contains("a lab run was killed and has not put back what it changed: "),
            "{action}: {seen}"
        );
        let output = lab.run(&up);
        let said = text(&output.stderr);
        assert!(output.status.success() && said.contains("restored: "), "{action}: {said}");
        let seen = text(&lab.run(&["status"]).stdout);
        assert!(!seen.contains("was killed") && !seen.contains("not ready"), "{action}: {seen}");
        assert!(!is_done(&lab), "{action} is undone");
        assert_eq!(pool(&lab), before, "{action}");
    }
    // The next run does the same, and lab down needs nothing of it.
    let run = Run::start(&lab, "kill lb4-1");
    wait_for_change(&lab, "kill", |lab| is_dead(lab, "lb4-1"));
    run.end(Signal::SIGKILL);
    let run = Run::start(&lab, "disable lb4-2");
    let said = run.said();
    assert!(
        said.contains("was killed and did not put back what it had changed") && !is_dead(&lab, "lb4-1"),
        "{said}"
    );
    // One that is at work goes with the lab.
    let down = lab.run(&["down"]);
    assert!(down.status.success(), "{}", text(&down.stderr));
    assert!(text(&down.stderr).contains("ending lab run (process "), "{}", text(&down.stderr));
    assert!(!lab.paths.folder.exists() && !lab.paths.cgroup.exists());
}

#[test]
fn interrupted_run_puts_back_what_it_changed_and_nothing_else() {
    let Some((lab, _)) = Lab::up("interrupted runs", &SETS) else { return };
    // The operator's own.
    lab.sh("lb4-1", "echo '# mine' >> /etc/lb/lb.yaml");
    lab.sh("lb4-1", "lb weight lb7-2 3");
    lab.sh("lb4-2", "touch /etc/lb/disable");
    let run = Run::start(&lab, "upgrade lb4-1");
    wait_until("the upgraded agent is there", PATIENCE, || {
        check(lab.config("lb4-1").contains("capacity"), lab.config("lb4-1"))
    });
    let (status, said) = run.end(Signal::SIGINT);
    assert_eq!(status, Some(130), "{said}");
    assert!(said.contains("x (second-chance): interrupted") && said.contains("ended by SIGINT"), "{said}");
    assert!(said.contains("restored: lb4-1: /etc/lb/lb.yaml as it was"), "{said}");
    let config = lab.config("lb4-1");
    assert!(config.ends_with("# mine\n") && !config.contains("capacity"), "{config}");

    let run = Run::start(&lab, "lb drain lb7-1");
    wait_for_change(&lab, "the drained host", |lab| pool(lab).contains("drain: 1"));
    let (status, said) = run.end(Signal::SIGTERM);
    assert_eq!(status, Some(143), "{said}");
    let pools = lab.sh("lb4-1", "cat /etc/lb/shared/manifest.yaml");
    assert!(pools.contains("weight: 3") && !pools.contains("state: drain"), "{pools}");
    assert!(exists(&lab, "lb4-2", "/etc/lb/disable"), "who has disabled it enables it");
    lab.sh("lb4-2", "rm /etc/lb/disable");

    // What the operator does to the same things meanwhile stays.
    let run = Run::start(&lab, "agent-check lb7-3 ready");
    // Until its action has ended, what is there counts as the run's.
    wait_for_change(&lab, "the end of the action", |lab| {
        let log = fs::read_to_string(lab.paths.folder.join("undo.json")).unwrap_or_default();
        log.contains("agent-check") && !log.contains("\"after\": null")
    });
    lab.sh("lb7-3", "echo up > /etc/lb/agent-check");
    let (status, said) = run.end(Signal::SIGINT);
    assert_eq!(status, Some(130), "{said}");
    assert!(said.contains("not /etc/lb/agent-check of lb7-3: somebody else has changed it since"), "{said}");
    assert_eq!(lab.sh("lb7-3", "cat /etc/lb/agent-check"), "up\n");
}

#[test]
fn second_run_is_refused_with_who_runs() {
    let Some((lab, _)) = Lab::up("two runs", &SETS) else { return };
    let run = Run::start(&lab, "kill lb4-3");
    let holder = format!("lab {} is in use by process {} (lab run ", lab.name, run.child.id());
    for arguments in [&["run", "03"][..], &["up"]] {
        let output = lab.run(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains(&holder) && said.contains(", since "), "{arguments:?}: {said}");
    }
    let seen = text(&lab.run(&["status"]).stdout);
    assert!(seen.contains(&format!("in use by process {} (lab run ", run.child.id())), "{seen}");
    wait_for_change(&lab, "kill", |lab| is_dead(lab, "lb4-3"));
    let (status, said) = run.end(Signal::SIGTERM);
    assert_eq!(status, Some(143), "{said}");
    assert!(!is_dead(&lab, "lb4-3") && said.contains("restored: lb4-3: started "), "{said}");
}

#[test]
fn second_up_waits_until_every_node_is_ready() {
    let Some((lab, _)) = Lab::up("waiting", &SETS) else { return };
    let sets: Vec<String> = SETS.iter().map(|set| format!("--set={set}")).collect();
    let up = |timeout: &str| {
        let timeout = format!("--timeout={timeout}");
        let mut command = lab.command(&["up", "--format=json", &timeout]);
        command.args(&sets).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    lab.sh("lb4-1", "ip link set eth0 down");
    wait_until("the status knows", PATIENCE, || {
        let status = lab.run(&["status"]);
        check(status.status.code() == Some(1), text(&status.stdout))
    });
    let early = up("1").output().expect("running lab up");
    let said = text(&early.stderr);
    assert_eq!(early.status.code(), Some(1), "{said}");
    assert!(said.contains("lb4-1 is not ready: "), "{said}");
    let summary: Value = serde_json::from_slice(&early.stdout).expect("a summary");
    assert_eq!((&summary["already_up"], &summary["ready"]), (&true.into(), &false.into()), "{summary}");
    let waiting = up("300").spawn().expect("running lab up");
    lab.sh("lb4-1", "ip link set eth0 up");
    let output = waiting.wait_with_output().expect("waiting for lab up");
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    let summary: Value = serde_json::from_slice(&output.stdout).expect("a summary");
    assert_eq!((&summary["already_up"], &summary["ready"]), (&true.into(), &true.into()), "{summary}");
    figure("second lab up: ready after, in ms", &summary["ready_ms"]);
}
