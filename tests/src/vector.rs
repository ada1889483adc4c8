//! Vectors: a sentence, a packet, what becomes of it and why; and the bench that runs them on the real programs.

use std::collections::BTreeSet;
use std::fmt::Debug;

use anyhow::Result;
use aya::programs::{TestRun, TestRunOptions, TestRunResult};
use lb_common::reasons::{self, Verdict};
use lb_user::dataplane::counters::Counter;

/// A list of reasons that a program counts by.
pub trait Reason: Copy + Debug + Ord + 'static {
    /// The program, as counters name it.
    const PROGRAM: &'static str;
    /// All of them.
    const ALL: &'static [Self];
    /// As counters name it.
    fn name(self) -> &'static str;
    /// What becomes of the packet.
    fn verdict(self) -> Verdict;
}

macro_rules! reason {
    ($($type:ty = $program:literal),+) => {
        $(impl Reason for $type {
            const PROGRAM: &'static str = $program;
            const ALL: &'static [Self] = <$type>::ALL;
            fn name(self) -> &'static str {
                self.name()
            }
            fn verdict(self) -> Verdict {
                self.verdict()
            }
        })+
    };
}

reason!(reasons::Director = "director", reasons::Host = "host", reasons::Probe = "probe");

/// What the kernel knows of a packet besides its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Context {
    /// Nothing.
    #[default]
    Plain,
    /// XDP: this many bytes of metadata, with which the packet begins, take up headroom.
    Metadata(u32),
    /// TC: the mark, and the size of the segments that the packet was merged from, or 0.
    Buffer {
        /// `SO_MARK`.
        mark: u32,
        /// `skb_shinfo(skb)->gso_size`.
        gso_size: u32,
    },
}

impl Context {
    /// `struct xdp_md` or `struct __sk_buff` (include/uapi/linux/bpf.h).
    fn bytes(&self, packet: usize) -> Option<Vec<u8>> {
        let words: &[(usize, u32)] = match *self {
            Context::Plain => return None,
            Context::Metadata(bytes) => &[(0, bytes), (4, packet as u32), (20, 0)],
            Context::Buffer { mark, gso_size } => &[(8, mark), (176, gso_size), (188, 0)],
        };
        let mut context = vec![0; words.iter().map(|(at, _)| at + 4).max()?];
        for (at, word) in words {
            context[*at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        Some(context)
    }
}

/// A packet and what becomes of it.
#[derive(Clone, Debug)]
pub struct Vector<R> {
    /// The whole as a sentence.
    pub says: &'static str,
    /// What comes in.
    pub packet: Vec<u8>,
    /// What the kernel knows of it.
    pub context: Context,
    /// Why it is treated as it is.
    pub reason: R,
    /// It leaves by another interface than it came by.
    pub redirected: bool,
    /// What it is afterwards.
    pub output: Vec<u8>,
}

impl<R> Vector<R> {
    /// The packet becomes `output`.
    pub fn new(says: &'static str, packet: Vec<u8>, reason: R, output: Vec<u8>) -> Self {
        Vector { says, packet, context: Context::Plain, reason, redirected: false, output }
    }

    /// The packet stays as it is.
    pub fn unchanged(says: &'static str, packet: Vec<u8>, reason: R) -> Self {
        Vector::new(says, packet.clone(), reason, packet)
    }

    /// It comes with this context.
    pub fn with(self, context: Context) -> Self {
        Vector { context, ..self }
    }

    /// It leaves by another interface.
    pub fn redirected(self) -> Self {
        Vector { redirected: true, ..self }
    }
}

/// Where a program sits, which decides what its return values are.
#[derive(Clone, Copy, Debug)]
pub enum Hook {
    /// `XDP_*`.
    Xdp,
    /// `TC_ACT_*`.
    Tc,
}

impl Hook {
    /// The return value of a program.
    pub fn action(self, verdict: Verdict, redirected: bool) -> u32 {
        match (self, verdict, redirected) {
            (Hook::Xdp, Verdict::Drop, _) => 1,
            (Hook::Xdp, Verdict::Pass, _) => 2,
            (Hook::Xdp, Verdict::Tx, false) => 3,
            (Hook::Xdp, Verdict::Tx, true) => 4,
            (Hook::Tc, Verdict::Pass, _) | (Hook::Tc, Verdict::Tx, false) => 0,
            (Hook::Tc, Verdict::Drop, _) => 2,
            (Hook::Tc, Verdict::Tx, true) => 7,
        }
    }
}

/// Runs a program once: its return value, and the packet afterwards.
pub fn run<P>(program: &P, packet: &[u8], context: &Context) -> Result<(u32, Vec<u8>)>
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
{
    let mut output = vec![0; packet.len() + 256];
    let context = context.bytes(packet.len());
    let result = program.test_run(TestRunOptions {
        data_in: Some(packet),
        data_out: Some(&mut output),
        ctx_in: context.as_deref(),
        ..TestRunOptions::default()
    })?;
    output.truncate(result.data_size_out as usize);
    Ok((result.return_value, output))
}

/// A program with its counters.
pub trait Bench {
    /// Runs the program once.
    fn run(&mut self, packet: &[u8], context: &Context) -> Result<(u32, Vec<u8>)>;
    /// All its counters.
    fn counters(&self) -> Result<Vec<Counter>>;
}

/// The reasons that were counted between two readings, each with how often.
pub fn counted<R: Reason>(before: &[Counter], after: &[Counter]) -> Vec<(R, u64)> {
    let of = |all: &[Counter], reason: R| {
        all.iter().find(|c| c.program == R::PROGRAM && c.name == reason.name()).map_or(0, |c| c.value)
    };
    let grown = R::ALL.iter().map(|&reason| (reason, of(after, reason) - of(before, reason)));
    grown.filter(|(_, times)| *times > 0).collect()
}

/// Runs the vectors, says all that is wrong at once, and returns the reasons that were counted.
///
/// `expect` gives return value and packet of a vector; `counts` says which reasons the program counts at all.
pub fn check<R: Reason>(
    bench: &mut impl Bench,
    vectors: &[Vector<R>],
    expect: impl Fn(&Vector<R>) -> (u32, Vec<u8>),
    counts: impl Fn(R) -> bool,
) -> BTreeSet<R> {
    let mut seen = BTreeSet::new();
    let mut wrong: Vec<String> = Vec::new();
    for vector in vectors {
        let before = bench.counters().unwrap();
        let (action, output) = match bench.run(&vector.packet, &vector.context) {
            Ok(result) => result,
            Err(error) if refused_metadata(&vector.context, &error) => {
                println!("not on this kernel: {}: packets with that much metadata", vector.says);
                seen.insert(vector.reason);
                continue;
            }
            Err(error) => {
                wrong.push(format!("{}: {error:#}", vector.says));
                continue;
            }
        };
        let reasons = counted::<R>(&before, &bench.counters().unwrap());
        let want: Vec<_> = counts(vector.reason).then_some((vector.reason, 1)).into_iter().collect();
        let (want_action, want_output) = expect(vector);
        if reasons != want {
            wrong.push(format!("{}: counted {reasons:?}, not {want:?}", vector.says));
        }
        if action != want_action {
            wrong.push(format!("{}: returned {action}, not {want_action}", vector.says));
        }
        if output != want_output {
            wrong.push(format!("{}: became\n  {output:02x?}, not\n  {want_output:02x?}", vector.says));
        }
        seen.extend(reasons.iter().map(|(reason, _)| *reason));
        if reasons.is_empty() && want.is_empty() {
            seen.insert(vector.reason);
        }
    }
    assert!(wrong.is_empty(), "of {} vectors:\n{}", vectors.len(), wrong.join("\n"));
    println!("{} vectors", vectors.len());
    seen
}

/// Whether the kernel is one that knows no metadata of more than 32 bytes (6.1 is).
fn refused_metadata(context: &Context, error: &anyhow::Error) -> bool {
    let is_long = matches!(context, Context::Metadata(bytes) if *bytes > 32);
    let refused = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    is_long && refused.map(std::io::Error::kind).any(|kind| kind == std::io::ErrorKind::InvalidInput)
}

/// Fails naming the reasons that were not seen, unless `impossible` lists them, and those that were although it does.
pub fn all_seen<R: Reason>(seen: &BTreeSet<R>, impossible: &[(R, &str)]) {
    let listed = |reason: &R| impossible.iter().any(|(listed, _)| listed == reason);
    let unseen: Vec<_> = R::ALL.iter().filter(|r| !seen.contains(r) && !listed(r)).collect();
    assert!(unseen.is_empty(), "no vector of {} shows {unseen:?}", R::PROGRAM);
    let possible: Vec<_> = seen.iter().filter(|reason| listed(reason)).collect();
    assert!(possible.is_empty(), "{possible:?} of {} were seen: take them off the list", R::PROGRAM);
}
