//! The lists of reasons hold together.

use std::collections::BTreeSet;

use lb_common::reasons::{Director, Host, Probe, Verdict};

#[test]
fn verdicts_have_the_names_that_tools_print() {
    assert_eq!([Verdict::Tx, Verdict::Pass, Verdict::Drop].map(Verdict::name), ["tx", "pass", "drop"]);
}

/// A director sends packets to hosts, and answers to whoever asked; nothing else leaves it.
#[test]
fn what_a_director_sends_goes_to_a_host_or_answers() {
    let answers = [Director::Echo, Director::TooBigTold];
    for reason in Director::ALL {
        let is_sent = reason.verdict() == Verdict::Tx;
        assert_eq!(reason.is_to_host(), is_sent && !answers.contains(reason), "{}", reason.name());
    }
}

#[test]
fn every_reason_has_a_name_of_its_own_its_counter_and_a_sentence() {
    macro_rules! check {
        ($($reasons:ident)+) => {$(
            let names: BTreeSet<_> = $reasons::ALL.iter().map(|reason| reason.name()).collect();
            assert_eq!(names.len(), $reasons::COUNT);
            assert!($reasons::ALL.iter().enumerate().all(|(at, reason)| *reason as usize == at));
            assert!($reasons::ALL.iter().all(|reason| reason.help().ends_with('.')));
        )+};
    }
    check!(Director Host Probe);
}
