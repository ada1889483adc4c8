//! What is announced: VIPs that are decided on, and the addresses that a name server shares.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tokio::sync::watch;
use tokio::time::timeout;
use tracing::warn;

use super::Runner;
use crate::agent::SETTLE;
use crate::bgp::{Announcements, Prefix};
use crate::dns::anycast::AnycastStatus;
use crate::vip::Vip;

impl Runner {
    /// The name server's shared addresses are announced while it answers there.
    pub(in crate::agent) fn announce_shared(&mut self, anycast: watch::Receiver<Option<Vec<AnycastStatus>>>) {
        self.anycast = anycast;
    }

    /// Finds how far VIPs are that leave.
    pub(super) fn look_who_leaves(&mut self) {
        let bgp = self.bgp.borrow().clone();
        let (routes, has_bgp) = (self.routes.borrow().clone(), self.announcer.is_some());
        let unknown = bgp.is_starting() || self.inherited_until.is_some();
        let announced = |vip: Vip| match (&routes, has_bgp) {
            // It is somewhere by other means.
            (_, false) => Some(true),
            // A daemon that is started again gets it back.
            (Some(wanted), _) => Some(wanted.routes.contains(&vip.prefix())),
            (None, _) if bgp.up => Some(bgp.announced.contains(&vip.prefix())),
            (None, _) => (!unknown).then_some(false),
        };
        self.leaver.look(&self.config, &announced);
    }

    pub(super) fn announce(&mut self) {
        let (Some(bgp), Some(vips)) = (&self.config.bgp, &self.decision.vips) else { return };
        if self.inherited_until.is_some() && !*self.disabled.borrow() {
            self.inherited_until = None;
        }
        let mut routes: BTreeSet<Prefix> = vips.iter().map(|vip| vip.prefix()).collect();
        if let Some(dns) = self.config.dns.as_ref().filter(|_| !*self.disabled.borrow()) {
            match &*self.anycast.borrow_and_update() {
                Some(shared) => {
                    let answered = shared.iter().filter(|shared| shared.answers);
                    routes.extend(answered.map(|shared| Prefix::host(shared.address)));
                }
                // What an agent before this one announced stands until the server has been asked.
                None => {
                    let shared = dns.anycast.iter().map(|address| Prefix::host(*address));
                    let announced = &self.bgp.borrow().announced;
                    routes.extend(shared.filter(|prefix| announced.contains(prefix)));
                }
            }
        }
        let want = Announcements {
            routes,
            med: bgp.med,
            communities: bgp.communities.clone(),
            next_hop4: self.applied.source4,
            next_hop6: self.applied.source6,
        };
        self.routes.send_if_modified(|routes| {
            let differs = routes.as_ref() != Some(&want);
            *routes = Some(want);
            differs
        });
    }

    /// Nobody answers any more at the addresses that this agent's name server shares; other servers do.
    pub(super) async fn leave_shared(&mut self) {
        let Some(dns) = self.config.dns.clone().filter(|_| self.announcer.is_some()) else { return };
        let is_ours = |address: &IpAddr| dns.listen.iter().any(|listen| listen.ip() == *address);
        let ours: BTreeSet<Prefix> = dns
            .anycast
            .iter()
            .filter(|address| is_ours(address))
            .map(|address| Prefix::host(*address))
            .collect();
        if ours.is_empty() {
            return;
        }
        self.routes.send_if_modified(|routes| {
            let Some(routes) = routes else { return false };
            let all = routes.routes.len();
            routes.routes.retain(|route| !ours.contains(route));
            routes.routes.len() != all
        });
        let gone = self.bgp.wait_for(|bgp| bgp.announced.is_disjoint(&ours));
        if timeout(SETTLE, gone).await.is_err() {
            warn!("the BGP daemon has not withdrawn {ours:?} within {SETTLE:?}");
        }
    }
}
