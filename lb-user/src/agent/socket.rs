//! The Unix socket of the API: one agent per socket, and a stale one is replaced.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
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

/// A socket that is there; dropping it removes it.
pub(super) struct Socket {
    path: PathBuf,
    listener: UnixListener,
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
        fs::rename(&new, path)?;
        Ok(listener)
    };
    match made() {
        Ok(listener) => Ok(Socket { path: path.into(), listener }),
        Err(source) => Err(SocketError::Io { path: path.into(), source }),
    }
}

impl Socket {
    /// The listener, for the current Tokio runtime.
    pub fn listen(&self) -> Result<tokio::net::UnixListener, SocketError> {
        let listener = self.listener.try_clone().and_then(tokio::net::UnixListener::from_std);
        listener.map_err(|source| SocketError::Io { path: self.path.clone(), source })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // An agent that took the path over has connected listeners; a leftover is replaced by the next one.
        let _ = fs::remove_file(&self.path);
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
}
