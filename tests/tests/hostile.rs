//! Tens of thousands of hostile packets at the name server: a corpus, and what chance makes of it. The same for the same seed;
//! `LB_SEED` and `LB_PACKETS` take others, and more. `scripts/fuzz` goes on from the same corpus by coverage.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use lb_tests::hostile::{Dice, Server, corpus};
use lb_user::dns::policy::mix;
use lb_user::dns::wire::{Outcome, Transport};

#[test]
fn nothing_breaks_it() {
    let variable =
        |name: &str, default| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (seed, packets): (u64, u64) = (variable("LB_SEED", 1), variable("LB_PACKETS", 30_000));
    let (server, corpus) = (Server::default(), corpus());
    let mut dice = Dice(mix(seed));
    let mut outcomes: BTreeMap<String, u64> = BTreeMap::new();
    for number in 0..packets {
        // First the corpus as it is.
        let packet = match corpus.get(number as usize) {
            Some(packet) => packet.clone(),
            None => dice.packet(&corpus),
        };
        for transport in [Transport::Udp, Transport::Tcp] {
            let roll = mix(number);
            let done = catch_unwind(AssertUnwindSafe(|| server.check(&packet, transport, roll)));
            match done {
                Ok(Outcome::Answered { code, .. }) => *outcomes.entry(format!("{code:?}")).or_default() += 1,
                Ok(outcome) => *outcomes.entry(format!("{outcome:?}")).or_default() += 1,
                Err(panic) => {
                    println!("seed {seed}, packet {number} by {transport:?}: {packet:02x?}");
                    resume_unwind(panic);
                }
            }
        }
    }
    println!("figure: {packets} packets, twice each: {outcomes:?}");
    let seen = [
        "NoError",
        "NXDomain",
        "Refused",
        "FormErr",
        "NotImp",
        "BADVERS",
        "BadSignature(BadKey)",
        "NotAQuestion",
    ];
    for outcome in seen {
        assert!(outcomes.keys().any(|key| key == outcome), "no packet gets {outcome}: {outcomes:?}");
    }
}
