//! `lb capture`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hyper::Method;
use lb_common::reasons::Director;
use tokio::signal::unix::{SignalKind, signal};

use super::{Api, Format, client, runtime};
use crate::agent::status::Status;
use crate::capture::pcapng::{Packet, Writer};
use crate::capture::{Capture, Options, Told};
use crate::config::Config;
use crate::model::ServiceKey;
use crate::vip::Vip;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Write pcapng to this file, or to the standard output if it is - [default: print a line per packet].
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// End after so many packets.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End after so many seconds.
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Capture one packet of so many, at random.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    sample: u32,
    /// Bytes of each packet, at most.
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(14..=16384))]
    bytes: u32,
    /// Only packets with this reason, as `lb status` names it; may be repeated.
    #[arg(long, value_name = "REASON", value_parser = reason)]
    reason: Vec<Director>,
    /// Only packets of flows to this VIP, or to addresses of this prefix; may be repeated.
    #[arg(long, value_name = "ADDRESS")]
    vip: Vec<Vip>,
    /// Only packets of flows to this service, as VIP:PORT/tcp or VIP:PORT/udp, with * for any port; may be repeated.
    #[arg(long, value_name = "SERVICE")]
    service: Vec<ServiceKey>,
    #[command(flatten)]
    api: Api,
    /// How to print packets, and the end.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

fn reason(name: &str) -> Result<Director, String> {
    let known = Director::ALL.iter().copied().find(|reason| reason.name() == name);
    known.ok_or_else(|| {
        let names: Vec<_> = Director::ALL.iter().map(|reason| reason.name()).collect();
        format!("no such reason; there are {}", names.join(", "))
    })
}

/// Where packets go.
enum Sink {
    Lines(Format),
    Pcapng(Writer<Box<dyn Write>>),
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut sink = sink(args)?;
    let pins = Config::load(&args.api.config).map_or_else(|_| "/sys/fs/bpf/lb".into(), |config| config.pins);
    let names = host_names(args);
    let stop = stop_on_signals()?;
    let options = Options { every: args.sample, bytes: args.bytes, reasons: args.reason.clone() };
    let mut capture = Capture::start(&pins, &options)?;
    let start = Instant::now();
    let end = args.seconds.map(|seconds| start + Duration::from_secs(seconds));
    let progress = matches!(sink, Sink::Pcapng(_)) && io::stderr().is_terminal();
    let (mut packets, mut said) = (0, start);
    while !stop.load(Relaxed) && end.is_none_or(|end| Instant::now() < end) && !is_enough(args, packets) {
        for mut packet in capture.next_packets(Duration::from_millis(100))? {
            if is_enough(args, packets) || !is_wanted(args, &packet) {
                continue;
            }
            packet.host = packet.tunnel.map(|at| names.get(&at).cloned().unwrap_or_else(|| at.to_string()));
            packets += 1;
            match put(&mut sink, &packet) {
                // Whoever read it has seen enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => stop.store(true, Relaxed),
                other => other.context("cannot write the capture")?,
            }
        }
        if progress && said.elapsed() >= Duration::from_secs(1) {
            said = Instant::now();
            eprint!("\r{packets} packets, {} lost", capture.lost());
        }
    }
    if let Sink::Pcapng(writer) = &mut sink
        && let Err(error) = writer.flush()
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        return Err(error).context("cannot write the capture");
    }
    let cr = if progress { "\r" } else { "" };
    let of = if args.sample > 1 { format!(", one of {}", args.sample) } else { String::new() };
    eprintln!("{cr}{packets} packets{of}, {} lost", capture.lost());
    Ok(ExitCode::SUCCESS)
}

fn is_enough(args: &Args, packets: u64) -> bool {
    args.count.is_some_and(|count| packets >= count)
}

fn sink(args: &Args) -> anyhow::Result<Sink> {
    let Some(file) = &args.file else { return Ok(Sink::Lines(args.format)) };
    if args.format == Format::Json {
        bail!("--format json prints packets; leave the file out");
    }
    let out: Box<dyn Write> = if file.as_os_str() == "-" {
        if io::stdout().is_terminal() {
            bail!(
                "pcapng is not for a terminal; write it to a file, or into a pipe: lb capture - | wireshark -k -i -"
            );
        }
        // Each packet at once: somebody is looking.
        Box::new(io::stdout())
    } else {
        let created = File::create(file).with_context(|| format!("{} cannot be written", file.display()));
        Box::new(BufWriter::new(created?))
    };
    Ok(Sink::Pcapng(Writer::new(out).context("cannot write the capture")?))
}

fn is_wanted(args: &Args, packet: &Told) -> bool {
    if args.vip.is_empty() && args.service.is_empty() {
        return true;
    }
    let Some(service) = packet.service() else { return false };
    let address = service.vip.first();
    args.vip.iter().any(|vip| vip.contains(address)) || args.service.iter().any(|of| of.serves(&service))
}

fn put(sink: &mut Sink, packet: &Told) -> io::Result<()> {
    match sink {
        Sink::Lines(Format::Json) => {
            writeln!(io::stdout(), "{}", serde_json::to_string(packet).map_err(io::Error::other)?)
        }
        Sink::Lines(Format::Text) => {
            let flow = packet.flow.map(|flow| format!("{} → {} ", flow.source, flow.destination));
            let Told { time, interface, len, .. } = packet;
            let (seconds, nanos) = (time / 1_000_000_000, time % 1_000_000_000);
            let flow = flow.unwrap_or_default();
            writeln!(io::stdout(), "{seconds}.{nanos:09} {interface} {flow}{} {len} bytes", packet.line())
        }
        Sink::Pcapng(writer) => writer.packet(&Packet {
            interface: &packet.interface,
            time: packet.time,
            bytes: &packet.bytes,
            len: packet.len,
            action: packet.action,
            comment: &packet.line(),
        }),
    }
}

/// Names of hosts by their addresses, as far as an agent tells them.
fn host_names(args: &Args) -> BTreeMap<IpAddr, String> {
    let ask = || -> anyhow::Result<Status> {
        let body = runtime()?.block_on(client::request(&args.api.socket(), Method::GET, "/v1/status"))?;
        Ok(serde_json::from_slice(&body)?)
    };
    let Ok(status) = ask() else { return BTreeMap::new() };
    let of = |host: &crate::agent::status::HostStatus| {
        let name = format!("{}/{}", host.pool, host.name);
        let addresses = [host.address4.map(IpAddr::V4), host.address6.map(IpAddr::V6)];
        addresses.into_iter().flatten().map(move |address| (address, name.clone())).collect::<Vec<_>>()
    };
    status.hosts.iter().flat_map(of).collect()
}

/// Set when the process is to end. From now on a signal ends no more than the capture, so that the director's own program is put
/// back.
fn stop_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let runtime = runtime()?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _guard = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
    };
    let flag = stop.clone();
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        flag.store(true, Relaxed);
    });
    Ok(stop)
}
