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
