//! Tells the program which commit it was built from, for reports: `LAB_COMMIT`.

use std::process::Command;

fn main() {
    // Where a work tree keeps these differs; both change with each commit, checkout and merge.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file]) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    for folder in ["build.rs", "src"] {
        println!("cargo::rerun-if-changed={folder}");
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let is_changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|said| !said.is_empty());
    println!("cargo::rustc-env=LAB_COMMIT={commit}{}", if is_changed { "+changes" } else { "" });
}

/// What git prints; `None` outside of a checkout.
fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
