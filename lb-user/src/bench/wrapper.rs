//! A program, the packet that it is run on, and the wrapper that restores the packet before every repeat.

use std::io;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{ProgramFd, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, include_bytes_aligned};
use lb_common::bench::{Case, HEAD};

pub const XDP_PASS: u32 = 2;
pub const XDP_TX: u32 = 3;

/// The kernel prepares for many packets from here on.
const FEWEST: u32 = 2;

/// Room for what a program makes of a packet.
const LARGEST: usize = 512;

/// A program, the packet that it is run on, and what it must return.
pub struct Subject {
    pub path: &'static str,
    pub program: ProgramFd,
    pub packet: Vec<u8>,
    /// Flows are two to this power.
    pub flows: u32,
    pub vary_at: u32,
    pub returns: u32,
}

impl Subject {
    fn case(&self) -> Result<Case> {
        let Subject { path, packet, .. } = self;
        ensure!(packet.len() >= HEAD, "{path}: a packet of {} bytes has no {HEAD} to restore", packet.len());
        let mut head = [0; HEAD / 8];
        for (word, bytes) in head.iter_mut().zip(packet.chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into()?);
        }
        let at = self.vary_at as usize;
        let vary_from = u32::from_ne_bytes(packet[at..at + 4].try_into()?)
            & !(u32::MAX.checked_shr(32 - self.flows).unwrap_or(0)).to_be();
        let (flows, vary_at) = (self.flows, self.vary_at);
        Ok(Case { len: packet.len() as u32, flows, vary_at, vary_from, head })
    }
}

/// Where the word lies that tells flows apart: the last four bytes of the source, behind `outer` bytes of outer header.
pub fn vary_at(source: IpAddr, outer: usize) -> u32 {
    (14 + outer + if source.is_ipv4() { 12 } else { 20 }) as u32
}

/// A wrapper around a subject. Each has one of its own, so that to go from one to another is a system call and no more.
pub struct Wrapper {
    pub subject: Subject,
    object: Ebpf,
    /// The kernel empties it when its last descriptor is closed.
    _measured: ProgramArray<MapData>,
}

impl Wrapper {
    pub fn around(subject: Subject) -> Result<Self> {
        let mut object = object()?;
        loaded(&mut object, "bench")?;
        let mut take = |name| object.take_map(name).with_context(|| format!("no map {name}"));
        let mut case: Array<MapData, Case> = take("CASE")?.try_into()?;
        case.set(0, subject.case()?, 0)?;
        let mut measured: ProgramArray<MapData> = take("MEASURED")?.try_into()?;
        measured.set(0, &subject.program, 0)?;
        Ok(Wrapper { subject, object, _measured: measured })
    }

    /// Nanoseconds that one packet takes by itself, as the kernel measures it: right before and right after the program.
    pub fn alone(&self) -> Result<u32> {
        self.run(1, None).map(|(nanoseconds, _)| nanoseconds)
    }

    /// Nanoseconds per packet of many in a row: the time of this thread. The kernel, too, tells the average, but without
    /// what is behind the point, which is more than a hundredth of what many paths take. To begin takes about as long as
    /// thousands of packets; what the shortest run takes that begins in the same way is not counted.
    pub fn many(&self, packets: u32) -> Result<f64> {
        let begin = self.timed(FEWEST)?;
        let all = self.timed(packets + FEWEST)?;
        Ok((all - begin) as f64 / f64::from(packets))
    }

    /// Nanoseconds of this thread, whatever else the machine did meanwhile.
    fn timed(&self, packets: u32) -> Result<i64> {
        let before = thread_time()?;
        self.run(packets, None)?;
        Ok(thread_time()? - before)
    }

    /// What becomes of the packet.
    pub fn outcome(&self) -> Result<Vec<u8>> {
        let mut out = [0; LARGEST];
        let (_, size) = self.run(1, Some(&mut out))?;
        Ok(out.get(..size).context("a packet became longer than any outer header makes it")?.to_vec())
    }

    /// Nanoseconds per packet as the kernel tells them, and bytes of the packet as the last repeat has left it.
    fn run(&self, repeat: u32, data_out: Option<&mut [u8]>) -> Result<(u32, usize)> {
        let Subject { path, packet, returns, .. } = &self.subject;
        let program: &Xdp = self.object.program("bench").context("no program bench")?.try_into()?;
        let options = TestRunOptions { data_in: Some(packet), data_out, repeat, ..TestRunOptions::default() };
        let result = program.test_run(options)?;
        // A program that does something else than it should measures nothing.
        ensure!(
            result.return_value == *returns,
            "{path}: the program returned {}, not {returns}",
            result.return_value
        );
        Ok((result.duration.as_nanos().try_into()?, result.data_size_out as usize))
    }
}

/// Nanoseconds that this thread has run, whatever else the machine did meanwhile.
fn thread_time() -> io::Result<i64> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, which lives here.
    match unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) } {
        0 => Ok(now.tv_sec * 1_000_000_000 + now.tv_nsec),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The bench's own programs.
pub fn object() -> Result<Ebpf> {
    let bytes = include_bytes_aligned!("../../prebuilt/bench.o");
    Ebpf::load(bytes).context("loading the bench's programs")
}

/// One of them, in the kernel.
pub fn loaded<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program: &mut Xdp =
        object.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
    program.load().with_context(|| format!("loading {name}"))?;
    Ok(program)
}

/// A program's descriptor of its own.
pub fn descriptor(program: &Xdp) -> Result<ProgramFd> {
    Ok(program.fd()?.try_clone()?)
}
