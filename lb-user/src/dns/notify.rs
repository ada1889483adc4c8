//! Tells secondaries that a zone has changed (NOTIFY, RFC 1996), by UDP from an address that this server listens on.
//!
//! Tasks: one per zone and secondary, owned by the [`Notifier`]; dropping that ends them. Each waits for another serial,
//! tells it until the secondary has answered or has had its chances, and waits again. A secondary that answers nothing
//! learns of the change when it asks by itself (`soa.refresh`).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{LowerName, Name, Record, RecordType};
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::Config;
use super::counters::{Counter, Counters};
use super::policy::mix;
use super::publish::{self, Editions};
use super::server::{seed, since_1970};
use super::tsig::Key;
use super::wire::LARGEST_UDP;

/// Messages about one serial, at most.
const CHANCES: u32 = 8;
/// How long the first answer may take; each further one twice as long.
const FIRST: Duration = Duration::from_secs(1);
/// How long any answer may take (RFC 1996, section 3.6).
const LONGEST: Duration = Duration::from_secs(60);
/// Least time between two changes that a secondary is told of, so that it is not kept busy by a member that comes and goes.
const PAUSE: Duration = Duration::from_secs(1);

/// What a secondary was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecondaryStatus {
    /// The zone.
    pub zone: String,
    /// Where the secondary is.
    pub address: SocketAddr,
    /// The serial that it was last told.
    pub serial: Option<u32>,
    /// It has answered to that.
    pub answered: bool,
    /// Why it has not.
    pub error: Option<String>,
}

/// Keeps secondaries informed.
pub struct Notifier {
    sources: Vec<IpAddr>,
    counters: Arc<Counters>,
    secondaries: BTreeMap<(LowerName, SocketAddr), Secondary>,
}

struct Secondary {
    key: Option<Key>,
    soa: watch::Sender<Option<Record>>,
    status: watch::Receiver<SecondaryStatus>,
    _task: JoinSet<()>,
}

impl Notifier {
    /// One that speaks from these addresses.
    pub fn new(sources: &[SocketAddr], counters: Arc<Counters>) -> Self {
        let sources = sources.iter().map(SocketAddr::ip).collect();
        Notifier { sources, counters, secondaries: BTreeMap::new() }
    }

    /// Starts what is new and ends what is gone. Must be called within a Tokio runtime.
    pub fn go_by(&mut self, config: &Config) {
        let zones = config.zones.iter().filter_map(|zone| Some((zone, zone.transfer.as_ref()?)));
        let all = zones.flat_map(|(zone, transfer)| {
            let apex = LowerName::new(&zone.apex);
            transfer.notify.iter().map(move |address| ((apex.clone(), *address), transfer.key.clone()))
        });
        let all: BTreeMap<_, _> = all.collect();
        self.secondaries.retain(|place, secondary| all.get(place) == Some(&secondary.key));
        for ((zone, address), key) in all {
            let (sources, counters) = (&self.sources, &self.counters);
            self.secondaries.entry((zone.clone(), address)).or_insert_with(|| {
                let (soa, wanted) = watch::channel(None);
                let first = SecondaryStatus {
                    zone: zone.to_string(),
                    address,
                    serial: None,
                    answered: false,
                    error: None,
                };
                let (told, status) = watch::channel(first);
                let source = sources.iter().find(|source| source.is_ipv4() == address.is_ipv4());
                let source = source.copied().unwrap_or_else(|| unspecified(address));
                let teller =
                    Teller { source, address, key: key.clone(), counters: Arc::clone(counters), told };
                let mut task = JoinSet::new();
                task.spawn(teller.run(wanted));
                Secondary { key, soa, status, _task: task }
            });
        }
    }

    /// Has the secondaries know what is published.
    pub fn publish(&self, editions: &Editions) {
        for ((zone, _), secondary) in &self.secondaries {
            let Some(edition) = editions.get(zone) else { continue };
            secondary.soa.send_if_modified(|before| {
                let is_new = before.as_ref().is_none_or(|before| publish::serial(before) != edition.serial());
                *before = Some(edition.soa().clone());
                is_new
            });
        }
    }

    /// What the secondaries were told.
    pub fn status(&self) -> Vec<SecondaryStatus> {
        self.secondaries.values().map(|secondary| secondary.status.borrow().clone()).collect()
    }
}

fn unspecified(of: SocketAddr) -> IpAddr {
    match of {
        SocketAddr::V4(_) => IpAddr::from([0u8; 4]),
        SocketAddr::V6(_) => IpAddr::from([0u8; 16]),
    }
}

struct Teller {
    source: IpAddr,
    address: SocketAddr,
    key: Option<Key>,
    counters: Arc<Counters>,
    told: watch::Sender<SecondaryStatus>,
}

impl Teller {
    async fn run(self, mut wanted: watch::Receiver<Option<Record>>) {
        loop {
            let soa = wanted.borrow_and_update().clone();
            let changed = tokio::select! {
                changed = wanted.changed() => changed,
                () = self.tell(soa) => wanted.changed().await,
            };
            if changed.is_err() {
                return;
            }
            sleep(PAUSE).await;
        }
    }

    async fn tell(&self, soa: Option<Record>) {
        let Some(soa) = soa else { return };
        self.told.send_modify(|told| {
            (told.serial, told.answered, told.error) = (Some(publish::serial(&soa)), false, None);
        });
        for chance in 0..CHANCES {
            let end = Instant::now() + patience(chance);
            self.counters.count(Counter::NotifySent);
            let error = match timeout_at(end, self.ask(&soa)).await {
                Ok(Ok(())) => {
                    self.counters.count(Counter::NotifyTaken);
                    self.told.send_modify(|told| (told.answered, told.error) = (true, None));
                    return;
                }
                Ok(Err(error)) => error,
                Err(_) => format!(
                    "no answer within {:?}; is it there, and a secondary of the zone?",
                    patience(chance)
                ),
            };
            self.told.send_modify(|told| told.error = Some(error));
            sleep_until(end).await;
        }
    }

    /// One message, and its answer.
    async fn ask(&self, soa: &Record) -> Result<(), String> {
        let mut message = notification(soa, mix(seed()) as u16);
        let id = message.metadata.id;
        let mut verifier = match &self.key {
            Some(key) => {
                let signer = key.signer().map_err(|error| error.to_string())?;
                message.finalize(&signer, since_1970().as_secs()).map_err(|error| error.to_string())?
            }
            None => None,
        };
        let bytes = message.to_vec().map_err(|error| error.to_string())?;
        let sent = async {
            let socket = UdpSocket::bind((self.source, 0)).await?;
            socket.connect(self.address).await?;
            socket.send(&bytes).await?;
            io::Result::Ok(socket)
        };
        let socket = sent.await.map_err(|error| format!("from {}: {error}", self.source))?;
        let mut buffer = [0; LARGEST_UDP as usize];
        loop {
            let length = socket.recv(&mut buffer).await.map_err(|error| error.to_string())?;
            let Ok(answer) = Message::from_vec(&buffer[..length]) else { continue };
            let metadata = &answer.metadata;
            if (metadata.id, metadata.message_type, metadata.op_code)
                != (id, MessageType::Response, OpCode::Notify)
            {
                continue;
            }
            // Anybody can write an answer that is not signed; one that the server could not sign says why.
            let verified =
                verifier.as_mut().is_none_or(|verifier| verifier.verify(&buffer[..length]).is_ok());
            match metadata.response_code {
                ResponseCode::NoError if verified => return Ok(()),
                ResponseCode::NoError => {}
                code => {
                    return Err(format!(
                        "{code}; allow messages from {} there, with the same key",
                        self.source
                    ));
                }
            }
        }
    }
}

/// How long an answer may take.
fn patience(chance: u32) -> Duration {
    (FIRST * 2u32.pow(chance)).min(LONGEST)
}

/// The message that a zone has changed, with what has changed most (RFC 1996, section 3.7).
fn notification(soa: &Record, id: u16) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Notify);
    message.metadata.authoritative = true;
    message.add_query(Query::query(Name::clone(&soa.name), RecordType::SOA));
    message.add_answer(soa.clone());
    message
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::RData;
    use hickory_proto::rr::rdata::SOA;

    use super::*;

    fn soa(serial: u32) -> Record {
        let name = |text: &str| Name::from_ascii(text).unwrap();
        let data = SOA::new(name("ns.example.org."), name("h.example.org."), serial, 1, 1, 1, 1);
        Record::from_rdata(name("example.org."), 60, RData::SOA(data))
    }

    #[test]
    fn patience_grows_to_a_minute() {
        assert_eq!(
            (0..CHANCES).map(|n| patience(n).as_secs()).collect::<Vec<_>>(),
            [1, 2, 4, 8, 16, 32, 60, 60]
        );
    }

    #[tokio::test]
    async fn a_secondary_is_told_again_until_it_answers_and_then_of_the_next_change() {
        let secondary = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (told, status) = watch::channel(SecondaryStatus {
            zone: "example.org.".into(),
            address: secondary.local_addr().unwrap(),
            serial: None,
            answered: false,
            error: None,
        });
        let (wanted, wish) = watch::channel(Some(soa(7)));
        let counters = Arc::new(Counters::default());
        let teller = Teller {
            source: [127, 0, 0, 1].into(),
            address: secondary.local_addr().unwrap(),
            key: None,
            counters: Arc::clone(&counters),
            told,
        };
        let _task = tokio::spawn(teller.run(wish));
        let mut buffer = [0; 512];
        let mut serials = Vec::new();
        // The first message gets lost.
        for answered in [false, true, true] {
            let (length, from) = secondary.recv_from(&mut buffer).await.unwrap();
            let mut message = Message::from_vec(&buffer[..length]).unwrap();
            assert_eq!(
                (message.metadata.op_code, message.queries[0].query_type()),
                (OpCode::Notify, RecordType::SOA)
            );
            serials.push(publish::serial(&message.answers[0]));
            if answered {
                message.metadata.message_type = MessageType::Response;
                message.answers.clear();
                // What is for another question is no answer.
                message.metadata.id ^= 1;
                secondary.send_to(&message.to_vec().unwrap(), from).await.unwrap();
                message.metadata.id ^= 1;
                secondary.send_to(&message.to_vec().unwrap(), from).await.unwrap();
                let mut status = status.clone();
                status.wait_for(|status| status.answered).await.unwrap();
                wanted.send_replace(Some(soa(8)));
            }
        }
        assert_eq!(serials, [7, 7, 8]);
        assert_eq!(counters.value(Counter::NotifySent as usize), 3);
    }
}
