use std::sync::Arc;

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::peers::report::TableReport;
use crate::peers::view::{Peer, fresh};

/// A director that hears nothing from `silent` and something from `answering` other hosts of the pool `web`.
fn director(node: &str, silent: &[&str], answering: usize) -> Report {
    let silent = silent.iter().map(|host| (*host).to_owned()).collect();
    Report {
        node: node.into(),
        roles: vec!["director".into()],
        answers: [("web".to_owned(), Answers { silent, answering })].into(),
        ..Report::default()
    }
}

fn judged(reports: &[Report]) -> Vec<(String, Doubt)> {
    doubts(reports).into_iter().map(|(host, doubt)| (host.to_string(), doubt)).collect()
}

#[test]
fn one_director_makes_suspected_and_most_make_dead() {
    let hears_all = |node| director(node, &[], 4);
    let misses_a = |node| director(node, &["a"], 3);
    assert_eq!(judged(&[hears_all("1"), hears_all("2")]), []);
    let suspected = [("web/a".to_owned(), Doubt::Suspected)];
    assert_eq!(judged(&[misses_a("1"), hears_all("2"), hears_all("3")]), suspected);
    // Half is not most.
    assert_eq!(judged(&[misses_a("1"), hears_all("2")]), suspected);
    let dead = [("web/a".to_owned(), Doubt::Dead)];
    assert_eq!(judged(&[misses_a("1"), misses_a("2"), hears_all("3")]), dead);
    assert_eq!(judged(&[misses_a("1")]), dead, "the only director");
}

#[test]
fn a_director_that_is_cut_off_is_not_believed() {
    let cut_off = director("1", &["a", "b", "c"], 1);
    assert_eq!(judged(std::slice::from_ref(&cut_off)), []);
    assert_eq!(judged(&[cut_off.clone(), director("2", &["a"], 3)]), [("web/a".into(), Doubt::Suspected)]);
    // Half of the others is enough: two of four hosts may die at once.
    assert_eq!(judged(&[director("1", &["a", "b"], 2)]).len(), 2);
    assert_eq!(judged(&[director("1", &["a", "b"], 0)]), []);
    assert_eq!(judged(&[director("1", &["a"], 0)]).len(), 1, "a pool of one host has no others");
}

#[test]
fn only_directors_are_heard_and_only_of_pools_that_they_know() {
    let mut host = director("h", &["a"], 3);
    host.roles = vec!["host".into()];
    assert_eq!(judged(&[host]), []);
    let mut other = director("2", &[], 2);
    other.answers = [("mail".to_owned(), Answers { silent: BTreeSet::new(), answering: 2 })].into();
    // A director of another pool does not count among those that decide.
    assert_eq!(judged(&[director("1", &["a"], 3), other]), [("web/a".into(), Doubt::Dead)]);
}

proptest! {
    /// A host that every director hears is never doubted; more accusers never make a doubt smaller.
    #[test]
    fn accusations_only_add(accusing in 0usize..8, hearing in 0usize..8) {
        let reports = |accusing: usize| -> Vec<Report> {
            let accuse = (0..accusing).map(|n| director(&format!("a{n}"), &["a"], 3));
            accuse.chain((0..hearing).map(|n| director(&format!("h{n}"), &[], 4))).collect()
        };
        let doubt = doubts(&reports(accusing)).into_values().next();
        prop_assert_eq!(doubt.is_some(), accusing > 0);
        prop_assert!(doubts(&reports(accusing + 1)).into_values().next() >= doubt);
    }
}

fn peer(report: Option<Report>, contact: Contact) -> Peer {
    Peer { report: report.map(Arc::new), contact }
}

fn at_version(node: &str, manifest_version: Option<u64>) -> Report {
    Report { node: node.into(), manifest_version, ..Report::default() }
}

fn lost() -> Contact {
    Contact::Lost { since: Instant::now(), reason: "connection refused".into() }
}

#[tokio::test]
async fn a_version_is_confirmed_by_nodes_that_answer_and_have_it_or_a_later_one() {
    let url = |n: u8| format!("http://192.0.2.{n}:7400").parse().unwrap();
    let peers = PeersView::from([
        (url(1), peer(Some(at_version("same", Some(5))), Contact::Fresh)),
        (url(2), peer(Some(at_version("later", Some(6))), Contact::Fresh)),
        (url(3), peer(Some(at_version("behind", Some(4))), Contact::Fresh)),
        (url(4), peer(Some(at_version("gone", Some(5))), lost())),
        (url(5), peer(None, Contact::New)),
        (url(6), peer(Some(at_version("own", Some(5))), Contact::Myself)),
        (url(7), peer(Some(at_version("bare", None)), Contact::Fresh)),
    ]);
    let found: Vec<_> = missing(&at_version("own", Some(5)), &peers, 5)
        .into_iter()
        .map(|missing| format!("{}: {}", missing.node, missing.reason))
        .collect();
    let expected = [
        "bare: has no manifest in force",
        "behind: has version 4",
        "gone: unreachable: connection refused",
        "http://192.0.2.5:7400: not heard from yet",
    ];
    assert_eq!(found, expected);
    assert_eq!(missing(&at_version("own", Some(4)), &PeersView::new(), 5).len(), 1);
}

#[tokio::test]
async fn only_nodes_that_answer_count_and_each_once() {
    let url = |n: u8| format!("http://192.0.2.{n}:7400").parse().unwrap();
    let peers = PeersView::from([
        (url(1), peer(Some(at_version("b", None)), Contact::Fresh)),
        (url(2), peer(Some(at_version("b", None)), Contact::Fresh)),
        (url(3), peer(Some(at_version("c", None)), lost())),
        (url(4), peer(Some(at_version("a", None)), Contact::Myself)),
    ]);
    let own = at_version("a", None);
    let names: Vec<_> = fresh(&own, &peers).into_iter().map(|report| report.node.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
}

fn holding(node: &str, manifest_version: Option<u64>, role: Role, digest: &str) -> Report {
    let table = TableReport { pool: "web".into(), role, generation: 1, digest: digest.into() };
    Report { tables: vec![table], ..at_version(node, manifest_version) }
}

#[test]
fn different_tables_by_the_same_manifest_are_a_disagreement() {
    let a = holding("a", None, Role::Director, "01");
    assert_eq!(disagreements([&a, &holding("b", None, Role::Host, "01")]), []);
    let found =
        disagreements([&a, &holding("b", None, Role::Host, "02"), &holding("c", None, Role::Host, "01")]);
    assert_eq!(
        found[0].text(),
        "pool web: nodes hold different tables: 01 on a (director), c (host); 02 on b (host); compare its seed, size \
         and hosts on these nodes"
    );
    let reports = [a.clone(), holding("b", None, Role::Host, "02"), holding("c", None, Role::Host, "01")];
    let odd = |reports: &[Report]| -> Vec<String> {
        outliers(reports).into_iter().filter(|(_, pools)| !pools.is_empty()).map(|(node, _)| node).collect()
    };
    assert_eq!(odd(&reports), ["b"]);
    assert_eq!(odd(&reports[..2]), ["a", "b"], "nobody knows who is right");
    assert!(odd(&reports[..1]).is_empty());
    // While a new version travels, tables differ.
    let old = holding("a", Some(1), Role::Director, "01");
    assert_eq!(disagreements([&old, &holding("b", Some(2), Role::Host, "02")]), []);
    assert_eq!(disagreements([&old, &holding("b", Some(1), Role::Host, "02")]).len(), 1);
}
