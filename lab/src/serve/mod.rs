//! What answers transfers and datagrams, inside nodes: `lab serve`.
//!
//! nginx answers all other requests, but it cannot hash what it receives, and what it sends comes from files: content
//! that follows from the request itself shows when two connections are mixed up. HAProxy sends `/bulk/` to these servers.

use std::net::{Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use crate::load::udp;
use crate::topology::vips;

pub mod bulk;
pub mod echo;

/// What to answer, and as whom.
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(subcommand)]
    service: Service,
}

#[derive(Debug, Subcommand)]
enum Service {
    /// Transfers over HTTP
    Bulk {
        /// The name of this server
        name: String,
    },
    /// Datagrams to VIPs
    Echo {
        /// The name of this L7 host
        name: String,
    },
}

/// The command: answers until it is killed.
pub fn run(args: ServeArgs) -> Result<u8> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("making a runtime")?;
    LocalSet::new().block_on(&runtime, async {
        match args.service {
            Service::Bulk { name } => {
                let address = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), bulk::PORT);
                let listener = TcpListener::bind(address).await.with_context(|| format!("port {address}"))?;
                bulk::serve(listener, name).await;
            }
            Service::Echo { name } => {
                let addresses = vips().into_iter().map(|vip| SocketAddr::new(vip, udp::PORT));
                echo::serve(addresses.collect(), name).await?;
            }
        }
        Ok(0)
    })
}
