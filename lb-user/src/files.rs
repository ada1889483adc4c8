//! Files that are there as a whole, or not at all.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Replaces a file in one step and sees that it is on the disk; makes its folder. Other users cannot read a new one.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    put(path, content, 0o600)
}

/// The same with a file that other users' programs are to read.
pub fn publish(path: &Path, content: &[u8]) -> io::Result<()> {
    put(path, content, 0o644)
}

fn put(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut new = tempfile::Builder::new().prefix(".lb-").suffix(".new").tempfile_in(folder)?;
    new.as_file().set_permissions(Permissions::from_mode(mode))?;
    new.write_all(content)?;
    new.as_file().sync_all()?;
    new.persist(path)?;
    File::open(folder)?.sync_all()
}
