//! The Unix socket of the API: one agent per socket, and a stale one is replaced.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another agent answers there.
    #[error("another agent runs and answers at {}; stop it first, or give this one another `api` and `pins`", .0.display())]
    Taken(PathBuf),
    /// The kernel refused.
    #[error("cannot serve the API at {}: {source}; make its folder writable or set `api`", .path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A socket that is there; dropping it removes it, unless another one is there by then.
pub(super) struct Socket {
    path: PathBuf,
    /// Device and inode, by which it is told from another one under the same name.
    identity: (u64, u64),
    listener: UnixListener,
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|socket| (socket.dev(), socket.ino()))
}

/// Makes the socket, readable and writable for owner and group.
///
/// It appears under its name only when it has its permissions and can be connected to.
pub(super) fn bind(path: &Path) -> Result<Socket, SocketError> {
    if UnixStream::connect(path).is_ok() {
        return Err(SocketError::Taken(path.into()));
    }
    let made = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let new = path.with_extension(format!("{}.new", std::process::id()));
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&new)?;
        listener.set_nonblocking(true)?;
        fs::set_permissions(&new, Permissions::from_mode(0o660))?;
        let identity = identity(&new)?;
        fs::rename(&new, path)?;
        Ok((identity, listener))
    };
    match made() {
        Ok((identity, listener)) => Ok(Socket { path: path.into(), identity, listener }),
        Err(source) => Err(SocketError::Io { path: path.into(), source }),
    }
}

impl Socket {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its name leads to it still. Unknown counts as yes.
    pub fn is_there(&self) -> bool {
        match identity(&self.path) {
            Ok(found) => found == self.identity,
            Err(error) => error.kind() != ErrorKind::NotFound,
        }
    }

    /// The listener, for the current Tokio runtime.
    pub fn listen(&self) -> Result<tokio::net::UnixListener, SocketError> {
        let listener = self.listener.try_clone().and_then(tokio::net::UnixListener::from_std);
        listener.map_err(|source| SocketError::Io { path: self.path.clone(), source })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A leftover is replaced by the next agent.
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/agent.sock");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        drop(UnixListener::bind(&path).unwrap());
        let socket = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let taken = bind(&path).err().expect("the first one lives").to_string();
        assert!(taken.starts_with("another agent runs and answers at "), "{taken}");
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_that_was_replaced_is_noticed_and_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let first = bind(&path).unwrap();
        assert!(first.is_there());
        fs::remove_file(&path).unwrap();
        assert!(!first.is_there());
        let second = bind(&path).unwrap();
        assert!(!first.is_there());
        drop(first);
        assert!(second.is_there());
    }
}
