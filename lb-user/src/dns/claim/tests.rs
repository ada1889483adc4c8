use hickory_proto::rr::LowerName;
use proptest::prelude::*;

use super::*;
use crate::model::Family;

fn places() -> [Place; 2] {
    let lower = |text: &str| text.parse::<LowerName>().unwrap();
    Family::ALL.map(|family| Place { zone: lower("example.com."), name: lower("lb.example.com."), family })
}

fn of(addresses: &[&str]) -> Records {
    records(places(), &addresses.iter().map(|address| address.parse().unwrap()).collect(), 60)
}

fn first() -> Claimant {
    Claimant::new(of(&["192.0.2.1", "2001:db8::1"]), 2)
}

#[test]
fn a_name_without_holder_is_taken() {
    let mut lb1 = first();
    assert_eq!(lb1.looked(&Records::new(), true), Step::Take(of(&["192.0.2.1", "2001:db8::1"])));
    lb1.done(&Step::Take(Records::new()));
    assert_eq!(*lb1.holder(), Holder::Us);
    assert_eq!(lb1.looked(&of(&["192.0.2.1", "2001:db8::1"]), true), Step::Wait);
    // Not by a machine that cannot serve, nor does such a one keep it.
    assert_eq!(first().looked(&Records::new(), false), Step::Wait);
    assert_eq!(lb1.looked(&of(&["192.0.2.1", "2001:db8::1"]), false), Step::Release);
}

#[test]
fn a_holder_loses_the_name_after_failures_in_a_row() {
    let mut lb1 = first();
    let other = of(&["192.0.2.2"]);
    let look = |lb1: &mut Claimant| lb1.looked(&other, true);
    assert_eq!(look(&mut lb1), Step::Check(["192.0.2.2".parse().unwrap()].into()));
    assert_eq!(lb1.checked(false), Step::Wait);
    look(&mut lb1);
    assert_eq!(lb1.checked(true), Step::Wait, "it answers: counted anew");
    for step in [Step::Wait, Step::Take(of(&["192.0.2.1", "2001:db8::1"]))] {
        look(&mut lb1);
        assert_eq!(lb1.checked(false), step);
    }
    // Another holder starts without failures, and one that cannot be looked at keeps what it has.
    let mut lb1 = first();
    look(&mut lb1);
    lb1.checked(false);
    lb1.blind();
    assert_eq!(*lb1.holder(), Holder::Other(["192.0.2.2".parse().unwrap()].into(), 1));
    lb1.looked(&of(&["192.0.2.3"]), true);
    assert_eq!(lb1.checked(false), Step::Wait);
}

/// What happens to one of three machines.
#[derive(Clone, Debug)]
enum Event {
    Look(usize),
    /// It and its clock stand still, or go on.
    Die(usize),
    Revive(usize),
    /// It is to be drained, or not.
    Able(usize, bool),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..3_usize).prop_map(Event::Look),
        1 => (0..3_usize).prop_map(Event::Die),
        1 => (0..3_usize).prop_map(Event::Revive),
        1 => (0..3_usize, any::<bool>()).prop_map(|(machine, able)| Event::Able(machine, able)),
    ]
}

proptest! {
    /// Whatever happens: the name has the addresses of one machine or of none, is taken from none that lives and may
    /// hold it, and is soon held by one that lives.
    #[test]
    fn one_holds_the_name(events in proptest::collection::vec(event(), 1..200)) {
        let addresses = [of(&["192.0.2.1"]), of(&["192.0.2.2"]), of(&["192.0.2.3"])];
        let mut machines = addresses.clone().map(|own| Claimant::new(own, 2));
        let (mut alive, mut able, mut name) = ([true; 3], [true; 3], Records::new());
        let looks = |machines: &mut [Claimant; 3], alive: &[bool; 3], able: &[bool; 3], name: &mut Records, of: usize| {
            if !alive[of] {
                return;
            }
            let mut step = machines[of].looked(name, able[of]);
            let holder = addresses.iter().position(|addresses| addresses == name);
            if let Step::Check(_) = step {
                step = machines[of].checked(holder.is_some_and(|holder| alive[holder]));
                if let Step::Take(_) = step {
                    assert!(holder.is_none_or(|holder| !alive[holder]), "taken from one that lives");
                }
            }
            match &step {
                Step::Take(records) => *name = records.clone(),
                Step::Release => name.clear(),
                Step::Wait | Step::Check(_) => {}
            }
            machines[of].done(&step);
        };
        for event in events {
            match event {
                Event::Look(of) => looks(&mut machines, &alive, &able, &mut name, of),
                Event::Die(of) => alive[of] = false,
                Event::Revive(of) => alive[of] = true,
                Event::Able(of, may) => able[of] = may,
            }
            prop_assert!(name.is_empty() || addresses.contains(&name));
        }
        for _ in 0..4 {
            (0..3).for_each(|of| looks(&mut machines, &alive, &able, &mut name, of));
        }
        if (0..3).any(|of| alive[of] && able[of]) {
            let holder = addresses.iter().position(|addresses| *addresses == name);
            prop_assert!(holder.is_some_and(|of| alive[of]), "{:?}", name);
        }
    }
}
