//! What a plan says beforehand.

use super::*;
use crate::manifest::edit::NewHost;

fn manifest(hosts: u8) -> Manifest {
    let hosts: String =
        (1..=hosts).map(|host| format!("      lb7-{host}: {{address4: 192.0.2.{host}}}\n")).collect();
    let text = format!("version: 4\npools:\n  web:\n    size: 65537\n    generation: 1\n    hosts:\n{hosts}");
    Manifest::parse("m", &text).unwrap()
}

fn drain(host: &str) -> Edit {
    Edit::Drain { pool: "web".into(), hosts: [host.to_owned()].into() }
}

fn add(host: u8) -> Edit {
    let new = NewHost { addresses: vec![[192, 0, 2, host].into()], weight: 1 };
    Edit::Add { pool: "web".into(), hosts: [(format!("lb7-{host}"), new)].into(), create: None }
}

fn done(manifest: &Manifest, edit: &Edit) -> Manifest {
    edit::steps(manifest, edit).unwrap().pop().unwrap()
}

#[test]
fn a_drain_moves_the_hosts_rows_and_little_else() {
    let plan = plan(&manifest(13), &drain("lb7-5"));
    assert_eq!((plan.base, plan.version, plan.generations.as_slice()), (4, 6, [2, 1].as_slice()));
    let of = plan.shares.iter().find(|share| share.host == "lb7-5").unwrap();
    assert_eq!((of.from, of.to), (5041, 0));
    let away: usize =
        plan.moves.iter().filter(|change| change.from == "lb7-5").map(|change| change.rows).sum();
    assert_eq!(away, 5041);
    let all: usize = plan.moves.iter().map(|change| change.rows).sum();
    assert!((all as f64 / 65537.0 - plan.second_chances).abs() < 1e-9);
    assert!(plan.second_chances < 0.2, "{}", plan.second_chances);
    assert_eq!((plan.refusal, plan.crowded), (None, 0));
}

#[test]
fn more_generations_than_rows_can_hold_are_refused_with_what_to_wait_for() {
    let mut now = manifest(3);
    let mut refusal = None;
    for host in 4..14 {
        let next = plan(&now, &add(host));
        if next.refusal.is_some() {
            refusal = next.refusal.clone();
            assert!(next.crowded > 0, "{next:?}");
            break;
        }
        now = done(&now, &add(host));
    }
    let refusal = refusal.expect("five hosts cannot share a row of four");
    assert!(refusal.contains("rows would have more than 4 hosts over"), "{refusal}");
    assert!(
        refusal.ends_with("; wait until generation 1 is retired; `lb status` shows what holds it"),
        "{refusal}"
    );
}

#[test]
fn more_generations_than_there_may_be_are_refused() {
    let mut now = manifest(2);
    for _ in 0..3 {
        now = done(&now, &drain("lb7-2"));
        now = done(&now, &Edit::Undrain { pool: "web".into(), hosts: ["lb7-2".to_owned()].into() });
    }
    now = done(&now, &drain("lb7-2"));
    let last = plan(&now, &Edit::Undrain { pool: "web".into(), hosts: ["lb7-2".to_owned()].into() });
    assert_eq!(
        last.refusal.as_deref(),
        Some(
            "9 generations would be in force, 8 are the most; wait until generation 1 is retired; `lb status` shows what \
             holds it"
        )
    );
}

#[test]
fn a_pool_in_trouble_can_be_led_out_of_it() {
    let mut now = manifest(3);
    // As nobody could by edits: every host of its own generation, whatever the plan says.
    for host in 4..10 {
        now = done(&now, &add(host));
    }
    assert!(plan(&now, &add(10)).refusal.is_some());
    let retired = plan(&now, &Edit::Retire { pool: "web".into(), generation: 1 });
    assert!(retired.crowded > 0 && retired.refusal.is_none(), "{retired:?}");
}

/// Counted row by row from the two tables.
#[test]
fn shares_moves_and_second_chances_are_those_of_the_tables() {
    let members = |hosts: &[(&'static str, u32)]| -> Vec<Member<'static>> {
        hosts.iter().map(|&(name, weight)| Member { name, weight }).collect()
    };
    let owners = |members: &[Member<'static>]| -> Vec<&str> {
        let rows = maglev::populate(members, 0, 65537).unwrap();
        rows.into_iter().map(|host| members[usize::from(host)].name).collect()
    };
    let before = owners(&members(&[("lb7-1", 1), ("lb7-2", 1), ("lb7-3", 1)]));
    let after = owners(&members(&[("lb7-1", 1), ("lb7-2", 5), ("lb7-3", 1)]));
    let weigh = Edit::Weight { pool: "web".into(), hosts: [("lb7-2".into(), 5)].into() };
    let plan = plan(&manifest(3), &weigh);
    let mut moves: BTreeMap<(String, String), usize> = BTreeMap::new();
    for (from, to) in before.iter().zip(&after).filter(|(from, to)| from != to) {
        *moves.entry(((*from).into(), (*to).into())).or_default() += 1;
    }
    let told: BTreeMap<_, _> = plan.moves.iter().map(|m| ((m.from.clone(), m.to.clone()), m.rows)).collect();
    assert_eq!(told, moves);
    let moved: usize = moves.values().sum();
    assert_eq!((plan.rows, plan.second_chances), (65537, moved as f64 / 65537.0));
    let count = |rows: &[&str], host: &str| rows.iter().filter(|row| **row == host).count();
    let shares: Vec<_> = ["lb7-1", "lb7-2", "lb7-3"]
        .map(|host| Share { host: host.into(), from: count(&before, host), to: count(&after, host) })
        .into_iter()
        .filter(|share| share.from != share.to)
        .collect();
    assert_eq!(plan.shares, shares);
    assert_eq!((plan.risks.len(), plan.crowded, plan.tight), (0, 0, 0));
}

#[test]
fn a_pool_that_is_made_moves_nothing_and_gives_all_to_its_hosts() {
    let new = NewHost { addresses: vec![[192, 0, 2, 1].into()], weight: 1 };
    let create = Some(edit::NewPool { seed: 3, size: 251 });
    let add = Edit::Add { pool: "new".into(), hosts: [("a".into(), new)].into(), create };
    let plan = plan(&manifest(2), &add);
    assert_eq!(plan.shares, [Share { host: "a".into(), from: 0, to: 251 }]);
    assert_eq!((plan.base, plan.version, plan.rows, plan.pool.as_str()), (4, 5, 251, "new"));
    assert_eq!((plan.moves.len(), plan.second_chances, plan.generations), (0, 0.0, vec![1]));
}

/// Tight rows are told as a risk, of the moment at which most generations are in force.
#[test]
fn rows_without_room_for_backups_are_a_risk_at_the_fullest_moment() {
    let now = done(&done(&manifest(3), &add(4)), &drain("lb7-1"));
    let plan = plan(&now, &add(5));
    let fullest = edit::apply(&now, &add(5)).unwrap().manifest;
    let table = rows(&fullest.pools["web"]).unwrap();
    assert!(table.tight > 0);
    assert_eq!((plan.crowded, plan.tight), (table.crowded, table.tight));
    let risk = format!(
        "in {} of 65537 rows there is no room for a backup: connections that it took while another",
        table.tight
    );
    assert!(plan.risks.iter().any(|told| told.starts_with(&risk)), "{:?}", plan.risks);
    assert_eq!(plan.generations, [4, 3, 2, 1]);
    assert_eq!(rows(&done(&manifest(3), &drain("lb7-1")).pools["web"]).unwrap().tight, 0);
}

/// Retiring what holds a pool at its limit is no step over it.
#[test]
fn as_many_generations_as_before_are_no_reason_to_refuse() {
    let mut now = manifest(2);
    let undrain = Edit::Undrain { pool: "web".into(), hosts: ["lb7-2".to_owned()].into() };
    // Nine in force, as only somebody without this check could have made them.
    for _ in 0..4 {
        now = done(&done(&now, &drain("lb7-2")), &undrain);
    }
    assert_eq!(now.pools["web"].numbers().len(), 9);
    let weigh = Edit::Weight { pool: "web".into(), hosts: [("lb7-2".into(), 1)].into() };
    assert_eq!(plan(&now, &weigh).refusal, None, "nothing is added");
    let refusal = plan(&now, &drain("lb7-2")).refusal.unwrap();
    assert!(refusal.starts_with("10 generations would be in force, 8 are the most"), "{refusal}");
    let retire = Edit::Retire { pool: "web".into(), generation: 1 };
    assert_eq!(plan(&now, &retire).refusal, None);
    assert!(plan(&done(&now, &retire), &drain("lb7-2")).refusal.is_some());
}

#[test]
fn what_breaks_is_said() {
    let removal = Edit::Remove { pool: "web".into(), hosts: ["lb7-1".to_owned()].into(), force: true };
    let risks = plan(&manifest(3), &removal).risks;
    assert_eq!(risks, ["every connection that lb7-1 still holds breaks: it leaves the pool"]);
    let drained = done(&manifest(3), &drain("lb7-1"));
    let retire = Edit::Retire { pool: "web".into(), generation: 1 };
    assert_eq!(plan(&drained, &retire).risks, ["connections that only generation 1 explains break"]);
}

#[test]
fn a_refused_edit_has_no_plan_but_its_reason() {
    let plan = plan(&manifest(3), &drain("x"));
    assert_eq!(plan.refusal.as_deref(), Some("no host x in pool web, which has lb7-1, lb7-2, lb7-3"));
    assert_eq!((plan.version, plan.rows), (4, 0));
}
