//! What coverage finds to be wrong with the name server's reading and writing of packets. `scripts/fuzz` builds and runs it.
//!
//! `LB_CORPUS=FOLDER` writes the corpus there, a file for each packet, before anything else.

#![no_main]

use std::path::Path;
use std::sync::OnceLock;
use std::{env, fs};

use lb_tests::hostile::{Server, corpus};
use lb_user::dns::wire::Transport;
use libfuzzer_sys::fuzz_target;

static SERVER: OnceLock<Server> = OnceLock::new();

fuzz_target!(
    init: {
        if let Some(folder) = env::var_os("LB_CORPUS") {
            for (number, packet) in corpus().iter().enumerate() {
                fs::write(Path::new(&folder).join(format!("corpus-{number}")), packet).expect("the corpus");
            }
        }
    },
    |packet: &[u8]| {
        let server = SERVER.get_or_init(Server::default);
        for transport in [Transport::Udp, Transport::Tcp] {
            server.check(packet, transport, packet.len() as u64);
        }
    }
);
