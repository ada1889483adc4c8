//! The packet vectors again, on the oldest kernel that the README names: Debian's 6.1, in an emulated machine (`scripts/vm`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use lb_test_support::skip;
use lb_tests::isolation::can_run;

/// Test programs that load all programs, and run them; and tests that this kernel is too old for: programs at TC are for
/// Linux 6.6 and newer.
const PROGRAMS: [(&str, &str); 3] = [
    ("director_vectors", ""),
    ("host_vectors", "--skip the_tc_program_does_the_same"),
    ("second_chance", "--skip a_packet_is_passed_on_only_as_far_as_it_can_be"),
];
/// Seconds; emulated, they take a tenth of that.
const LIMIT: &str = "600";

#[test]
#[ignore = "long: an emulated machine; needs root"]
fn vectors_hold_on_the_oldest_kernel() {
    const NAME: &str = "vectors on the oldest kernel";
    if !can_run(NAME) {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the checkout");
    let mut command = Command::new(root.join("scripts/vm"));
    command.args(["--limit", LIMIT, "--", "bash", "-ec"]);
    let beside = std::env::current_exe().expect("this program");
    let folder = beside.parent().expect("its folder");
    let run = |(name, skip): &(&str, &str)| {
        format!("{} --include-ignored {skip} --show-output\n", newest(folder, name).display())
    };
    let script = format!("uname -r\n{}", PROGRAMS.iter().map(run).collect::<String>());
    let output = command.arg(script).current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("bash");
    let [said, problems] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    if let Some(reason) = ["needs: apt install", "cannot fetch", "no package linux-image"]
        .iter()
        .find_map(|known| problems.lines().find(|line| line.contains(known)))
    {
        skip(NAME, reason);
        return;
    }
    assert!(output.status.success(), "{said}\n{problems}");
    assert!(said.starts_with("6.1."), "not the kernel that is meant: {said}");
    let passed = said.lines().filter(|line| line.starts_with("test result: ok.")).count();
    assert_eq!(passed, PROGRAMS.len(), "{said}");
}

/// The latest build of a test program, as cargo names it: with a hash behind.
fn newest(folder: &Path, name: &str) -> PathBuf {
    let built = |path: &PathBuf| {
        fs::metadata(path).and_then(|file| file.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
    };
    let is_it = |path: &PathBuf| {
        let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
        path.extension().is_none() && file.rsplit_once('-').is_some_and(|(before, _)| before == name)
    };
    let entries = fs::read_dir(folder).expect("the folder of test programs");
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_it);
    paths.max_by_key(built).unwrap_or_else(|| panic!("no test program {name} in {}", folder.display()))
}
