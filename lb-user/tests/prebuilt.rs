//! The committed BPF objects belong to the sources beside them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const ADVICE: &str = "run scripts/build --bpf";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Lines of digest and path, as `sha256sum` writes and checks them.
fn noted() -> String {
    let file = root().join("lb-user/prebuilt/sources.sha256");
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}; {ADVICE}", file.display()))
}

fn add_sources(folder: &Path, sources: &mut BTreeSet<String>) {
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let path = folder.join(entry.unwrap().file_name());
        let extension = path.extension().and_then(|extension| extension.to_str());
        if root().join(&path).is_dir() {
            // Tests of the common crate are in no object.
            if !["lb-ebpf/target", "lb-ebpf/common/tests"].map(Path::new).contains(&&*path) {
                add_sources(&path, sources);
            }
        } else if matches!(extension, Some("rs" | "toml")) || path.ends_with("Cargo.lock") {
            sources.insert(path.to_str().unwrap().to_owned());
        }
    }
}

#[test]
fn every_source_of_the_objects_is_noted_and_no_other() {
    let mut sources = BTreeSet::new();
    add_sources(Path::new("lb-ebpf"), &mut sources);
    let noted: BTreeSet<String> = noted()
        .lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(_, path)| path.to_owned())
        .filter(|path| path.starts_with("lb-ebpf/"))
        .collect();
    assert_eq!(noted, sources, "{ADVICE}");
}

#[test]
fn objects_are_of_the_sources_as_they_are() {
    noted();
    let check = Command::new("sha256sum")
        .args(["--check", "--quiet", "--strict", "lb-user/prebuilt/sources.sha256"])
        .current_dir(root())
        .output()
        .unwrap();
    let differences = String::from_utf8_lossy(&check.stdout);
    assert!(check.status.success(), "{ADVICE}; these changed since:\n{differences}");
}
