//! One thread that makes all calls to the data plane, in the order in which they are asked for.
//!
//! The thread owns the [`Dataplane`] and ends when the last [`KernelHandle`] is dropped; what is in the kernel stays.

use std::sync::Arc;
use std::thread;

use tokio::runtime;
use tokio::sync::{mpsc, oneshot, watch};

use super::dataplane::{Account, Adopted, Applied, Counter, Dataplane, DataplaneError, Kernel, Opened, Want};
use super::readings::Readings;
use crate::config::Config;
use crate::desired::Paths;
use crate::trace::Seen;

/// Asks the thread.
#[derive(Clone)]
pub(super) struct KernelHandle {
    requests: mpsc::UnboundedSender<Request>,
}

/// What the thread found when it started.
pub(super) struct Started {
    pub handle: KernelHandle,
    pub adopted: Option<Adopted>,
    pub paths: watch::Receiver<Paths>,
}

enum Request {
    Apply(Want, oneshot::Sender<Applied>),
    Counters(oneshot::Sender<Result<Vec<Counter>, DataplaneError>>),
    Accounts(oneshot::Sender<Result<Vec<Account>, DataplaneError>>),
    Readings(oneshot::Sender<Result<Readings, DataplaneError>>),
    Seen(oneshot::Sender<Option<Seen>>),
    Detach(Arc<Config>, oneshot::Sender<Result<(), DataplaneError>>),
}

/// Opens the data plane on a thread of its own.
pub(super) async fn start(kernel: Arc<dyn Kernel>, config: Arc<Config>) -> Result<Started, DataplaneError> {
    let (requests, to_thread) = mpsc::unbounded_channel();
    let (report, opened) = oneshot::channel();
    let runtime = runtime::Handle::current();
    thread::Builder::new()
        .name("kernel".into())
        .spawn(move || {
            let _inside = runtime.enter();
            match kernel.open(&config) {
                Ok(Opened { dataplane, adopted, paths }) => {
                    let _ = report.send(Ok((adopted, paths)));
                    serve(&*kernel, dataplane, to_thread);
                }
                Err(error) => drop(report.send(Err(error))),
            }
        })
        .map_err(|error| {
            DataplaneError(format!("cannot start a thread: {error}; raise the limit of tasks"))
        })?;
    let (adopted, paths) = opened.await.map_err(|_| ended())??;
    Ok(Started { handle: KernelHandle { requests }, adopted, paths })
}

impl KernelHandle {
    /// Begins to apply; the answer comes when the kernel has taken it.
    pub fn apply(&self, want: Want) -> oneshot::Receiver<Applied> {
        let (reply, answer) = oneshot::channel();
        // If the thread has ended, the answer says so.
        let _ = self.requests.send(Request::Apply(want, reply));
        answer
    }

    /// All counters.
    pub async fn counters(&self) -> Result<Vec<Counter>, DataplaneError> {
        let (reply, answer) = oneshot::channel();
        let _ = self.requests.send(Request::Counters(reply));
        answer.await.map_err(|_| ended())?
    }

    /// What the host's program did with packets.
    pub async fn accounts(&self) -> Result<Vec<Account>, DataplaneError> {
        let (reply, answer) = oneshot::channel();
        let _ = self.requests.send(Request::Accounts(reply));
        answer.await.map_err(|_| ended())?
    }

    /// Memory of maps, packets and bytes.
    pub async fn readings(&self) -> Result<Readings, DataplaneError> {
        let (reply, answer) = oneshot::channel();
        let _ = self.requests.send(Request::Readings(reply));
        answer.await.map_err(|_| ended())?
    }

    /// What a director goes by; `None` on a node without that role.
    pub async fn seen(&self) -> Result<Option<Seen>, DataplaneError> {
        let (reply, answer) = oneshot::channel();
        let _ = self.requests.send(Request::Seen(reply));
        answer.await.map_err(|_| ended())
    }

    /// Closes the data plane, detaches all and removes the pins. The thread ends.
    pub async fn detach(&self, config: Arc<Config>) -> Result<(), DataplaneError> {
        let (reply, answer) = oneshot::channel();
        let _ = self.requests.send(Request::Detach(config, reply));
        answer.await.map_err(|_| ended())?
    }
}

fn serve(
    kernel: &dyn Kernel,
    mut dataplane: Box<dyn Dataplane>,
    mut requests: mpsc::UnboundedReceiver<Request>,
) {
    while let Some(request) = requests.blocking_recv() {
        // Whoever asked may have gone; the work is done all the same.
        match request {
            Request::Apply(want, reply) => drop(reply.send(dataplane.apply(&want))),
            Request::Counters(reply) => drop(reply.send(dataplane.counters())),
            Request::Accounts(reply) => drop(reply.send(dataplane.accounts())),
            Request::Readings(reply) => drop(reply.send(dataplane.readings())),
            Request::Seen(reply) => drop(reply.send(dataplane.seen())),
            Request::Detach(config, reply) => {
                drop(dataplane);
                drop(reply.send(kernel.detach(&config)));
                return;
            }
        }
    }
}

/// What is said when the thread is gone, as after a panic.
pub(super) fn ended() -> DataplaneError {
    DataplaneError(
        "the thread that talks to the kernel has ended; see the log, then restart the agent".into(),
    )
}
