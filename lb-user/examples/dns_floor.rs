//! The floor under `scripts/bench-dns`: a server that sends each question back as its own answer, and looks at nothing. What
//! it takes longer than no time is the kernel's, the machine's, and that of who asks.
//!
//! Usage: `dns_floor ADDRESS:PORT THREADS`

use std::net::{SocketAddr, UdpSocket};
use std::{env, error, thread};

use socket2::{Domain, Protocol, Socket, Type};

fn main() -> Result<(), Box<dyn error::Error>> {
    let mut arguments = env::args().skip(1);
    let (Some(address), Some(threads)) = (arguments.next(), arguments.next()) else {
        return Err("usage: dns_floor ADDRESS:PORT THREADS".into());
    };
    let address: SocketAddr = address.parse()?;
    let sockets = (0..threads.parse()?).map(|_| socket(address)).collect::<Result<Vec<_>, _>>()?;
    let threads: Vec<_> = sockets.into_iter().map(|socket| thread::spawn(move || echo(&socket))).collect();
    threads.into_iter().for_each(|thread| drop(thread.join()));
    Ok(())
}

/// As each thread of the name server has one.
fn socket(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn echo(socket: &UdpSocket) {
    let mut packet = [0; 512];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut packet) else { continue };
        if let Some(flags) = packet[..length].get_mut(2..4) {
            // An answer, with authority (RFC 1035, section 4.1.1).
            flags[0] |= 0x84;
            let _ = socket.send_to(&packet[..length], from);
        }
    }
}
