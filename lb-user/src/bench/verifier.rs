//! How many states of registers and stack the verifier kept of a program.
//!
//! The kernel tells that in the log only, and aya hands the log out only if a program is refused. So it is: without
//! room for another descriptor the kernel refuses it as the last thing, when it has been verified.

use std::collections::BTreeMap;
use std::io;

use anyhow::{Context, Result};
use aya::programs::{Program, ProgramError};
use aya::{EbpfLoader, VerifierLogLevel};

/// Of all programs of an object, by name. Nothing else of the process may open files meanwhile.
pub fn states(object: &[u8]) -> Result<BTreeMap<String, u32>> {
    let loaded = EbpfLoader::new().verifier_log_level(VerifierLogLevel::STATS).load(object);
    let mut loaded = loaded.context("loading an object for the verifier")?;
    let mut all = BTreeMap::new();
    for (name, program) in loaded.programs_mut() {
        let refused = without_descriptors(|| match program {
            Program::Xdp(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            _ => Ok(()),
        })?;
        if let Err(ProgramError::LoadError { verifier_log, .. }) = refused
            && let Some(states) = parse(&verifier_log.to_string())
        {
            all.insert(name.to_owned(), states);
        }
    }
    Ok(all)
}

/// Does something while the process can open no file.
fn without_descriptors<T>(work: impl FnOnce() -> T) -> io::Result<T> {
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one rlimit, which lives here.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut before) } != 0 {
        return Err(io::Error::last_os_error());
    }
    set(libc::rlimit { rlim_cur: 0, ..before })?;
    let done = work();
    set(before)?;
    Ok(done)
}

fn set(limit: libc::rlimit) -> io::Result<()> {
    // SAFETY: the kernel reads one rlimit, which lives here.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// From `processed 10766 insns (limit 1000000) max_states_per_insn 4 total_states 310 peak_states 308 mark_read 41`.
fn parse(log: &str) -> Option<u32> {
    let line = log.lines().rev().find(|line| line.starts_with("processed "))?;
    let mut words = line.split_whitespace().skip_while(|word| *word != "total_states");
    words.nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_log_is_understood() {
        let log = "verification time 5036 usec\nstack depth 72+8\nprocessed 10766 insns (limit 1000000) \
                   max_states_per_insn 4 total_states 310 peak_states 308 mark_read 41\n";
        assert_eq!(parse(log), Some(310));
        assert_eq!(parse("processed nothing"), None);
    }
}
