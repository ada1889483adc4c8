//! Counts this machine's connections while somebody needs to know.
//!
//! One task, owned by the [`Sampler`]; the kernel is asked on a blocking thread. It counts at most once a second, and only while
//! several generations of a pool are in force, while this host drains, or shortly after somebody has asked.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, timeout};

use super::explain::{by_pool, own_names};
use super::{Explainer, HostConnections, sockets};
use crate::config::Config;
use crate::model::{HostState, Model};

/// From one count to the next.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a question keeps it counting.
const INTEREST: Duration = Duration::from_secs(10);
/// How old a count may be that answers a question.
const FRESH: Duration = Duration::from_millis(1500);
/// Most time that a question waits for a count.
const PATIENCE: Duration = Duration::from_millis(1500);

/// What the runner tells the sampler.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What packets are treated by.
    pub config: Arc<Config>,
    /// Version of the manifest that the kernel has confirmed.
    pub manifest_version: Option<u64>,
}

/// Counts until it is dropped.
pub struct Sampler {
    subject: watch::Sender<Option<Subject>>,
    handle: SamplerHandle,
    _task: JoinSet<()>,
}

/// Asks for counts.
#[derive(Clone)]
pub struct SamplerHandle {
    subject: watch::Receiver<Option<Subject>>,
    asked: watch::Sender<Option<Instant>>,
    sample: watch::Receiver<Sample>,
}

#[derive(Clone, Debug, Default)]
struct Sample {
    begun: Option<Instant>,
    counts: Vec<HostConnections>,
}

impl Sampler {
    /// Starts; must be called within a Tokio runtime.
    pub fn start() -> Self {
        let subject = watch::Sender::default();
        let asked = watch::Sender::default();
        let (publish, sample) = watch::channel(Sample::default());
        let mut task = JoinSet::new();
        task.spawn(run(subject.subscribe(), asked.subscribe(), publish));
        let handle = SamplerHandle { subject: subject.subscribe(), asked, sample };
        Sampler { subject, handle, _task: task }
    }

    /// Counts by this from now on.
    pub fn update(&self, config: &Arc<Config>, manifest_version: Option<u64>) {
        self.subject.send_if_modified(|subject| {
            let same = subject.as_ref().is_some_and(|subject| {
                Arc::ptr_eq(&subject.config, config) && subject.manifest_version == manifest_version
            });
            *subject = Some(Subject { config: Arc::clone(config), manifest_version });
            !same
        });
    }

    /// The way to ask.
    pub fn handle(&self) -> SamplerHandle {
        self.handle.clone()
    }
}

impl SamplerHandle {
    /// What packets are treated by.
    pub fn config(&self) -> Option<Arc<Config>> {
        self.subject.borrow().as_ref().map(|subject| Arc::clone(&subject.config))
    }

    /// A count that is not older than a moment. Nothing on a node without the role of a host.
    pub async fn counts(&self) -> Vec<HostConnections> {
        let asked = Instant::now();
        self.asked.send_replace(Some(asked));
        if self.config().is_none_or(|config| config.host.is_none()) {
            return Vec::new();
        }
        let version = self.subject.borrow().as_ref().and_then(|subject| subject.manifest_version);
        let mut sample = self.sample.clone();
        let is_fresh = |sample: &Sample| {
            sample.begun.is_some_and(|begun| begun + FRESH >= asked)
                && sample.counts.iter().all(|count| count.manifest_version == version)
        };
        match timeout(PATIENCE, sample.wait_for(is_fresh)).await {
            Ok(Ok(sample)) => sample.counts.clone(),
            _ => Vec::new(),
        }
    }
}

async fn run(
    mut subject: watch::Receiver<Option<Subject>>,
    mut asked: watch::Receiver<Option<Instant>>,
    publish: watch::Sender<Sample>,
) {
    let mut explainers = Vec::new();
    loop {
        let now = subject.borrow_and_update().clone();
        let interest = asked.borrow_and_update().is_some_and(|asked| asked.elapsed() < INTEREST);
        let begun = Instant::now();
        if let Some(subject) = now.filter(|subject| subject.config.host.is_some()) {
            let known = std::mem::take(&mut explainers);
            let counting = spawn_blocking(move || count(&subject, known, interest));
            // A panic there has been told; the next round begins anew.
            if let Ok((Some(counts), known)) = counting.await {
                explainers = known;
                publish.send_replace(Sample { begun: Some(begun), counts });
                sleep(INTERVAL.saturating_sub(begun.elapsed())).await;
                continue;
            }
        }
        tokio::select! {
            changed = subject.changed() => if changed.is_err() { return },
            changed = asked.changed() => if changed.is_err() { return },
        }
    }
}

type Explainers = Vec<(String, Arc<Explainer>)>;

/// Counts, if it matters; and the tables that it was done with.
fn count(subject: &Subject, known: Explainers, interest: bool) -> (Option<Vec<HostConnections>>, Explainers) {
    let model = &subject.config.model;
    let names = own_names(model, &addresses());
    if !interest && !matters(model, &names) {
        return (None, Vec::new());
    }
    let label = |count: HostConnections| HostConnections {
        node: subject.config.node.clone(),
        manifest_version: subject.manifest_version,
        ..count
    };
    let failed = |pool: &String, host: &String, problem: String| {
        let (pool, host) = (pool.clone(), host.clone());
        label(HostConnections { pool, host, problem: Some(problem), ..HostConnections::default() })
    };
    let connections = sockets::connections();
    let mut explainers = Vec::new();
    let mut counts = Vec::new();
    let pools = connections.as_ref().map(|connections| by_pool(model, connections));
    for (pool, host) in &names {
        let kept = known.iter().find(|(name, kept)| name == pool && kept.is_for(&model.pools[pool], host));
        let explainer = match kept {
            Some((_, kept)) => Ok(Arc::clone(kept)),
            None => Explainer::new(&model.pools[pool], host).map(Arc::new),
        };
        match (&pools, explainer) {
            (Ok(pools), Ok(explainer)) => {
                counts.push(label(explainer.count(pool, pools.get(pool).map_or(&[], Vec::as_slice))));
                explainers.push((pool.clone(), explainer));
            }
            (Err(error), _) => {
                let advice = "is the kernel's tcp_diag module there?";
                counts.push(failed(pool, host, format!("cannot list connections: {error}; {advice}")));
            }
            (_, Err(error)) => counts.push(failed(pool, host, error.to_string())),
        }
    }
    (Some(counts), explainers)
}

/// Whether anybody will want to know without having asked.
fn matters(model: &Model, names: &BTreeMap<String, String>) -> bool {
    names.iter().any(|(pool, host)| {
        let pool = &model.pools[pool];
        !pool.others.is_empty() || pool.hosts.get(host).is_some_and(|host| host.state == HostState::Drain)
    })
}

/// The addresses of this machine.
fn addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let address = |storage: nix::sys::socket::SockaddrStorage| match storage.as_sockaddr_in() {
        Some(v4) => Some(IpAddr::V4(v4.ip())),
        None => storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())),
    };
    interfaces.filter_map(|interface| interface.address).filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::connections::Explanation;

    /// Loopback stands for the VIP and for the host, which the configuration refuses.
    fn subject(port: u16) -> Arc<Config> {
        let text = format!(
            "node: n\nhost: {{interfaces: [eth0], accept_from: [10.0.0.0/8]}}\npools: {{web: {{size: 251, hosts: {{a: \
             {{address4: 192.0.2.1}}}}}}}}\nservices: [{{vip: 198.51.100.1, port: {port}, pool: web}}]\n"
        );
        let mut config = Config::parse("lb.yaml", &text, "n").unwrap();
        let services = std::mem::take(&mut config.model.services);
        for (mut key, service) in services {
            key.vip = [127, 0, 0, 1].into();
            config.model.services.insert(key, service);
        }
        for host in config.model.pools.get_mut("web").unwrap().hosts.values_mut() {
            host.address4 = Some([127, 0, 0, 1].into());
        }
        Arc::new(config)
    }

    #[tokio::test]
    async fn a_question_is_answered_with_the_connections_of_this_moment() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let sampler = Sampler::start();
        assert!(sampler.handle().counts().await.is_empty(), "nothing is known yet");
        sampler.update(&subject(address.port()), Some(4));
        let none = sampler.handle().counts().await;
        assert_eq!(none.len(), 1, "{none:?}");
        assert_eq!((none[0].established, none[0].manifest_version), (0, Some(4)));
        let clients: Vec<_> =
            (0..3).map(|_| (TcpStream::connect(address).unwrap(), listener.accept().unwrap())).collect();
        sleep(FRESH).await;
        let counts = sampler.handle().counts().await;
        assert_eq!((counts[0].node.as_str(), counts[0].host.as_str(), counts[0].established), ("n", "a", 3));
        assert!(counts[0].by_generation.iter().all(|by| by.generation == Explanation::Generation(1)));
        assert!(!counts[0].safe && !counts[0].draining);
        drop(clients);
    }
}
