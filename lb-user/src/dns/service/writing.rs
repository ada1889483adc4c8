//! The file of what outlives the agent, written beside the work: answers must not wait for a disk.

use tokio::task::{JoinHandle, spawn_blocking};
use tracing::warn;

use super::Watching;
use crate::dns::memory::Memory;

/// A file that is being written, and what it will hold.
pub(super) type Writing = JoinHandle<(Memory, Result<(), String>)>;

impl Watching {
    /// Writes the last health, if it has changed. Without it a start takes a moment longer.
    pub(super) fn remember(&mut self) {
        let memory = self.memory();
        if self.writing.is_none() && memory != self.written {
            let path = self.config.state.clone();
            self.writing = Some(spawn_blocking(move || {
                let result = memory.write(&path);
                (memory, result)
            }));
        }
    }

    pub(super) fn take_written(&mut self, done: Option<(Memory, Result<(), String>)>) {
        match done {
            Some((memory, Ok(()))) => {
                self.written = memory;
                self.write_failure = None;
            }
            Some((_, Err(problem))) => self.fail_to_write(problem),
            None => {}
        }
    }

    pub(super) fn fail_to_write(&mut self, problem: String) {
        if self.write_failure.as_ref() != Some(&problem) {
            warn!("dns: {problem}");
            self.write_failure = Some(problem);
        }
    }

    /// What is being written is older than what will be.
    pub(super) async fn finish_writing(&mut self) {
        if self.writing.is_some() {
            let done = written(&mut self.writing).await;
            self.take_written(done);
        }
    }

    pub(super) fn write(&mut self) -> Result<(), String> {
        let memory = self.memory();
        if memory != self.written {
            memory.write(&self.config.state)?;
            self.written = memory;
        }
        self.write_failure = None;
        Ok(())
    }

    fn memory(&self) -> Memory {
        let (watches, seen) = match &self.judged {
            Some(last) => (last.data.watches(), &last.seen[..]),
            None => Default::default(),
        };
        Memory::of(&self.orders, watches, seen, self.publisher.bounds()).with_history(self.history.all())
    }
}

/// What has been written and how that went, when it has; `None` if the thread was lost.
pub(super) async fn written(writing: &mut Option<Writing>) -> Option<(Memory, Result<(), String>)> {
    let Some(handle) = writing else { return std::future::pending().await };
    let done = handle.await;
    *writing = None;
    done.ok()
}
