//! UDP packets of 64 bytes, as fast as one core sends them: the load of `scripts/bench`.

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};

/// Packets per system call.
const BATCH: usize = 64;
/// With the headers of UDP, IPv4 and Ethernet and its check sum: 64 bytes.
const PAYLOAD: [u8; 18] = [0; 18];

/// Where to, and how long.
#[derive(Clone, Debug, Args)]
pub struct SendArgs {
    /// Address and port
    to: SocketAddr,
    /// For so many ms
    duration: u64,
    /// Different flows, in turn
    #[arg(long, default_value_t = 64)]
    flows: usize,
}

/// The command: prints how many packets the kernel took, and in which time.
pub fn run(args: &SendArgs) -> Result<u8> {
    let socket = || -> Result<UdpSocket> {
        let socket = UdpSocket::bind("0.0.0.0:0").context("a socket")?;
        socket.connect(args.to).with_context(|| format!("no route to {}", args.to))?;
        Ok(socket)
    };
    let sockets = (0..args.flows.max(1)).map(|_| socket()).collect::<Result<Vec<_>>>()?;
    let slices = vec![[IoSlice::new(&PAYLOAD)]; BATCH];
    let connected: [Option<SockaddrStorage>; BATCH] = [None; BATCH];
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let (start, mut sent) = (Instant::now(), 0);
    let end = Duration::from_millis(args.duration);
    while start.elapsed() < end {
        for socket in &sockets {
            let to = socket.as_raw_fd();
            match sendmmsg(to, &mut headers, &slices, connected, [], MsgFlags::empty()) {
                Ok(results) => sent += results.count(),
                // A full queue, or what a packet before was answered.
                Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::ECONNREFUSED | Errno::EHOSTUNREACH) => {}
                Err(error) => return Err(error).context("sending"),
            }
        }
    }
    println!("{{\"sent\":{sent},\"seconds\":{:.6}}}", start.elapsed().as_secs_f64());
    Ok(0)
}
