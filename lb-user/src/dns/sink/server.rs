//! Which server a sink speaks to, as configured; its secrets are read from files when they are needed.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::gdnsd::Gdnsd;
use super::powerdns::PowerDns;
use super::rfc2136::Rfc2136;
use super::skydns::SkyDns;
use super::zone_files::ZoneFiles;
use super::{Changes, Place, Records, SinkError, Store};
use crate::dns::ZoneConfig;
use crate::dns::tsig::{Key, SecretError, secret};

/// A server of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// One that takes dynamic updates.
    Rfc2136 {
        /// Its address and port.
        address: SocketAddr,
        /// What updates are signed with.
        key: Option<Key>,
    },
    /// PowerDNS, by its API.
    PowerDns {
        /// Where the API is; the first that answers is used.
        urls: Vec<String>,
        /// File with the API key.
        secret: PathBuf,
        /// The server's id in the API.
        server: String,
    },
    /// etcd, from which CoreDNS answers.
    Etcd {
        /// Its members; the first that answers is used.
        urls: Vec<String>,
        /// CoreDNS's `path`.
        prefix: String,
    },
    /// gdnsd, by the file of its plugin `extfile`.
    Gdnsd {
        /// The file.
        file: PathBuf,
    },
    /// One that reads zone files.
    File {
        /// Where they are.
        folder: PathBuf,
        /// Program and arguments that have the server read them; empty: it does so by itself.
        reload: Vec<String>,
        /// The zones.
        zones: Vec<ZoneConfig>,
    },
}

/// The way to speak to a server.
pub enum Way {
    /// It holds the addresses of names.
    Records(Box<dyn Store>),
    /// It chooses by itself, by whether addresses work.
    States(Box<dyn Store<IpAddr, bool>>),
}

/// What a server is spoken to with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Dynamic updates.
    Rfc2136,
    /// PowerDNS's API.
    PowerDns,
    /// etcd's API.
    Etcd,
    /// gdnsd's file of states.
    Gdnsd,
    /// Zone files.
    File,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [Kind::Rfc2136, Kind::PowerDns, Kind::Etcd, Kind::Gdnsd, Kind::File];

    /// The name in configurations, in what `lb dns status` shows, and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Rfc2136 => "rfc2136",
            Kind::PowerDns => "powerdns",
            Kind::Etcd => "etcd",
            Kind::Gdnsd => "gdnsd",
            Kind::File => "file",
        }
    }

    /// Whether agents of several nodes can write to the same one.
    pub const fn is_shared(self) -> bool {
        match self {
            Kind::Rfc2136 | Kind::PowerDns | Kind::Etcd => true,
            Kind::Gdnsd | Kind::File => false,
        }
    }
}

impl From<SecretError> for SinkError {
    fn from(error: SecretError) -> Self {
        SinkError { place: error.file, what: error.what }
    }
}

impl Server {
    /// Its kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Server::Rfc2136 { .. } => Kind::Rfc2136,
            Server::PowerDns { .. } => Kind::PowerDns,
            Server::Etcd { .. } => Kind::Etcd,
            Server::Gdnsd { .. } => Kind::Gdnsd,
            Server::File { .. } => Kind::File,
        }
    }

    /// The way to speak to it. A secret that cannot be read is an error of each attempt, until it can.
    pub fn open(&self) -> Way {
        match self.clone() {
            Server::Rfc2136 { address, key } => opened(move || {
                Ok(Box::new(Rfc2136::new(address, key.as_ref().map(Key::signer).transpose()?)))
            }),
            Server::PowerDns { urls, secret: file, server } => {
                opened(move || Ok(Box::new(PowerDns::new(urls.clone(), secret(&file)?, server.clone()))))
            }
            Server::Etcd { urls, prefix } => Way::Records(Box::new(SkyDns::new(urls, &prefix))),
            Server::Gdnsd { file } => Way::States(Box::new(Gdnsd::new(file))),
            Server::File { folder, reload, zones } => {
                Way::Records(Box::new(ZoneFiles::new(folder, reload, &zones)))
            }
        }
    }
}

/// A server that is opened when it is needed, and anew after a failure: its secret may have been corrected.
struct Opened<O> {
    open: O,
    store: Option<Box<dyn Store>>,
}

fn opened(open: impl Fn() -> Result<Box<dyn Store>, SinkError> + Send + Sync + 'static) -> Way {
    Way::Records(Box::new(Opened { open, store: None }))
}

impl<O: Fn() -> Result<Box<dyn Store>, SinkError>> Opened<O> {
    fn store(&mut self) -> Result<&mut dyn Store, SinkError> {
        let store = match self.store.take() {
            Some(store) => store,
            None => (self.open)()?,
        };
        Ok(&mut **self.store.insert(store))
    }

    fn keep_if<T>(&mut self, done: Result<T, SinkError>) -> Result<T, SinkError> {
        if done.is_err() {
            self.store = None;
        }
        done
    }
}

impl<O: Fn() -> Result<Box<dyn Store>, SinkError> + Send + Sync> Store for Opened<O> {
    fn read<'a>(&'a mut self, places: &'a BTreeSet<Place>) -> BoxFuture<'a, Result<Records, SinkError>> {
        async move {
            let done = self.store()?.read(places).await;
            self.keep_if(done)
        }
        .boxed()
    }

    fn write<'a>(&'a mut self, changes: &'a Changes) -> BoxFuture<'a, Result<(), SinkError>> {
        async move {
            let done = self.store()?.write(changes).await;
            self.keep_if(done)
        }
        .boxed()
    }

    fn swap<'a>(
        &'a mut self,
        have: &'a Records,
        changes: &'a Changes,
    ) -> BoxFuture<'a, Result<bool, SinkError>> {
        async move {
            let done = self.store()?.swap(have, changes).await;
            self.keep_if(done)
        }
        .boxed()
    }
}
