use super::*;

fn watch(check: &str, last: u8) -> Watch {
    let address: IpAddr = [192, 0, 2, last].into();
    Watch { id: HostId { pool: check.into(), host: address.to_string() }, address }
}

fn seen(up: Option<bool>, reason: &str) -> Observed {
    Observed::of(up, reason)
}

/// The changes in words: when, of which address, by whom, to what.
fn told(changes: &[Change]) -> Vec<String> {
    let shown = |change: &Change| {
        let by = change.check.as_deref().unwrap_or("operator");
        format!("{} {} {by} {:?}", change.at_ms, change.address, change.turn)
    };
    changes.iter().map(shown).collect()
}

#[test]
fn what_differs_is_a_change_and_a_first_result_only_if_it_is_bad() {
    let watches = [watch("ssh", 1), watch("web", 1), watch("web", 2), watch("web", 3)];
    let mut history = History::default();
    let up = |up| seen(up, "as told");
    let first = [up(Some(true)), up(Some(false)), up(None), up(Some(true))];
    // Of the last one it was known from before the start.
    let known = |number: usize, _: &HostId| (number == 3).then_some(Turn::Down);
    history.note(observed(&watches, &first, known, 7));
    assert_eq!(told(&history.all()), ["7 192.0.2.1 web Down", "7 192.0.2.3 web Up"]);
    let then = [up(Some(true)), up(Some(true)), up(Some(true)), up(None)];
    history.note(observed(&watches, &then, |number, _| Turn::of(&first[number]), 8));
    assert_eq!(told(&history.all())[2..], ["8 192.0.2.1 web Up"]);
    assert_eq!(history.all()[2].reason, "as told");
    let leaves = [Observed { leaving: true, ..up(Some(true)) }];
    history.note(observed(&watches, &leaves, |number, _| Turn::of(&then[number]), 9));
    assert_eq!(told(&history.all())[3..], ["9 192.0.2.1 ssh Leaves"]);
}

#[test]
fn a_name_has_the_changes_of_its_members_by_their_checks_and_orders_about_it() {
    let text = "
dns:
  listen: 127.0.0.1:5353
  checks: {web: {type: http, port: 80}, ssh: {type: tcp, port: 22}}
  zones:
    example.org:
      ns: [ns.example.net.]
      names:
        a: {checks: [web], members: [192.0.2.1]}
        b: {checks: [ssh], members: [192.0.2.1, 192.0.2.2]}
";
    let config = crate::config::Config::parse("lb.yaml", text, "n").unwrap().dns.unwrap();
    let data = Data::new(&config).unwrap();
    let mut history = History::default();
    let watches = [watch("ssh", 1), watch("ssh", 2), watch("web", 1)];
    history.note(observed(&watches, &[(); 3].map(|()| seen(Some(false), "")), |_, _| None, 1));
    let order = |name: Option<&str>, state| OrderRequest {
        address: watch("web", 1).address,
        name: name.map(Into::into),
        state,
    };
    history.note([ordered(&order(Some("A.example.org"), Some(Order::Drain)), &["a.example.org.".into()], 2)]);
    history.note([ordered(&order(None, None), &["a.example.org.".into(), "b.example.org.".into()], 3)]);
    let about = |of| told(&history.about(Some(of), &data).unwrap());
    assert_eq!(
        about("a.Example.org"),
        ["1 192.0.2.1 web Down", "2 192.0.2.1 operator Drain", "3 192.0.2.1 operator Checks"]
    );
    assert_eq!(
        about("b.example.org."),
        ["1 192.0.2.1 ssh Down", "1 192.0.2.2 ssh Down", "3 192.0.2.1 operator Checks"]
    );
    assert_eq!(about("192.0.2.2"), ["1 192.0.2.2 ssh Down"]);
    assert_eq!(about("192.0.2.9"), [""; 0]);
    assert_eq!(history.about(None, &data).unwrap().len(), 5);
    assert_eq!(
        history.about(Some("c.example.org"), &data).unwrap_err(),
        "c.example.org is no address and no name with members; `lb dns status` shows all"
    );
}

#[test]
fn one_that_flaps_does_not_push_out_others_and_the_oldest_go_first() {
    let mut history = History::default();
    let fails = [seen(Some(false), "")];
    history.note(observed(&[watch("web", 1)], &fails, |_, _| None, 0));
    for at in 1..=100 {
        history.note(observed(&[watch("web", 2)], &fails, |_, _| None, at));
    }
    let told = told(&history.all());
    assert_eq!(told.len(), 1 + OF_ADDRESS);
    assert_eq!(told[..2], ["0 192.0.2.1 web Down", "69 192.0.2.2 web Down"]);
    let many = (0..OF_ALL as u32).map(|number| {
        let address = IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number));
        Watch { id: HostId { pool: "web".into(), host: address.to_string() }, address }
    });
    let many: Vec<Watch> = many.collect();
    let fail = vec![seen(Some(false), ""); many.len()];
    history.note(observed(&many, &fail, |_, _| None, 200));
    let all = history.all();
    assert!((OF_ALL / 2..=OF_ALL).contains(&all.len()), "{}", all.len());
    assert!(all.iter().all(|change| change.at_ms == 200));
    assert_eq!(History::of(all.clone()).all(), all);
}
