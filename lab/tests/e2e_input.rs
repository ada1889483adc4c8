//! `lab up` where it cannot work, and where it does not get to its end.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::{Lab, figure, text};

#[test]
#[ignore = "needs root"]
fn without_root_lab_up_says_so_in_a_line() {
    let Some(lab) = Lab::new("without root") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("opening it");
    let program = folder.path().join("lab");
    fs::copy(env!("CARGO_BIN_EXE_lab"), &program).expect("copying lab");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["up", "--name", &lab.name])
        .output()
        .expect("running setpriv");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "lab: lab needs root (namespaces, XDP); run it with sudo\n");
    assert!(!lab.paths.folder.exists() && !lab.paths.cgroup.exists());
}

/// Programs are hidden in a mount namespace of this command only.
#[test]
#[ignore = "needs root"]
fn missing_programs_are_named_with_their_packages_in_a_line() {
    let Some(lab) = Lab::new("missing programs") else { return };
    let hidden: Vec<String> = ["bird", "gobgpd"]
        .iter()
        .filter_map(|program| {
            let folders = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];
            let found = folders.iter().map(|folder| format!("{folder}/{program}"));
            found.into_iter().find(|path| fs::exists(path).is_ok_and(|exists| exists))
        })
        .collect();
    let hide: String = hidden.iter().map(|path| format!("mount --bind /dev/null {path} && ")).collect();
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c"])
        .arg(format!("{hide} exec \"$0\" up --name {}", lab.name))
        .arg(env!("CARGO_BIN_EXE_lab"))
        .env("LB_BIN", common::lb())
        .output()
        .expect("running unshare");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said, "lab: lab up needs: bird (apt install bird2); gobgpd (apt install gobgpd)\n");
    assert!(!lab.paths.folder.exists() && !lab.paths.cgroup.exists());
}

#[test]
#[ignore = "needs root"]
fn wrong_lab_file_and_setting_are_named_with_their_place() {
    let Some(lab) = Lab::new("wrong lab file") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("x.yaml").display().to_string();
    fs::write(&file, "lb4: 3\nlb5: 4\n").expect("writing the lab file");
    for (arguments, place) in [
        (["up", &file], format!("{file}:2:1: ")),
        (["up", "--set=lb4=0"], "lb4: 0 is out of range; choose 1 to 100\n".to_owned()),
    ] {
        let output = lab.run(&arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.starts_with(&format!("lab: {place}")), "{said}");
    }
    assert!(!lab.paths.folder.exists() && !lab.paths.cgroup.exists());
}

/// With agents, daemons and all, at moments from the first namespace to the first request.
#[test]
#[ignore = "needs root"]
fn lab_down_removes_what_a_killed_lab_up_left() {
    let Some(lab) = Lab::new("killed lab up") else { return };
    for milliseconds in [60, 300, 700, 1500] {
        let arguments = ["up", "--set", "lb4=3", "--set", "lb7=4", "--set", "servers=3"];
        let mut up = lab.command(&arguments).spawn().expect("running lab up");
        thread::sleep(Duration::from_millis(milliseconds));
        up.kill().expect("killing lab up");
        up.wait().expect("waiting for it");
        let namespaces: BTreeSet<u64> = fs::read_dir(lab.paths.folder.join("ns"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| fs::metadata(entry.path()).ok())
            .map(|namespace| namespace.ino())
            .collect();
        let down = lab.run(&["down"]);
        assert!(down.status.success(), "{}", text(&down.stderr));
        assert!(!lab.paths.folder.exists() && !lab.paths.cgroup.exists(), "after {milliseconds} ms");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        assert!(!mounts.contains(&lab.name), "after {milliseconds} ms: {mounts}");
        let left = processes_in(&namespaces);
        assert!(left.is_empty(), "after {milliseconds} ms: {left:?}");
        figure(&format!("lab up killed after {milliseconds} ms: namespaces removed"), namespaces.len());
    }
}

fn processes_in(namespaces: &BTreeSet<u64>) -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("reading /proc").flatten();
    processes
        .map(|entry| entry.path())
        .filter(|process| {
            let inode = |kind| fs::metadata(process.join("ns").join(kind)).map(|found| found.ino());
            ["net", "mnt", "uts"].iter().any(|kind| inode(*kind).is_ok_and(|ino| namespaces.contains(&ino)))
        })
        .map(|process| process.display().to_string())
        .collect()
}
