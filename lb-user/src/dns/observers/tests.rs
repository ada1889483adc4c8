use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::peers::view::Peer;

const ALL: usize = 5;

fn watch() -> Watch {
    let address: IpAddr = [192, 0, 2, 1].into();
    Watch { id: HostId { pool: "web".into(), host: address.to_string() }, address }
}

fn url(number: usize) -> PeerUrl {
    format!("http://192.0.2.1{number}:7400").parse().unwrap()
}

fn config(quorum: usize) -> ObserversConfig {
    ObserversConfig { nodes: (0..ALL).map(url).collect(), quorum }
}

fn sightings(number: usize, vote: Option<bool>) -> Arc<Sightings> {
    let mut sightings =
        Sightings { node: format!("o{number}"), instance: number as u64, ..Sightings::default() };
    let side = match vote {
        Some(true) => &mut sightings.up,
        Some(false) => &mut sightings.down,
        None => return Arc::new(sightings),
    };
    side.insert("web".into(), [watch().address].into());
    Arc::new(sightings)
}

/// What an observer is heard to say: nothing at all, nothing of this address, or a vote.
type Heard = Option<Option<bool>>;

fn view(heard: &[Heard]) -> PeersView<Sightings> {
    let lost = || Contact::Lost { since: Instant::now(), reason: "gone".into() };
    let peer = |(number, heard): (usize, &Heard)| {
        let report = Some(sightings(number, heard.unwrap_or(Some(false))));
        (url(number), Peer { report, contact: if heard.is_some() { Contact::Fresh } else { lost() } })
    };
    heard.iter().enumerate().map(peer).collect()
}

fn verdict(heard: &[Heard], agreed: Option<bool>) -> Observed {
    let agreed = agreed.map(|up| (watch().id, up)).into_iter().collect();
    Jury::new(&config(3), &view(heard), &sightings(9, None), &agreed).verdict(&watch(), None)
}

const UP: Heard = Some(Some(true));
const DOWN: Heard = Some(Some(false));

#[test]
fn two_of_five_that_are_cut_off_decide_nothing() {
    // They see everything fail, and hear each other; the three others hear each other.
    let cut_off = verdict(&[None, None, None, DOWN, DOWN], Some(true));
    assert_eq!(cut_off.up, Some(true));
    assert_eq!(&*cut_off.reason, "no quorum (0 up, 2 down of 5 observers, 3 needed): as before");
    let rest = verdict(&[UP, UP, UP, None, None], Some(true));
    assert_eq!((rest.up, &*rest.reason), (Some(true), ""));
    // Or they still reach the others, and not what is checked.
    let all = verdict(&[UP, UP, UP, DOWN, DOWN], Some(true));
    assert_eq!((all.up, &*all.reason), (Some(true), "fails for 2 of 5 observers alone: o3, o4"));
}

#[test]
fn three_of_five_decide() {
    let down = verdict(&[DOWN, DOWN, DOWN, None, None], Some(true));
    assert_eq!((down.up, &*down.reason), (Some(false), "fails for 3 of 5 observers: o0, o1, o2"));
    assert_eq!(verdict(&[UP, UP, UP, DOWN, DOWN], Some(false)).up, Some(true));
}

#[test]
fn nobody_agreed_yet() {
    let none = verdict(&[UP, Some(None), None, None, None], None);
    assert_eq!(none.up, None);
    let agreed = BTreeMap::new();
    let jury = Jury::new(&config(3), &view(&[UP, UP]), &sightings(9, None), &agreed);
    assert_eq!(jury.verdict(&watch(), Some(false)).up, Some(false));
}

#[test]
fn an_observer_hears_itself_as_it_sees_now() {
    let mut view = view(&[UP, UP, UP]);
    view.get_mut(&url(2)).unwrap().contact = Contact::Myself;
    let agreed = BTreeMap::from([(watch().id, true)]);
    let verdict = |own| Jury::new(&config(3), &view, &sightings(2, own), &agreed).verdict(&watch(), None);
    assert_eq!(&*verdict(Some(true)).reason, "");
    assert!(verdict(Some(false)).reason.starts_with("no quorum (2 up, 1 down"));
}

#[test]
fn one_observer_under_two_addresses_has_one_vote() {
    let mut view = view(&[DOWN, DOWN]);
    view.insert(url(5), view[&url(0)].clone());
    let agreed = BTreeMap::from([(watch().id, true)]);
    let jury = Jury::new(&config(3), &view, &sightings(9, None), &agreed);
    assert_eq!(jury.verdict(&watch(), None).up, Some(true));
}

proptest! {
    #[test]
    fn no_two_groups_decide_differently(
        votes in prop::collection::vec(prop::option::of(any::<bool>()), ALL),
        side in prop::collection::vec(any::<bool>(), ALL),
        agreed in any::<bool>(),
    ) {
        // Each group hears its own members alone.
        let of = |group: bool| -> Vec<Heard> {
            votes.iter().zip(&side).map(|(vote, side)| (*side == group).then_some(*vote)).collect()
        };
        let changed = |group| verdict(&of(group), Some(agreed)).up != Some(agreed);
        prop_assert!(!(changed(true) && changed(false)));
        // Who changes his mind has a quorum of all, not of those that are heard.
        for group in [true, false] {
            let against = of(group).into_iter().filter(|heard| *heard == Some(Some(!agreed))).count();
            prop_assert_eq!(changed(group), against >= 3);
        }
    }
}
