//! Echoes datagrams to VIPs with this host's name in front. Each user gets a socket of its own that is connected to it, as
//! servers of QUIC, VPNs and games have them: by that, hosts know their flows.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::load::udp::Datagram;

/// Flows at a time; datagrams of others are dropped.
const FLOWS: usize = 20_000;
/// A flow that is silent for so long is forgotten.
const SILENCE: Duration = Duration::from_secs(120);

/// The addresses of users that have a socket of their own, by the VIP they speak to.
type Known = Rc<RefCell<HashSet<(SocketAddr, SocketAddr)>>>;

/// Answers datagrams to `addresses` as the host `name`, for ever.
pub async fn serve(addresses: Vec<SocketAddr>, name: String) -> Result<()> {
    let (known, name): (Known, Rc<str>) = (Rc::default(), name.into());
    let mut listeners = JoinSet::new();
    for address in addresses {
        let listener = socket(address, None).with_context(|| format!("UDP port {address}"))?;
        listeners.spawn_local(listen(listener, address, known.clone(), name.clone()));
    }
    while listeners.join_next().await.is_some() {}
    Ok(())
}

/// A socket at `address`, beside others there; connected to `user` if there is one.
fn socket(address: SocketAddr, user: Option<SocketAddr>) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if let Some(user) = user {
        socket.connect(&user.into())?;
    }
    UdpSocket::from_std(socket.into())
}

/// Takes the first datagram of each flow.
async fn listen(listener: UdpSocket, address: SocketAddr, known: Known, name: Rc<str>) {
    let mut buffer = [0; 256];
    loop {
        // What goes wrong with a datagram, an ICMP error for instance, is not the next one's affair.
        let Ok((length, user)) = listener.recv_from(&mut buffer).await else { continue };
        let Some(datagram) = Datagram::parse(&buffer[..length]) else { continue };
        let key = (address, user);
        let is_new = !datagram.last && !known.borrow().contains(&key);
        if is_new && known.borrow().len() < FLOWS {
            match socket(address, Some(user)) {
                Ok(socket) => {
                    known.borrow_mut().insert(key);
                    let (known, name) = (known.clone(), name.clone());
                    tokio::task::spawn_local(async move {
                        keep(socket, user, &name).await;
                        known.borrow_mut().remove(&key);
                    });
                }
                Err(error) => {
                    eprintln!("lab serve echo: a socket for {user}: {error}");
                    continue;
                }
            }
        } else if is_new {
            continue;
        }
        let _ = listener.send_to(datagram.echo(&name).as_bytes(), user).await;
    }
}

/// Answers a flow until its user takes leave or is silent for long.
async fn keep(socket: UdpSocket, user: SocketAddr, name: &str) {
    let mut buffer = [0; 256];
    while let Ok(received) = timeout(SILENCE, socket.recv_from(&mut buffer)).await {
        let Ok((length, from)) = received else { continue };
        // Between bind and connect, datagrams of others may have come here; they are sent again.
        let Some(datagram) = Datagram::parse(&buffer[..length]).filter(|_| from == user) else { continue };
        let _ = socket.send(datagram.echo(name).as_bytes()).await;
        if datagram.last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::LocalSet;

    #[tokio::test]
    async fn each_user_gets_a_connected_socket_until_it_takes_leave() {
        let free = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (known, name): (Known, Rc<str>) = (Rc::default(), "lb7-1".into());
        let work = async {
            let listener = socket(free, None).unwrap();
            tokio::task::spawn_local(listen(listener, free, known.clone(), name));
            let user = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            user.connect(free).await.unwrap();
            for (sequence, last) in [(1, false), (2, false), (3, true), (4, true)] {
                let datagram = Datagram { flow: 5, sequence, last };
                user.send(datagram.text().as_bytes()).await.unwrap();
                let mut buffer = [0; 256];
                let length = timeout(Duration::from_secs(20), user.recv(&mut buffer)).await.unwrap().unwrap();
                assert_eq!(Datagram::parse_echo(&buffer[..length]), Some(("lb7-1", datagram)));
                // The task that answers is done with the last datagram once others had their turn.
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                assert_eq!(known.borrow().len(), usize::from(!last), "after {sequence}");
            }
        };
        LocalSet::new().run_until(work).await;
    }
}
