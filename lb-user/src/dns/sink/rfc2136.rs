//! Dynamic updates (RFC 2136) over TCP, signed by TSIG (RFC 8945): BIND, Knot, PowerDNS and others.
//!
//! Places are read by plain questions, many at a time on one connection. The places of a zone that change are written by
//! one update, which a server applies as a whole; each is deleted and written anew.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use futures::future::BoxFuture;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode, UpdateMessage};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, LowerName, Name, RData, Record, RecordType, TSigner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Addresses, Changes, Place, Records, SinkError, Store};

/// How long the server gets to answer at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions that are sent before the first answer is read.
const AT_ONCE: usize = 100;
/// Places in one update: each takes some records of at most some hundred bytes, and a message has 65 535.
const PER_UPDATE: usize = 100;

/// A server that takes dynamic updates.
pub struct Rfc2136 {
    server: SocketAddr,
    key: Option<TSigner>,
}

impl Rfc2136 {
    /// The server, and the key that updates are signed with.
    pub fn new(server: SocketAddr, key: Option<TSigner>) -> Self {
        Rfc2136 { server, key }
    }

    async fn find(&self, places: &BTreeSet<Place>) -> Result<Records, SinkError> {
        let mut found = Records::new();
        let places: Vec<&Place> = places.iter().collect();
        let Some(mut connection) = self.connect_for(&places).await? else { return Ok(found) };
        for some in places.chunks(AT_ONCE) {
            for (id, place) in (0..).zip(some) {
                let question = question(id, place).to_vec().map_err(|error| self.error(error))?;
                self.in_time(connection.send(&question)).await?;
            }
            for _ in some {
                let answer = self.in_time(connection.receive()).await?;
                let answer = Message::from_vec(&answer).map_err(|error| self.error(error))?;
                let Some(place) = some.get(usize::from(answer.metadata.id)) else {
                    return Err(self.error("an answer to no question of ours"));
                };
                if let Some(addresses) = self.addresses(place, &answer)? {
                    found.insert((*place).clone(), addresses);
                }
            }
        }
        Ok(found)
    }

    /// No connection without anything to ask.
    async fn connect_for(&self, places: &[&Place]) -> Result<Option<Connection>, SinkError> {
        if places.is_empty() {
            return Ok(None);
        }
        self.in_time(Connection::open(self.server)).await.map(Some)
    }

    fn addresses(&self, place: &Place, answer: &Message) -> Result<Option<Addresses>, SinkError> {
        match answer.metadata.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => {}
            code => {
                return Err(
                    self.error(format_args!("{code} when asked for {place}; does it serve {}?", place.zone))
                );
            }
        }
        let (mut ttl, mut all) = (u32::MAX, BTreeSet::new());
        for record in &answer.answers {
            let address = match &record.data {
                RData::A(A(address)) => IpAddr::from(*address),
                RData::AAAA(AAAA(address)) => IpAddr::from(*address),
                RData::CNAME(to) => {
                    let to = &to.0;
                    return Err(
                        self.error(format_args!("{} is an alias of {to} there; remove that", place.name))
                    );
                }
                _ => continue,
            };
            if LowerName::new(&record.name) == place.name {
                all.insert(address);
                ttl = ttl.min(record.ttl);
            }
        }
        Ok((!all.is_empty()).then_some(Addresses { ttl, all }))
    }

    async fn update(&self, changes: &Changes) -> Result<(), SinkError> {
        let mut by_zone: BTreeMap<&LowerName, Vec<(&Place, &Option<Addresses>)>> = BTreeMap::new();
        for (place, addresses) in changes {
            by_zone.entry(&place.zone).or_default().push((place, addresses));
        }
        for (zone, all) in by_zone {
            for some in all.chunks(PER_UPDATE) {
                self.apply(zone, update(zone, some)).await?;
            }
        }
        Ok(())
    }

    /// Has the server apply an update, whose answer must be signed as the update is.
    async fn apply(&self, zone: &LowerName, message: Message) -> Result<(), SinkError> {
        let code = self.try_apply(message).await?;
        self.judge(zone, code)
    }

    fn judge(&self, zone: &LowerName, code: ResponseCode) -> Result<(), SinkError> {
        match code {
            ResponseCode::NoError => Ok(()),
            ResponseCode::Refused => {
                Err(self.error(format_args!("it refuses updates of {zone} with this key; allow them there")))
            }
            ResponseCode::NotAuth => {
                Err(self.error(format_args!("it does not know this key, or is not the primary of {zone}")))
            }
            code => Err(self.error(format_args!("{code} for an update of {zone}"))),
        }
    }

    /// What the server says of an update.
    async fn try_apply(&self, mut message: Message) -> Result<ResponseCode, SinkError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut verifier = match &self.key {
            Some(key) => message.finalize(key, now).map_err(|error| self.error(error))?,
            None => None,
        };
        let bytes = message.to_vec().map_err(|error| self.error(error))?;
        let mut connection = self.in_time(Connection::open(self.server)).await?;
        self.in_time(connection.send(&bytes)).await?;
        let answer = self.in_time(connection.receive()).await?;
        let plain = Message::from_vec(&answer).map_err(|error| self.error(error))?;
        let code = plain.metadata.response_code;
        if let Some(verifier) = &mut verifier
            && plain.signature.is_some()
            && let Err(error) = verifier.verify(&answer)
        {
            // An error about the signature is not signed itself, or not as asked.
            return match code {
                ResponseCode::NoError => Err(self.error(format_args!("its signature: {error}"))),
                _ => Ok(code),
            };
        }
        if self.key.is_some() && plain.signature.is_none() && code == ResponseCode::NoError {
            return Err(self.error("its answer is not signed, so that anybody may have written it"));
        }
        Ok(code)
    }

    async fn in_time<T>(&self, work: impl Future<Output = io::Result<T>>) -> Result<T, SinkError> {
        match timeout(PATIENCE, work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(self.error(error)),
            Err(_) => Err(self.error(format_args!("no answer within {PATIENCE:?}"))),
        }
    }

    fn error(&self, what: impl ToString) -> SinkError {
        SinkError { place: format!("name server {}", self.server), what: what.to_string() }
    }
}

impl Store for Rfc2136 {
    fn read<'a>(&'a mut self, places: &'a BTreeSet<Place>) -> BoxFuture<'a, Result<Records, SinkError>> {
        self.find(places).boxed()
    }

    fn write<'a>(&'a mut self, changes: &'a Changes) -> BoxFuture<'a, Result<(), SinkError>> {
        self.update(changes).boxed()
    }

    /// By prerequisites, so that of several who try at once one succeeds.
    fn swap<'a>(
        &'a mut self,
        have: &'a Records,
        changes: &'a Changes,
    ) -> BoxFuture<'a, Result<bool, SinkError>> {
        async move {
            let Some(zone) = changes.keys().next().map(|place| &place.zone) else { return Ok(true) };
            let all: Vec<_> = changes.iter().collect();
            let mut message = update(zone, &all);
            for place in changes.keys() {
                match have.get(place) {
                    Some(addresses) => message.add_pre_requisites(prerequisites(place, addresses)),
                    None => message.add_pre_requisite(absence(place)),
                }
            }
            match self.try_apply(message).await? {
                ResponseCode::NXRRSet | ResponseCode::YXRRSet => Ok(false),
                code => self.judge(zone, code).map(|()| true),
            }
        }
        .boxed()
    }
}

/// Messages over TCP, each after its length (RFC 1035, section 4.2.2).
struct Connection(TcpStream);

impl Connection {
    async fn open(server: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        Ok(Connection(stream))
    }

    async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let length = u16::try_from(message.len()).map_err(io::Error::other)?;
        self.0.write_all(&[&length.to_be_bytes(), message].concat()).await
    }

    async fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut message = vec![0; usize::from(self.0.read_u16().await?)];
        self.0.read_exact(&mut message).await?;
        Ok(message)
    }
}

fn question(id: u16, place: &Place) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from(&place.name), place.kind()));
    message
}

/// An update without anything in it.
fn empty_update(zone: &LowerName) -> Message {
    let mut message = Message::new(rand_id(), MessageType::Query, OpCode::Update);
    message.add_zone(Query::query(Name::from(zone), RecordType::SOA));
    message
}

/// The records of a place.
fn records<'a>(place: &'a Place, addresses: &'a Addresses) -> impl Iterator<Item = Record> + 'a {
    addresses.all.iter().map(|address| {
        let data = match address {
            IpAddr::V4(address) => RData::A(A(*address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
        };
        Record::from_rdata(Name::from(&place.name), addresses.ttl, data)
    })
}

/// Has the records of a place removed (RFC 2136, section 2.5.2).
fn removal(place: &Place) -> Record {
    nothing(place, DNSClass::ANY)
}

/// There are exactly these records at a place (section 2.4.2).
fn prerequisites<'a>(place: &'a Place, addresses: &'a Addresses) -> impl Iterator<Item = Record> + 'a {
    records(place, addresses).map(|mut record| {
        record.ttl = 0;
        record
    })
}

/// There are no records at a place (section 2.4.3).
fn absence(place: &Place) -> Record {
    nothing(place, DNSClass::NONE)
}

fn nothing(place: &Place, class: DNSClass) -> Record {
    let mut record = Record::update0(Name::from(&place.name), 0, place.kind());
    record.dns_class = class;
    record
}

fn update(zone: &LowerName, changes: &[(&Place, &Option<Addresses>)]) -> Message {
    let mut message = empty_update(zone);
    for (place, addresses) in changes {
        message.add_update(removal(place));
        if let Some(addresses) = addresses {
            message.add_updates(records(place, addresses));
        }
    }
    message
}

/// Nobody on the way can answer in the server's place if updates are signed, so the number need not be hard to guess.
fn rand_id() -> u16 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos() as u16
}
