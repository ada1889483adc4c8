//! What a name server says of VIPs that leave, and what follows for the node that they leave.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::order::Haste;
use crate::peers::{Contact, Peer, PeerUrl, PeersView, Told};
use crate::vip::Vip;

/// What one name server says. A newer agent's additional keys are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// What the name server calls itself.
    pub node: String,
    /// Differs from process to process.
    pub instance: u64,
    /// VIPs that leave some node, as far as it has heard, and addresses that an operator took out there.
    pub vips: BTreeMap<Vip, Word>,
}

/// What a name server says of one VIP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// Names of the nodes that it leaves, as far as the name server has heard.
    pub leaves: BTreeSet<String>,
    /// An operator took it out at the name server.
    #[serde(default)]
    pub ordered: bool,
    /// Names that are still answered with it.
    pub names: BTreeSet<String>,
    /// Servers of others that may still answer with it.
    #[serde(default)]
    pub behind: BTreeSet<String>,
    /// Nodes that announce it and that it does not leave.
    pub others: usize,
    /// Milliseconds since it was last answered, up to the TTL; whole seconds before that.
    pub out_for_ms: u64,
    /// The longest TTL of names that have it, in milliseconds.
    pub ttl_ms: u64,
}

impl Told for Leaving {
    const PATH: &'static str = "/v1/dns/leaving";

    fn node(&self) -> &str {
        &self.node
    }

    fn instance(&self) -> u64 {
        self.instance
    }
}

/// What all name servers together say of a VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answers {
    /// These are waited for, each with the reason.
    Wait(Vec<String>),
    /// No resolver should have it any more.
    Out,
    /// Others announce it as well, so that it stays in the answers.
    Elsewhere,
}

/// What follows from the words of all name servers that are asked, for the node of this name.
pub fn judge(
    node: &str,
    name_servers: &BTreeSet<PeerUrl>,
    view: &PeersView<Leaving>,
    vip: Vip,
    haste: Haste,
) -> Answers {
    let (mut waits, mut elsewhere) = (Vec::new(), false);
    for url in name_servers {
        match one(node, url, view.get(url), vip) {
            Ok(others) => elsewhere |= others,
            Err(Unready { heard: false, .. }) if haste >= Haste::Force => {}
            Err(Unready { reason, .. }) => waits.push(reason),
        }
    }
    match (waits.is_empty(), elsewhere) {
        (false, _) => Answers::Wait(waits),
        (true, true) => Answers::Elsewhere,
        (true, false) => Answers::Out,
    }
}

/// Why a name server is waited for.
struct Unready {
    heard: bool,
    reason: String,
}

/// Whether others announce the VIP as well; an error while this name server is to be waited for.
fn one(node: &str, url: &PeerUrl, peer: Option<&Peer<Leaving>>, vip: Vip) -> Result<bool, Unready> {
    let not_heard = |reason: &str| Unready { heard: false, reason: format!("{url} is not heard: {reason}") };
    let peer = peer.ok_or_else(|| not_heard("not asked yet"))?;
    match &peer.contact {
        Contact::New => return Err(not_heard("not asked to the end yet")),
        Contact::Lost { reason, .. } => return Err(not_heard(reason)),
        Contact::Fresh | Contact::Myself => {}
    }
    let said = peer.report.as_deref().ok_or_else(|| not_heard("it has said nothing"))?;
    let wait = |what: String| Unready { heard: true, reason: format!("{} ({url}): {what}", said.node) };
    // Who leaves must be known: else this node would be among the others that announce it.
    let word = said.vips.get(&vip).filter(|word| word.ordered || word.leaves.contains(node));
    match word {
        None => Err(wait("has not heard that it leaves; does it list this node in its peers.nodes?".into())),
        Some(word) if word.others > 0 && word.leaves.contains(node) => Ok(true),
        Some(word) => word.waits_for().map_or(Ok(false), |what| Err(wait(what))),
    }
}

impl Word {
    /// Why resolvers may still have it, in words.
    pub fn waits_for(&self) -> Option<String> {
        let joined = |all: &BTreeSet<String>| all.iter().cloned().collect::<Vec<_>>().join(", ");
        if !self.names.is_empty() {
            return Some(format!("still answered at {}", joined(&self.names)));
        }
        if !self.behind.is_empty() {
            return Some(format!("still written to {}", joined(&self.behind)));
        }
        let (out, ttl) = (self.out_for_ms / 1000, self.ttl_ms.div_ceil(1000));
        (self.out_for_ms < self.ttl_ms).then(|| format!("out for {out} s of {ttl} s"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::*;

    fn url(number: usize) -> PeerUrl {
        format!("http://192.0.2.{number}:7400").parse().unwrap()
    }

    fn vip() -> Vip {
        [198, 51, 100, 1].into()
    }

    fn says(word: Option<Word>, contact: Contact) -> Peer<Leaving> {
        let vips = word.into_iter().map(|word| (vip(), word)).collect();
        Peer { report: Some(Arc::new(Leaving { node: "ns".into(), instance: 1, vips })), contact }
    }

    fn of(all: impl IntoIterator<Item = Peer<Leaving>>, haste: Haste) -> Answers {
        let view: PeersView<Leaving> =
            all.into_iter().enumerate().map(|(number, peer)| (url(number + 1), peer)).collect();
        judge("lb4-1", &view.keys().cloned().collect(), &view, vip(), haste)
    }

    fn out(out_for_ms: u64) -> Word {
        Word { leaves: ["lb4-1".to_owned()].into(), out_for_ms, ttl_ms: 60_000, ..Word::default() }
    }

    #[test]
    fn all_name_servers_must_say_that_it_is_out_for_as_long_as_resolvers_keep_it() {
        let fresh = |word| says(Some(word), Contact::Fresh);
        assert_eq!(of([fresh(out(60_000)), fresh(out(60_000))], Haste::Wait), Answers::Out);
        let waits = |reason: &str| Answers::Wait(vec![format!("ns (http://192.0.2.2:7400): {reason}")]);
        assert_eq!(of([fresh(out(60_000)), fresh(out(59_000))], Haste::Wait), waits("out for 59 s of 60 s"));
        let answered = Word { names: ["www.example.org.".to_owned()].into(), ..out(60_000) };
        assert_eq!(
            of([fresh(out(60_000)), fresh(answered.clone())], Haste::Force),
            waits("still answered at www.example.org.")
        );
        let behind = Word { behind: ["bind".to_owned()].into(), ..out(60_000) };
        assert_eq!(of([fresh(out(60_000)), fresh(behind)], Haste::Wait), waits("still written to bind"));
        let elsewhere = Word { others: 1, ..answered };
        assert_eq!(of([fresh(elsewhere), fresh(out(60_000))], Haste::Wait), Answers::Elsewhere);
        assert_eq!(
            of([fresh(out(60_000)), says(None, Contact::Fresh)], Haste::Wait),
            waits("has not heard that it leaves; does it list this node in its peers.nodes?")
        );
        let nobody = judge("lb4-1", &[url(1)].into(), &PeersView::new(), vip(), Haste::Wait);
        assert_eq!(nobody, Answers::Wait(vec!["http://192.0.2.1:7400 is not heard: not asked yet".into()]));
    }

    #[test]
    fn only_a_name_server_that_knows_who_leaves_can_say_that_others_announce_it() {
        let fresh = |word| of([says(Some(word), Contact::Fresh)], Haste::Wait);
        let other = Word { leaves: ["lb4-2".to_owned()].into(), others: 1, ..out(60_000) };
        assert!(matches!(fresh(other.clone()), Answers::Wait(waits) if waits[0].contains("has not heard")));
        let both = Word { leaves: ["lb4-1".to_owned(), "lb4-2".to_owned()].into(), ..other.clone() };
        assert_eq!(fresh(both), Answers::Elsewhere);
        // What an operator took out there is out, whoever else announces it.
        assert_eq!(fresh(Word { ordered: true, ..other }), Answers::Out);
    }

    /// Every state of a name server that is not heard to the end, and what the operator's force does about it.
    #[test]
    fn whom_force_passes_over_is_who_is_not_heard() {
        let bare = |contact| Peer { report: None, contact };
        let not_heard = [
            (says(Some(out(60_000)), Contact::New), "not asked to the end yet"),
            (bare(Contact::Fresh), "it has said nothing"),
            (bare(Contact::Myself), "it has said nothing"),
        ];
        for (peer, why) in not_heard {
            let waits = Answers::Wait(vec![format!("http://192.0.2.1:7400 is not heard: {why}")]);
            assert_eq!(of([peer.clone()], Haste::Wait), waits);
            assert_eq!(of([peer.clone()], Haste::Force), Answers::Out);
            assert_eq!(of([peer], Haste::Now), Answers::Out);
        }
        assert_eq!(of([says(Some(out(60_000)), Contact::Myself)], Haste::Wait), Answers::Out);
        // Who is heard is waited for, whoever else says what.
        let elsewhere = says(Some(Word { others: 2, ..out(0) }), Contact::Fresh);
        let waiting = says(Some(out(0)), Contact::Fresh);
        assert!(
            matches!(of([elsewhere.clone(), waiting], Haste::Force), Answers::Wait(waits) if waits.len() == 1)
        );
        assert_eq!(of([elsewhere, bare(Contact::New)], Haste::Force), Answers::Elsewhere);
    }

    #[test]
    fn what_is_waited_for_is_names_then_servers_then_time() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let word = |names: &[&str], behind: &[&str], out_for_ms, ttl_ms| {
            let (names, behind) = (list(names), list(behind));
            Word { names, behind, out_for_ms, ttl_ms, ..Word::default() }.waits_for().unwrap_or_default()
        };
        let table = [
            (word(&["a.", "b."], &["bind"], 0, 5000), "still answered at a., b."),
            (word(&[], &["bind", "route53"], 9000, 5000), "still written to bind, route53"),
            (word(&[], &[], 0, 5000), "out for 0 s of 5 s"),
            (word(&[], &[], 4999, 5000), "out for 4 s of 5 s"),
            (word(&[], &[], 4999, 5001), "out for 4 s of 6 s"),
            (word(&[], &[], 5000, 5000), ""),
            (word(&[], &[], 0, 0), ""),
        ];
        for (got, expected) in table {
            assert_eq!(got, expected);
        }
        let said = Leaving { node: "ns".into(), instance: 7, vips: BTreeMap::new() };
        assert_eq!((Told::node(&said), Told::instance(&said)), ("ns", 7));
    }

    #[test]
    fn one_that_is_not_heard_is_waited_for_unless_the_operator_forces_it() {
        let lost = || Contact::Lost { since: Instant::now(), reason: "refused".into() };
        let gone = || says(Some(out(60_000)), lost());
        assert_eq!(
            of([gone()], Haste::Wait),
            Answers::Wait(vec!["http://192.0.2.1:7400 is not heard: refused".into()])
        );
        assert_eq!(of([gone()], Haste::Force), Answers::Out);
        assert!(matches!(of([gone(), says(Some(out(0)), Contact::Fresh)], Haste::Force), Answers::Wait(_)));
    }
}
