//! Many datagrams per system call: of questions that wait, up to 32 come by one, and their answers go by another. A single
//! one is answered at once.

use std::io;
use std::mem;
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr;

use socket2::{SockAddr, SockAddrStorage};

use super::wire::LARGEST_UDP;

/// Datagrams at once.
const MOST: usize = 32;
/// Bytes of a question that are read: a longer one is none (its end is cut off, which makes it malformed).
const LONGEST_QUESTION: usize = 4096;

/// Room for questions and answers of one thread.
pub(super) struct Batch {
    questions: Box<[[u8; LONGEST_QUESTION]]>,
    /// Where they come from, and how much of that the kernel has written.
    clients: [(SockAddrStorage, libc::socklen_t); MOST],
    answers: Vec<Vec<u8>>,
}

impl Batch {
    pub fn new() -> Self {
        Batch {
            questions: vec![[0; LONGEST_QUESTION]; MOST].into(),
            clients: std::array::from_fn(|_| (SockAddrStorage::zeroed(), 0)),
            answers: (0..MOST).map(|_| Vec::with_capacity(LARGEST_UDP.into())).collect(),
        }
    }

    /// Waits for questions, has each answered, and sends what `answer` has written, if anything. Returns how many answers the
    /// kernel did not take.
    pub fn serve(
        &mut self,
        socket: &UdpSocket,
        mut answer: impl FnMut(&[u8], SocketAddr, &mut Vec<u8>),
    ) -> io::Result<usize> {
        let mut lengths = [0; MOST];
        let count = self.receive(socket, &mut lengths)?;
        let mut answered = 0;
        for (number, length) in lengths[..count].iter().enumerate() {
            let Some(from) = address(&mut self.clients[number]) else { continue };
            let out = &mut self.answers[answered];
            answer(&self.questions[number][..*length], from, out);
            if !out.is_empty() {
                // Its client beside it; the one that was there got no answer.
                self.clients.swap(answered, number);
                answered += 1;
            }
        }
        let (mut next, mut unsent) = (0, 0);
        while next < answered {
            match self.send(socket, next..answered) {
                Ok(gone) => next += gone,
                // It is the first of them that cannot be sent.
                Err(_) => (next, unsent) = (next + 1, unsent + 1),
            }
        }
        Ok(unsent)
    }

    /// Waits for a question, and takes as many as there are, each with its length. Returns how many came.
    fn receive(&mut self, socket: &UdpSocket, lengths: &mut [usize; MOST]) -> io::Result<usize> {
        let mut parts: [_; MOST] = std::array::from_fn(|number| part(&mut self.questions[number]));
        let mut headers: [_; MOST] = std::array::from_fn(|number| {
            let (client, _) = &mut self.clients[number];
            let length = client.size_of();
            header(&mut parts[number], ptr::from_mut(client).cast(), length)
        });
        let flags = libc::MSG_WAITFORONE as _;
        // SAFETY: each header points to a name and to a part of the questions, which nobody else has until the call returns.
        let count = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), MOST as _, flags, ptr::null_mut())
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (number, header) in headers[..count].iter().enumerate() {
            lengths[number] = header.msg_len as usize;
            self.clients[number].1 = header.msg_hdr.msg_namelen;
        }
        Ok(count)
    }

    /// Sends some answers, each to its client; how many the kernel took, one at least.
    fn send(&mut self, socket: &UdpSocket, answers: Range<usize>) -> io::Result<usize> {
        let mut parts: [_; MOST] = std::array::from_fn(|number| part(&mut self.answers[number]));
        let mut headers: [_; MOST] = std::array::from_fn(|number| {
            let (client, length) = &mut self.clients[number];
            header(&mut parts[number], ptr::from_mut(client).cast(), *length)
        });
        let headers = &mut headers[answers];
        // SAFETY: each header points to a client and to an answer, which the kernel reads until the call returns.
        let count =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), headers.len() as _, 0) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }
}

/// The address that the kernel has written, if it is one of IP.
fn address((client, length): &mut (SockAddrStorage, libc::socklen_t)) -> Option<SocketAddr> {
    let mut copy = SockAddrStorage::zeroed();
    // SAFETY: both are such a structure; the kernel has written as much of it as it says.
    unsafe {
        *copy.view_as::<libc::sockaddr_storage>() = *client.view_as();
        SockAddr::new(copy, *length).as_socket()
    }
}

fn part(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
}

fn header(part: &mut libc::iovec, name: *mut libc::c_void, length: libc::socklen_t) -> libc::mmsghdr {
    // SAFETY: a structure of numbers and pointers, of which none and zero are good values.
    let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
    (header.msg_hdr.msg_name, header.msg_hdr.msg_namelen) = (name, length);
    (header.msg_hdr.msg_iov, header.msg_hdr.msg_iovlen) = (part, 1);
    header
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn many_questions_are_answered_by_a_few_calls_each_to_its_asker() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let server = UdpSocket::bind(any).unwrap();
            let clients: Vec<UdpSocket> = (0..MOST + 10).map(|_| UdpSocket::bind(any).unwrap()).collect();
            for (number, client) in clients.iter().enumerate() {
                client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                client.send_to(&[number as u8; 3], server.local_addr().unwrap()).unwrap();
            }
            let (mut batch, mut calls, mut seen) = (Batch::new(), 0, 0);
            while seen < clients.len() {
                let unsent = batch.serve(&server, |question, from, out| {
                    assert_eq!(question.len(), 3);
                    assert_eq!(from.ip(), server.local_addr().unwrap().ip());
                    seen += 1;
                    out.clear();
                    // One of them gets no answer.
                    if question[0] != 7 {
                        out.extend([question[0], 1]);
                    }
                });
                assert_eq!(unsent.unwrap(), 0);
                calls += 1;
            }
            assert_eq!(calls, 2);
            for (number, client) in clients.iter().enumerate().filter(|(number, _)| *number != 7) {
                let mut answer = [0; 8];
                let (length, _) = client.recv_from(&mut answer).unwrap();
                assert_eq!(answer[..length], [number as u8, 1]);
            }
        }
    }

    #[test]
    fn who_hears_nothing_for_a_while_is_told() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let waited = Batch::new().serve(&server, |_, _, _| unreachable!());
        assert_eq!(waited.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
