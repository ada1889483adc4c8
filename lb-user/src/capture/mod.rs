//! Packets with their verdict, as the running director gives it: `lb capture`.
//!
//! The director's own program tells of no packet. While a capture runs, another instance of it stands in its place behind the
//! same link and over the same maps, which does; nothing of the way that packets take differs. So a capture costs nothing when
//! there is none. A program that was loaded by another release is not replaced.

pub mod pcapng;
mod switch;
mod told;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use aya::Ebpf;
use aya::maps::perf::{PerfEvent, PerfEventArrayBuffer};
use aya::maps::{MapData, PerfEventArray};
use aya::programs::Xdp;
use aya::util::online_cpus;
use lb_common::reasons::Director;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::dataplane::director::OBJECT;

pub use told::Told;

/// Pages of each CPU's buffer, a power of two: a mebibyte.
const PAGES: usize = 256;

/// What is captured.
#[derive(Clone, Debug)]
pub struct Options {
    /// One packet of so many, at random; at least 1.
    pub every: u32,
    /// Bytes of each packet, at most.
    pub bytes: u32,
    /// Reasons; none: all of them.
    pub reasons: Vec<Director>,
}

/// A capture that runs, until this value goes.
pub struct Capture {
    // Programs are put back before the one that stands in for them goes.
    _replaced: Vec<switch::Replaced>,
    buffers: Vec<PerfEventArrayBuffer<MapData>>,
    _ebpf: Ebpf,
    clock: u64,
    names: BTreeMap<u32, String>,
    lost: u64,
}

impl Capture {
    /// Begins to capture on all interfaces of the director whose programs are pinned below `pins`. Needs root.
    pub fn start(pins: &Path, options: &Options) -> anyhow::Result<Self> {
        let folder = pins.join(OBJECT.name);
        let links = director_links(&folder.join("links"))?;
        if links.is_empty() {
            bail!("no director runs over {}; start the agent, or name its configuration", pins.display());
        }
        let all = || Director::ALL.iter().copied();
        let wanted = |reason: &Director| options.reasons.is_empty() || options.reasons.contains(reason);
        let reasons = all().filter(wanted).fold(0_u64, |bits, reason| bits | 1 << reason as u32);
        let (every, bytes) = (options.every.to_ne_bytes(), options.bytes.to_ne_bytes());
        let reasons = reasons.to_ne_bytes();
        let globals: [(&str, &[u8]); 3] =
            [("CAPTURE_EVERY", &every), ("CAPTURE_BYTES", &bytes), ("CAPTURE_REASONS", &reasons)];
        let mut ebpf = OBJECT.load_over(&folder.join("maps"), &globals)?;
        let map = ebpf.take_map("CAPTURE").context("the program has no map CAPTURE")?;
        let mut events = PerfEventArray::try_from(map)?;
        let cpus = online_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))?;
        let buffers: Result<_, _> = cpus.into_iter().map(|cpu| events.open(cpu, Some(PAGES))).collect();
        let buffers = buffers.context("cannot make buffers for packets")?;
        let program: &mut Xdp =
            ebpf.program_mut("director").context("the object has no director")?.try_into()?;
        program.load().context("loading a director that tells of packets")?;
        let fd = program.fd()?.try_clone()?;
        let replaced = links.iter().map(|link| {
            let name = link.display();
            switch::Replaced::new(link, fd.as_fd()).with_context(|| format!("cannot capture at {name}"))
        });
        let replaced = replaced.collect::<anyhow::Result<_>>()?;
        let clock = wall_clock()?;
        Ok(Capture { _replaced: replaced, buffers, _ebpf: ebpf, clock, names: BTreeMap::new(), lost: 0 })
    }

    /// The packets of the next moment, in order; none if there are none within `patience`.
    pub fn next_packets(&mut self, patience: Duration) -> anyhow::Result<Vec<Told>> {
        let mut wait: Vec<PollFd<'_>> =
            self.buffers.iter().map(|buffer| PollFd::new(buffer.as_fd(), PollFlags::POLLIN)).collect();
        match poll(&mut wait, PollTimeout::try_from(patience)?) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error).context("waiting for packets"),
        }
        drop(wait);
        let mut events = Vec::new();
        for buffer in &mut self.buffers {
            buffer.for_each(|event| match event {
                PerfEvent::Sample { head, tail } => events.push([head, tail].concat()),
                PerfEvent::Lost { count } => self.lost += count,
            });
        }
        let names = &mut self.names;
        let mut name = |ifindex: u32| names.entry(ifindex).or_insert_with(|| interface(ifindex)).clone();
        let mut packets: Vec<Told> =
            events.iter().filter_map(|event| Told::from_event(event, self.clock, &mut name)).collect();
        packets.sort_by_key(|packet| packet.time);
        Ok(packets)
    }

    /// Packets that were not captured because they came too fast.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

/// The pinned links of the director's program.
fn director_links(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut links = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| folder.display().to_string())?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.split(':').nth(1) == Some("director") {
            links.push(path);
        }
    }
    links.sort();
    Ok(links)
}

/// Nanoseconds between the kernel's monotonic clock and the time since 1970.
fn wall_clock() -> anyhow::Result<u64> {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes the time to where it is told.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) } != 0 {
        return Err(std::io::Error::last_os_error()).context("no monotonic clock");
    }
    let monotonic = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    Ok((since_1970.as_nanos() as u64).wrapping_sub(monotonic))
}

fn interface(ifindex: u32) -> String {
    let name = nix::net::if_::if_indextoname(ifindex).ok().and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| format!("interface {ifindex}"))
}
