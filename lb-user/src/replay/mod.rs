//! Packets of a capture, through the real program: `lb replay`.
//!
//! The director's object is loaded over maps of its own and run by `BPF_PROG_TEST_RUN`: no interface, no traffic, nothing
//! that an agent on the same machine would notice. The [plain model](crate::director_model) judges each packet as well; it
//! names the host, and tells if the two ever differ.

pub mod capture;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use aya::programs::{TestRun, TestRunOptions};
use lb_common::reasons::Director as Reason;
use serde::Serialize;

use crate::config::{Config, FLOWS, XdpMode};
use crate::dataplane::director::{Director, DirectorOptions};
use crate::director_model::{Judged, Memory, View, judge};
use crate::trace::Ends;

/// The program's return values (include/uapi/linux/bpf.h).
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;

/// The program, over the tables of a configuration.
pub struct Replay {
    director: Director,
    view: View,
    memory: Memory,
    counters: Vec<u64>,
}

/// What became of a packet.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// Its number in the capture.
    pub number: u64,
    /// Seconds since the first packet, where the capture tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<f64>,
    /// Bytes of the frame.
    pub bytes: usize,
    /// `tx`, `pass` or `drop`; none if it could not be run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<&'static str>,
    /// As counters name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The flow as its client opened it, if it is of a service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow: Option<Ends>,
    /// The host that it is sent to, as POOL/HOST.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// What else is to be known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The program did something else than the model of it: a mistake in one of the two.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub differs: bool,
}

/// All of a capture.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Packets in the capture.
    pub packets: u64,
    /// Packets by reason; those without are absent.
    pub reasons: BTreeMap<&'static str, u64>,
    /// Packets by the host that they were sent to, as POOL/HOST.
    pub hosts: BTreeMap<String, u64>,
    /// Packets that the kernel would not run the program on.
    #[serde(skip_serializing_if = "is_zero")]
    pub not_run: u64,
    /// Packets of which program and model think differently.
    #[serde(skip_serializing_if = "is_zero")]
    pub differ: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Totals {
    /// Adds a packet.
    pub fn add(&mut self, outcome: &Outcome) {
        self.packets += 1;
        match outcome.reason {
            Some(reason) => *self.reasons.entry(reason).or_default() += 1,
            None => self.not_run += 1,
        }
        if let Some(host) = &outcome.host {
            *self.hosts.entry(host.clone()).or_default() += 1;
        }
        self.differ += u64::from(outcome.differs);
    }
}

impl Replay {
    /// Loads the program over the tables of a configuration. Needs root.
    pub fn load(config: &Config, mut view: View) -> anyhow::Result<Self> {
        // A capture's packets come at another pace than they did.
        let services = Arc::make_mut(&mut view.model).services.values_mut();
        services.for_each(|service| service.extras.limit = None);
        let role = config.director.as_ref();
        let options = DirectorOptions {
            interfaces: Vec::new(),
            xdp: XdpMode::Auto,
            flows: role.map_or(FLOWS, |role| role.flows),
            // The answer to each, as the model says it.
            icmp_errors: u32::MAX,
            prefixes: view.model.has_prefixes(),
            capacity: role.map(|role| role.capacity).unwrap_or_default(),
        };
        let mut director = Director::load(options, None).context("loading the director's program")?;
        director.sync(&view.model, view.sources, &view.nexthops, &view.health)?;
        view.make_tables(|_| true);
        let counters = counters(&director)?;
        Ok(Replay { director, view, memory: Memory::new(), counters })
    }

    /// Runs a frame through the program.
    pub fn run(&mut self, frame: &[u8]) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome { bytes: frame.len(), ..Outcome::default() };
        let (action, output) = match self.test_run(frame) {
            Ok(result) => result,
            Err(error) => {
                outcome.notes.push(format!("not run: {error:#}"));
                return Ok(outcome);
            }
        };
        let before = std::mem::replace(&mut self.counters, counters(&self.director)?);
        let counted = |(at, _): &(usize, &Reason)| self.counters[*at] != before[*at];
        let reason = Reason::ALL.iter().enumerate().find(counted).map(|(_, reason)| *reason);
        let reason = reason.context("the program counted nothing; does something else use its maps?")?;
        let mut judged = judge(&self.view, &mut self.memory, frame);
        if let Some(way) = judged.way.as_ref().filter(|way| way.remembered && judged.output != output) {
            // The program's memory is bounded, the model's is not.
            self.memory.flows.remove(&way.flow);
            judged = judge(&self.view, &mut self.memory, frame);
        }
        outcome.differs = judged.reason != reason || judged.output != output;
        outcome.verdict = Some(verdict(action));
        outcome.reason = Some(reason.name());
        if outcome.differs {
            let wanted = judged.reason.name();
            outcome.notes.push(format!("the model says {wanted}: this is a mistake of lb, please report it"));
        }
        place(&mut outcome, &judged, reason);
        Ok(outcome)
    }

    fn test_run(&mut self, frame: &[u8]) -> anyhow::Result<(u32, Vec<u8>)> {
        let mut output = vec![0; frame.len() + 256];
        let result = self.director.program()?.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut output),
            ..TestRunOptions::default()
        });
        let result =
            result.with_context(|| format!("the kernel refuses a frame of {} bytes", frame.len()))?;
        output.truncate(result.data_size_out as usize);
        Ok((result.return_value, output))
    }
}

/// Says where a packet went.
fn place(outcome: &mut Outcome, judged: &Judged, reason: Reason) {
    let Some(way) = &judged.way else { return };
    let flow = way.flow;
    outcome.flow = Some(Ends { source: flow.source, destination: flow.destination, protocol: flow.protocol });
    if reason.is_to_host() {
        outcome.host = way.host.as_ref().map(ToString::to_string);
    }
}

const fn verdict(action: u32) -> &'static str {
    match action {
        XDP_TX | XDP_REDIRECT => "tx",
        XDP_PASS => "pass",
        XDP_DROP => "drop",
        _ => "aborted",
    }
}

/// The counters of the director's reasons, in their order.
fn counters(director: &Director) -> anyhow::Result<Vec<u64>> {
    let own = director.counters()?.into_iter().filter(|counter| counter.program == "director");
    Ok(own.map(|counter| counter.value).collect())
}
