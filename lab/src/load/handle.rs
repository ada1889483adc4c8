//! The load as its controller sees it: a process in the users node, its lines with the time when they came.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{LoadArgs, Order, Said};
use crate::paths::Paths;
use crate::process;

/// A line and when it came.
pub type Heard = (Instant, Said);

/// The running load; it ends when this is dropped.
pub struct Load {
    child: Child,
    orders: Mutex<Option<ChildStdin>>,
    said: Mutex<Receiver<Heard>>,
}

impl Load {
    /// Starts the load in the users node. `lb` is the lab's agent, whose folder is on every node's search path.
    pub fn start(paths: &Paths, args: &LoadArgs, lb: &Path) -> Result<Self> {
        let argv = [
            process::OWN_PROGRAM.to_owned(),
            "load".to_owned(),
            format!("--connections={}", args.connections),
            format!("--addresses={}", args.addresses),
            format!("--requests={}", args.requests),
            format!("--think={}", args.think),
            format!("--patience={}", args.patience),
            format!("--mix={}", args.mix.json()),
        ];
        let mut command: Command = process::node_command(paths, "users", &argv, lb)?;
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting lab load")?;
        let stdout = child.stdout.take().context("the load has no output")?;
        let orders = child.stdin.take();
        let (send, said) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Ok(line) = serde_json::from_str(&line) else { continue };
                if send.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, orders: Mutex::new(orders), said: Mutex::new(said) })
    }

    /// Tells the load what to do.
    pub fn tell(&self, order: &Order) -> Result<()> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let orders = orders.as_mut().context("the load takes no orders")?;
        orders.write_all(order.line().as_bytes()).context("the load has ended")
    }

    /// The next line, if it comes within `patience`; an error if the load has ended.
    pub fn poll(&self, patience: Duration) -> Result<Option<Heard>> {
        match self.said().recv_timeout(patience) {
            Ok(heard) => Ok(Some(heard)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("the load ended early"),
        }
    }

    /// What has been said since the last call.
    pub fn heard(&self) -> Vec<Heard> {
        self.said().try_iter().collect()
    }

    fn said(&self) -> MutexGuard<'_, Receiver<Heard>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
