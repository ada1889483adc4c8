use super::*;

fn whom(all: &[&str]) -> BTreeSet<Whom> {
    all.iter().map(|text| text.parse().unwrap()).collect()
}

fn vip(text: &str) -> Vip {
    text.parse().unwrap()
}

#[test]
fn a_line_is_a_vip_and_how_urgent_it_is() {
    let (order, problems) =
        parse("# maintenance of site A\n198.51.100.1\n\n 2001:db8:5::/64 force # why\n198.51.100.3 now\n");
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(order.of(vip("198.51.100.1")), Some(Haste::Wait));
    assert_eq!(order.of(vip("2001:db8:5::/64")), Some(Haste::Force));
    assert_eq!(order.of(vip("198.51.100.3")), Some(Haste::Now));
    assert_eq!(order.of(vip("198.51.100.4")), None);
    let known = [vip("198.51.100.1"), vip("198.51.100.3")].into();
    assert_eq!(order.unknown(&known).collect::<Vec<_>>(), [vip("2001:db8:5::/64")]);
}

#[test]
fn all_of_them_and_one_in_a_hurry() {
    let (order, _) = parse("*\n198.51.100.1 now\n");
    assert_eq!(order.of(vip("198.51.100.1")), Some(Haste::Now));
    assert_eq!(order.of(vip("198.51.100.2")), Some(Haste::Wait));
}

#[test]
fn every_wrong_line_is_named_with_its_column_and_the_right_ones_are_read() {
    let (order, problems) =
        parse("198.51.100.0/24\n198.51.100.1 soon\n  x\n198.51.100.2\n198.51.100.2\n198.51.100.3 now 4\n");
    assert_eq!(
        problems,
        [
            "1:1: \"198.51.100.0/24\" is no VIP; write an address, or an IPv6 prefix without bits beyond its length; or * for all",
            "2:14: unknown: \"soon\"; write force, now or nothing",
            "3:3: \"x\" is no VIP; write an address, or an IPv6 prefix without bits beyond its length; or * for all",
            "5:1: 198.51.100.2 is there twice; remove one line",
            "6:18: too much: \"4\"; write one VIP per line",
        ]
    );
    assert_eq!(order.of(vip("198.51.100.2")), Some(Haste::Wait));
}

#[test]
fn edits_keep_comments_and_other_lines() {
    let text = "# by hand\n198.51.100.1 # web\n198.51.100.2\n";
    let now = with(text, &whom(&["198.51.100.1", "198.51.100.3"]), Haste::Now);
    assert_eq!(now, "# by hand\n198.51.100.2\n198.51.100.1 now\n198.51.100.3 now\n");
    assert_eq!(with(&now, &whom(&["*"]), Haste::Wait), format!("{now}*\n"));
    let one = whom(&["198.51.100.1"]);
    assert_eq!(without(text, &one).unwrap(), ("# by hand\n198.51.100.2\n".into(), one));
    let both = whom(&["198.51.100.1", "198.51.100.2"]);
    assert_eq!(without(text, &whom(&["*"])).unwrap(), ("# by hand\n".into(), both));
    assert_eq!(without(text, &whom(&["198.51.100.9"])).unwrap(), (text.into(), BTreeSet::new()));
    assert!(without("*\n", &whom(&["198.51.100.1"])).unwrap_err().starts_with("all VIPs leave"));
}

#[test]
fn a_wrong_file_leaves_the_last_good_order_and_a_removed_one_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("leave");
    let first = look(&file, &Reading::default());
    assert_eq!((&first.order, first.problems.len()), (&Order::default(), 0));
    fs::write(&file, "198.51.100.1\n").unwrap();
    let good = look(&file, &first);
    fs::write(&file, "198.51.100.2\nnonsense\n").unwrap();
    let bad = look(&file, &good);
    assert_eq!(bad.order, good.order);
    assert!(bad.problems[0].starts_with(&format!("{}:2:1: \"nonsense\" is no VIP", file.display())));
    // An agent that starts with it knows no last one.
    assert_eq!(look(&file, &Reading::default()).order.of(vip("198.51.100.2")), Some(Haste::Wait));
    fs::remove_file(&file).unwrap();
    assert_eq!(look(&file, &bad), first);
}

#[test]
fn a_file_that_cannot_be_read_leaves_the_last_good_order_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("leave");
    fs::write(&file, "198.51.100.1 force\n").unwrap();
    let good = look(&file, &Reading::default());
    assert!(good.seen && good.problems.is_empty());
    assert_eq!(
        (good.order.to_string(), good.order.of(vip("198.51.100.1"))),
        ("198.51.100.1".into(), Some(Haste::Force))
    );
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let bad = look(&file, &good);
    assert_eq!(bad.order, good.order);
    assert!(
        bad.problems[0].starts_with(&format!("{}:1:1: cannot be read: ", file.display())),
        "{:?}",
        bad.problems
    );
    // A path through a file is no file.
    fs::remove_dir(&file).unwrap();
    fs::write(&file, "").unwrap();
    let none = look(&file.join("leave"), &good);
    assert_eq!((none.order, none.problems.len()), (Order::default(), 0));
}

#[test]
fn an_edit_that_changes_nothing_touches_nothing_and_one_that_is_refused_neither() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("leave");
    edit(&file, |text| Ok(text.to_owned())).unwrap();
    assert!(!file.exists());
    fs::write(&file, "# by hand\n").unwrap();
    assert_eq!(edit(&file, |_| Err("no".into())), Err("no".to_owned()));
    assert_eq!(fs::read_to_string(&file).unwrap(), "# by hand\n");
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let error = edit(&file, |text| Ok(format!("{text}*\n"))).unwrap_err();
    assert!(error.starts_with(&format!("{}: cannot be read: ", file.display())), "{error}");
    let error = edit(Path::new("/proc/lb/leave"), |_| Ok("*\n".into())).unwrap_err();
    assert!(error.starts_with("/proc/lb/leave: its folder cannot be made: "), "{error}");
}

/// What was ordered is read back, in every urgency, and a second order takes the place of the first.
#[test]
fn orders_are_read_back_as_they_were_given() {
    for (haste, line) in [
        (Haste::Wait, "198.51.100.1\n"),
        (Haste::Force, "198.51.100.1 force\n"),
        (Haste::Now, "198.51.100.1 now\n"),
    ] {
        let text = with("198.51.100.1 force\n", &whom(&["198.51.100.1"]), haste);
        assert_eq!(text, line);
        assert_eq!(parse(&text).0.of(vip("198.51.100.1")), Some(haste));
    }
    let (order, _) = parse("*\n198.51.100.1 force\n2001:db8:5::/64\n");
    assert_eq!(order.to_string(), "* 198.51.100.1 2001:db8:5::/64");
    assert_eq!(order.unknown(&BTreeSet::new()).count(), 2, "* is nobody");
    assert_eq!(without("*\n198.51.100.1\n", &whom(&["*"])).unwrap().0, "");
    // Wrong lines stay where they are.
    assert_eq!(without("x y\n198.51.100.1\n", &whom(&["198.51.100.1"])).unwrap().0, "x y\n");
}

#[test]
fn editors_take_turns() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("etc/leave");
    std::thread::scope(|scope| {
        for number in 1..=8 {
            let (file, whom) = (&file, whom(&[&format!("198.51.100.{number}")]));
            scope.spawn(move || edit(file, |text| Ok(with(text, &whom, Haste::Wait))).unwrap());
        }
    });
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 8);
    edit(&file, |text| Ok(without(text, &whom(&["*"]))?.0)).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "");
}
