//! The committed BPF objects belong to the sources beside them, and copy no memory byte by byte.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionKind, SymbolKind};

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

/// The objects of `scripts/build`.
const OBJECTS: [&str; 4] = ["director", "host", "golden", "bench"];

/// What the compiler calls where it does not write loads and stores itself. In BPF each is a loop over bytes.
const BYTE_LOOPS: [&str; 5] = ["memset", "memcpy", "memmove", "memcmp", "bcmp"];

/// Calls of functions of the object, as caller and callee.
fn calls(bytes: &[u8]) -> Vec<(String, String)> {
    /// `BPF_JMP | BPF_CALL` and, in the upper half of the register byte, `BPF_PSEUDO_CALL`.
    const CALL: u8 = 0x85;
    const OF_THE_OBJECT: u8 = 1;
    let elf = ElfFile64::<Endianness>::parse(bytes).expect("an ELF file");
    // The function of a section that an offset lies in.
    let function = |section, offset: u64| {
        let holds = |symbol: &object::read::elf::ElfSymbol64<Endianness>| {
            symbol.kind() == SymbolKind::Text
                && symbol.section_index() == Some(section)
                && (symbol.address()..symbol.address() + symbol.size()).contains(&offset)
        };
        let found = elf.symbols().find(holds);
        found.and_then(|symbol| symbol.name().ok()).unwrap_or("a function without a name").to_owned()
    };
    let mut calls = Vec::new();
    for section in elf.sections().filter(|section| section.kind() == SectionKind::Text) {
        let relocations: Vec<_> = section.relocations().collect();
        let code = section.data().expect("code");
        for (index, instruction) in code.chunks_exact(8).enumerate() {
            if instruction[0] != CALL || instruction[1] >> 4 != OF_THE_OBJECT {
                continue;
            }
            let at = index as u64 * 8;
            let relative = i64::from(i32::from_le_bytes(instruction[4..].try_into().expect("four bytes")));
            let target = relocations.iter().find(|(offset, _)| *offset == at).map(|(_, it)| it.target());
            let callee = match target {
                Some(RelocationTarget::Symbol(symbol)) => {
                    let symbol = elf.symbol_by_index(symbol).expect("a symbol");
                    let base = symbol.address() as i64;
                    function(
                        symbol.section_index().expect("of a section"),
                        (base + (relative + 1) * 8) as u64,
                    )
                }
                _ => function(section.index(), (at as i64 + (relative + 1) * 8) as u64),
            };
            calls.push((function(section.index(), at), callee));
        }
    }
    calls
}

#[test]
fn no_program_copies_or_clears_memory_byte_by_byte() {
    for object in OBJECTS {
        let bytes = fs::read(root().join(format!("lb-user/prebuilt/{object}.o"))).unwrap();
        let loops: Vec<_> = calls(&bytes)
            .into_iter()
            .filter(|(_, callee)| {
                BYTE_LOOPS.contains(&callee.as_str()) || callee.contains("compiler_builtins")
            })
            .collect();
        assert!(loops.is_empty(), "{object}.o: {loops:?}; read and write the fields one by one instead");
    }
}

/// That it finds nothing must not be because it sees no calls.
#[test]
fn calls_are_seen_by_caller_and_callee() {
    let bytes = fs::read(root().join("lb-user/prebuilt/director.o")).unwrap();
    let calls = calls(&bytes);
    let seen = |from: &str, to: &str| {
        assert!(
            calls.iter().any(|(caller, callee)| caller.ends_with(from) && callee.ends_with(to)),
            "{calls:?}"
        );
    };
    seen("director", "4icmp5icmp4");
    seen("4icmp5icmp4", "5pools5found");
    assert!(calls.iter().all(|(_, callee)| !callee.contains("without a name")), "{calls:?}");
}
