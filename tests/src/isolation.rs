//! What keeps tests apart from the machine: their own network and mounts, and a reason where they cannot run.

use std::path::Path;
use std::process::Command;

use aya::programs::ProgramType;
use lb_test_support::{is_root, skip};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Whether BPF programs can be run here; skips the test otherwise.
pub fn can_run(test: &str) -> bool {
    if !is_root(test) {
        return false;
    }
    match aya::sys::is_program_supported(ProgramType::Xdp) {
        Ok(true) => return true,
        Ok(false) => skip(test, "the kernel has no XDP programs"),
        Err(error) => skip(test, format_args!("the kernel refuses BPF programs: {error}")),
    }
    false
}

/// Runs `test` in a thread with a network of its own, where `lo` is up, and a BPF file system of its own, whose path it
/// gets. All of it is gone afterwards, also when the test panics: nothing but the thread refers to it.
pub fn isolated(test: impl FnOnce(&Path) + Send) {
    let folder = tempfile::tempdir().unwrap();
    let run = || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        // Mounts of this thread must not appear outside.
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("bpf"), folder.path(), Some("bpf"), MsFlags::empty(), none).unwrap();
        ip("link set lo up");
        test(folder.path());
    };
    let result = std::thread::scope(|scope| scope.spawn(run).join());
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` in the network of this thread and returns what it printed.
pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
