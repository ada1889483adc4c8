//! What each change makes, and why it is refused.

use proptest::prelude::*;

use super::*;

const START: &str = "\
version: 1
pools:
  web:
    size: 251
    generation: 1
    hosts:
      a: {address4: 192.0.2.1}
      b: {address4: 192.0.2.2}
      c: {address4: 192.0.2.3, state: drain}
      d: {address4: 192.0.2.4, state: down}
";

fn start() -> Manifest {
    Manifest::parse("start", START).unwrap()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn drain(hosts: &[&str]) -> Edit {
    Edit::Drain { pool: "web".into(), hosts: names(hosts) }
}

fn undrain(hosts: &[&str]) -> Edit {
    Edit::Undrain { pool: "web".into(), hosts: names(hosts) }
}

fn weigh(host: &str, weight: u32) -> Edit {
    Edit::Weight { pool: "web".into(), hosts: BTreeMap::from([(host.into(), weight)]) }
}

fn remove(hosts: &[&str], force: bool) -> Edit {
    Edit::Remove { pool: "web".into(), hosts: names(hosts), force }
}

fn add(name: &str, addresses: &[&str]) -> Edit {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    let hosts = BTreeMap::from([(name.into(), NewHost { addresses, weight: 2 })]);
    Edit::Add { pool: "web".into(), hosts, create: None }
}

/// Current hosts, prepared hosts, old numbers.
fn seen(manifest: &Manifest) -> (String, String, Vec<u16>) {
    let pool = &manifest.pools["web"];
    let hosts = |generation: &Generation| {
        let hosts: Vec<_> = generation.hosts.iter().map(|(name, weight)| format!("{name}{weight}")).collect();
        format!("{}:{}", generation.number, hosts.join(""))
    };
    let prepared = pool.prepared.as_ref().map(hosts).unwrap_or_default();
    (hosts(&pool.current()), prepared, pool.old.iter().map(|old| old.number).collect())
}

fn all(edit: &Edit) -> Vec<(String, String, Vec<u16>)> {
    steps(&start(), edit).unwrap().iter().map(seen).collect()
}

fn refusal(manifest: &Manifest, edit: &Edit) -> String {
    apply(manifest, edit).unwrap_err().0
}

#[test]
fn a_host_joins_in_two_steps() {
    let two = [("1:a1b1".into(), "2:a1b1e2".into(), vec![]), ("2:a1b1e2".into(), String::new(), vec![1])];
    assert_eq!(all(&add("e", &["192.0.2.5", "2001:db8::5"])), two);
    let first = apply(&start(), &add("e", &["192.0.2.5"])).unwrap().manifest;
    assert_eq!(first.version, 2);
    assert_eq!(first.pools["web"].hosts["e"].state, HostState::Drain, "no new connections yet");
}

#[test]
fn a_host_is_drained_and_comes_back_in_two_steps_each() {
    assert_eq!(
        all(&drain(&["a"])),
        [("1:a1b1".into(), "2:b1".into(), vec![]), ("2:b1".into(), String::new(), vec![1])]
    );
    let last = steps(&start(), &drain(&["a"])).unwrap().pop().unwrap();
    assert_eq!(last.pools["web"].hosts["a"].state, HostState::Drain);
    assert_eq!(
        all(&undrain(&["c", "d"])),
        [("1:a1b1".into(), "2:a1b1c1d1".into(), vec![]), ("2:a1b1c1d1".into(), String::new(), vec![1])]
    );
}

#[test]
fn a_weight_changes_in_two_steps_where_it_counts() {
    assert_eq!(
        all(&weigh("b", 3)),
        [("1:a1b1".into(), "2:a1b3".into(), vec![]), ("2:a1b3".into(), String::new(), vec![1])]
    );
    assert_eq!(all(&weigh("c", 3)), [("1:a1b1".into(), String::new(), vec![])]);
    assert_eq!(all(&weigh("b", 1)).len(), 1, "nothing changes");
}

#[test]
fn a_host_without_new_connections_leaves_at_once_and_another_by_force_only() {
    assert_eq!(all(&remove(&["c"], false)), [("1:a1b1".into(), String::new(), vec![])]);
    assert_eq!(
        refusal(&start(), &remove(&["a"], false)),
        "host a of pool web is active; `lb drain a` first, and remove it when it is safe, or add --force and break its \
         connections"
    );
    assert_eq!(
        all(&remove(&["a"], true)),
        [
            ("1:a1b1".into(), "2:b1".into(), vec![]),
            ("2:b1".into(), String::new(), vec![1]),
            ("2:b1".into(), String::new(), vec![1])
        ]
    );
    let last = steps(&start(), &remove(&["a"], true)).unwrap().pop().unwrap();
    assert!(!last.pools["web"].hosts.contains_key("a"));
    assert!(last.pools["web"].old[0].hosts.contains_key("a"), "its rows stay away from others");
}

#[test]
fn a_pool_is_made_with_its_hosts_active() {
    let Edit::Add { hosts, .. } = add("e", &["192.0.2.5"]) else { panic!() };
    let edit = Edit::Add { pool: "new".into(), hosts, create: Some(NewPool { seed: 5, size: 1009 }) };
    let made = steps(&Manifest::default(), &edit).unwrap();
    assert_eq!(made.len(), 1);
    assert_eq!(made[0].version, 1);
    let pool = &made[0].pools["new"];
    assert_eq!((pool.seed, pool.size, pool.generation, pool.active().len()), (5, 1009, 1, 1));
    assert_eq!(refusal(&made[0], &edit), "pool \"new\" is there already; leave out --create");
}

#[test]
fn one_set_is_prepared_at_a_time_and_only_the_meant_one_is_activated() {
    let first = apply(&start(), &drain(&["a"])).unwrap().manifest;
    let busy = "generation 2 of pool web is being prepared; wait, or if its editor is gone, end it by `lb pool activate \
                web` or `lb pool abort web`";
    for edit in
        [drain(&["b"]), undrain(&["c"]), weigh("b", 2), add("e", &["192.0.2.5"]), remove(&["b"], false)]
    {
        assert_eq!(refusal(&first, &edit), busy, "{edit:?}");
    }
    let activate = |generation| Edit::Activate { pool: "web".into(), generation };
    assert_eq!(
        refusal(&first, &activate(Some(9))),
        "generation 2 of pool web is prepared, not 9: somebody else has changed the pool; look at `lb pool show`"
    );
    let abort = Edit::Abort { pool: "web".into() };
    assert_eq!(seen(&apply(&first, &abort).unwrap().manifest), ("1:a1b1".into(), String::new(), vec![]));
    assert_eq!(refusal(&start(), &abort), "nothing is prepared in pool web; there is nothing to give up");
    assert_eq!(
        refusal(&start(), &activate(None)),
        "nothing is prepared in pool web; somebody has activated it or given it up"
    );
}

#[test]
fn old_generations_are_retired_and_only_they() {
    let manifest = steps(&start(), &drain(&["a"])).unwrap().pop().unwrap();
    let retire = |generation| Edit::Retire { pool: "web".into(), generation };
    assert_eq!(seen(&apply(&manifest, &retire(1)).unwrap().manifest).2, [0_u16; 0]);
    assert_eq!(refusal(&manifest, &retire(2)), "2 is the current generation of pool web; old ones: [1]");
    assert_eq!(refusal(&manifest, &retire(9)), "9 is no old generation of pool web; old ones: [1]");
}

#[test]
fn nonsense_is_refused_with_its_reason() {
    let cases = [
        (drain(&["x"]), "no host x in pool web, which has a, b, c, d"),
        (undrain(&["x"]), "no host x in pool web, which has a, b, c, d"),
        (weigh("x", 2), "no host x in pool web, which has a, b, c, d"),
        (remove(&["c", "x"], false), "no host x in pool web, which has a, b, c, d"),
        (remove(&["x"], true), "no host x in pool web, which has a, b, c, d"),
        (drain(&["c"]), "host c of pool web takes no new connections: it is in state drain"),
        (drain(&["a", "b"]), "nobody in pool web would take new connections; add or undrain others first"),
        (undrain(&["a"]), "host a of pool web is active already"),
        (weigh("a", 0), "pools.web.prepared.hosts.a: weight 0; write 1 to 1000"),
        (add("a", &["192.0.2.9"]), "host a is in pool web already; nothing is to be done"),
        (add("c", &["192.0.2.9"]), "host c is in pool web already; give it new connections by `lb undrain`"),
        (
            add("e", &["192.0.2.1"]),
            "pools.web.hosts.e.address4: 192.0.2.1 is the address of host \"a\" already; write its own",
        ),
        (
            add("e", &["192.0.2.8", "192.0.2.9"]),
            "host e has two addresses of one family; give one of each at most",
        ),
        (add("e", &[]), "pools.web.hosts.e: a host without an address; write address4, address6 or both"),
        (
            add("e f", &["192.0.2.8"]),
            "\"e f\" is no name for a host; leave out spaces, =, commas and slashes",
        ),
        (remove(&["a", "b", "c", "d"], true), "pool web would have no hosts; add others first"),
        (
            Edit::Abort { pool: "wbe".into() },
            "no pool \"wbe\" in the manifest, which has web; make it by `lb pool add --create`",
        ),
    ];
    for (edit, message) in cases {
        assert_eq!(refusal(&start(), &edit), message, "{edit:?}");
    }
}

/// What each change makes of a host in each state: its state in the version that is published first and in the last one, and
/// whether it has connections in the generation that is prepared; or why it is refused.
#[test]
fn every_change_of_every_state() {
    use HostState::{Active, Down, Drain};
    const PREPARED: bool = true;
    let (active, gone) = ("is active", "takes no new connections");
    type Outcome = Result<(Option<HostState>, Option<HostState>, bool), &'static str>;
    let table: [(&str, HostState, Outcome); 15] = [
        ("drain", Active, Ok((Some(Active), Some(Drain), !PREPARED))),
        ("drain", Drain, Err(gone)),
        ("drain", Down, Err(gone)),
        ("undrain", Active, Err("is active already")),
        ("undrain", Drain, Ok((Some(Drain), Some(Active), PREPARED))),
        // While it is prepared, packets that are its own must reach it.
        ("undrain", Down, Ok((Some(Drain), Some(Active), PREPARED))),
        ("weight", Active, Ok((Some(Active), Some(Active), PREPARED))),
        ("weight", Drain, Ok((Some(Drain), Some(Drain), !PREPARED))),
        ("weight", Down, Ok((Some(Down), Some(Down), !PREPARED))),
        ("remove", Active, Err(active)),
        ("remove", Drain, Ok((None, None, !PREPARED))),
        ("remove", Down, Ok((None, None, !PREPARED))),
        ("force", Active, Ok((Some(Active), None, !PREPARED))),
        ("force", Drain, Ok((None, None, !PREPARED))),
        ("force", Down, Ok((None, None, !PREPARED))),
    ];
    for (word, state, outcome) in table {
        let mut manifest = start();
        manifest.pools.get_mut("web").unwrap().hosts.get_mut("a").unwrap().state = state;
        let edit = match word {
            "drain" => drain(&["a"]),
            "undrain" => undrain(&["a"]),
            "weight" => weigh("a", 7),
            word => remove(&["a"], word == "force"),
        };
        let (first, last, prepared) = match (steps(&manifest, &edit), outcome) {
            (Ok(versions), Ok(outcome)) => {
                let now = |manifest: &Manifest| manifest.pools["web"].hosts.get("a").map(|host| host.state);
                assert_eq!(
                    (now(&versions[0]), now(versions.last().unwrap())),
                    (outcome.0, outcome.1),
                    "{word} {state:?}"
                );
                (versions[0].clone(), versions.last().unwrap().clone(), outcome.2)
            }
            (Err(Refused(why)), Err(part)) if why.contains(part) => continue,
            (got, _) => panic!("{word} {state:?}: {got:?}"),
        };
        let of = |set: Option<&Generation>| set.is_some_and(|set| set.hosts.contains_key("a"));
        assert_eq!(of(first.pools["web"].prepared.as_ref()), prepared, "{word} {state:?}");
        // Nobody else changes, whatever his state is, and nothing stays prepared.
        for (name, host) in manifest.pools["web"].hosts.iter().filter(|(name, _)| *name != "a") {
            assert_eq!(
                (&first.pools["web"].hosts[name], &last.pools["web"].hosts[name]),
                (host, host),
                "{word} {state:?}"
            );
        }
        assert_eq!(last.pools["web"].prepared, None);
        let weight = if word == "weight" { 7 } else { 1 };
        assert!(
            last.pools["web"].hosts.get("a").is_none_or(|host| host.weight == weight),
            "{word} {state:?}"
        );
    }
}

/// A generation that is prepared is in the way of some changes of other hosts, and of all of its own.
#[test]
fn what_is_prepared_may_not_lose_a_host_and_others_may_still_go() {
    let first = apply(&start(), &undrain(&["c"])).unwrap().manifest;
    assert_eq!(first.pools["web"].hosts["c"].state, HostState::Drain);
    for force in [false, true] {
        assert!(refusal(&first, &remove(&["c"], force)).contains("is being prepared"));
    }
    assert!(refusal(&first, &remove(&["a"], true)).contains("is being prepared"));
    let without = apply(&first, &remove(&["d"], false)).unwrap().manifest;
    assert!(!without.pools["web"].hosts.contains_key("d"));
    assert_eq!(without.pools["web"].prepared, first.pools["web"].prepared);
    // The weight of a host without new connections waits for its next turn.
    let weighed = apply(&first, &weigh("d", 9)).unwrap().manifest;
    assert_eq!(weighed.pools["web"].hosts["d"].weight, 9);
    // What was given up leaves its host as it was prepared.
    let aborted = apply(&first, &Edit::Abort { pool: "web".into() }).unwrap().manifest;
    assert_eq!(
        (aborted.pools["web"].hosts["c"].state, aborted.pools["web"].prepared.clone()),
        (HostState::Drain, None)
    );
}

/// Activation is the one that was prepared, with its weights; the set before it is the newest of the old ones.
#[test]
fn an_activation_moves_each_host_as_it_was_prepared() {
    let mut manifest = start();
    let activate = |generation| Edit::Activate { pool: "web".into(), generation };
    let both = Edit::Weight { pool: "web".into(), hosts: [("a".into(), 3), ("b".into(), 4)].into() };
    for edit in [both, drain(&["a"]), activate(None), undrain(&["c"]), activate(Some(3))] {
        let next = apply(&manifest, &edit);
        manifest = match (next, &edit) {
            (Err(_), Edit::Drain { .. }) => continue,
            (next, _) => next.unwrap().manifest,
        };
    }
    let pool = &manifest.pools["web"];
    assert_eq!(seen(&manifest), ("3:a3b4c1".into(), String::new(), vec![2, 1]));
    assert_eq!(pool.old[0].hosts, BTreeMap::from([("a".into(), 3), ("b".into(), 4)]));
    assert_eq!(pool.old[1].hosts, BTreeMap::from([("a".into(), 1), ("b".into(), 1)]));
    let states: Vec<_> = pool.hosts.values().map(|host| host.state).collect();
    assert_eq!(states, [HostState::Active, HostState::Active, HostState::Active, HostState::Down]);
    // A pool without a set of hosts before leaves nothing old.
    let empty = "version: 1\npools:\n  web:\n    size: 251\n    generation: 1\n    hosts:\n      a: {address4: 192.0.2.1, state: down}\n";
    let first = Manifest::parse("m", empty).unwrap();
    let last = steps(&first, &undrain(&["a"])).unwrap().pop().unwrap();
    assert_eq!(seen(&last), ("2:a1".into(), String::new(), vec![]));
}

#[test]
fn a_new_host_is_as_it_was_asked_for() {
    let made = apply(&start(), &add("e", &["2001:db8::5", "192.0.2.5"])).unwrap().manifest;
    let host = &made.pools["web"].hosts["e"];
    assert_eq!(host.address4, Some([192, 0, 2, 5].into()));
    assert_eq!(host.address6, Some("2001:db8::5".parse().unwrap()));
    assert_eq!((host.weight, host.state), (2, HostState::Drain));
    let last = steps(&start(), &add("e", &["192.0.2.5"])).unwrap().pop().unwrap();
    assert_eq!(last.pools["web"].hosts["e"].state, HostState::Active);
    assert_eq!(NewPool::default(), NewPool { seed: 0, size: DEFAULT_SIZE });
    let nobody = Edit::Add { pool: "web".into(), hosts: BTreeMap::new(), create: None };
    assert_eq!(refusal(&start(), &nobody), "no host named; name at least one");
    for name in ["", "e f", "e\u{7}", "e=f", "e,f", "e/f"] {
        let why = refusal(&start(), &add(name, &["192.0.2.8"]));
        assert!(why.ends_with("is no name for a host; leave out spaces, =, commas and slashes"), "{why}");
    }
    let unknown = Edit::Abort { pool: "web".into() };
    assert!(refusal(&Manifest::default(), &unknown).contains("in the manifest, which has none; make it"));
}

proptest! {
    /// Nodes that are one version apart share every host of a row: what one sends to, the other finds.
    #[test]
    fn every_version_knows_the_hosts_of_its_neighbours(choices in prop::collection::vec((0..6_usize, 0..5_usize), 1..12)) {
        const HOSTS: [&str; 5] = ["a", "b", "c", "d", "e"];
        let mut manifest = start();
        for (kind, host) in choices {
            let name = HOSTS[host];
            let oldest = manifest.pools["web"].old.last().map_or(0, |old| old.number);
            let edit = match kind {
                0 => drain(&[name]),
                1 => undrain(&[name]),
                2 => weigh(name, 1 + host as u32),
                3 => add(name, &["192.0.2.99"]),
                4 => remove(&[name], true),
                _ => Edit::Retire { pool: "web".into(), generation: oldest },
            };
            let Ok(versions) = steps(&manifest, &edit) else { continue };
            for next in versions {
                let (before, after) = (&manifest.pools["web"], &next.pools["web"]);
                prop_assert_eq!(next.version, manifest.version + 1);
                prop_assert!(next.problems().is_empty());
                let known = |pool: &PoolManifest, generation: &Generation| {
                    pool.pool().generations().iter().any(|known| known == generation)
                };
                prop_assert!(known(after, &before.current()), "the new version forgets where the old one sends");
                prop_assert!(known(before, &after.current()), "the old version knows not where the new one sends");
                manifest = next;
            }
        }
    }
}
