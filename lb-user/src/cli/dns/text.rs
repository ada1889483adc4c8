//! What `lb dns` prints for people.

use std::fmt::Write;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::status::table;
use crate::dns::geo::Source;
use crate::dns::history::Change;
use crate::dns::leader::LeaderStatus;
use crate::dns::policy::{Basis, Fate};
use crate::dns::sink::SinkStatus;
use crate::dns::status::{ChoiceExplanation, DnsStatus, Explanation, MemberFate, Whereabouts};

pub(super) fn status_text(status: &DnsStatus) -> String {
    let listen: Vec<String> = status.listen.iter().map(ToString::to_string).collect();
    let starting = if status.starting { ", waits for the first checks" } else { "" };
    let answers = if listen.is_empty() {
        "answers nowhere by itself".into()
    } else {
        format!("answers at {}", listen.join(", "))
    };
    let mut page = format!("{answers}{starting}\n");
    for problem in status.problems.iter().flat_map(|problem| problem.lines()) {
        // Writing to a String cannot fail.
        let _ = writeln!(page, "  {problem}");
    }
    let zones = status.zones.iter().map(|zone| vec![zone.zone.clone(), zone.serial.to_string()]);
    page += &table(["ZONE", "SERIAL"], zones.collect());
    let members = status.names.iter().flat_map(|name| {
        name.members.iter().map(move |member| {
            let policy = format!("{:?}", name.policy).to_lowercase();
            let address = member.address.to_string();
            vec![name.name.clone(), policy, address, member.state.clone(), member.reason.clone()]
        })
    });
    page += &table(["NAME", "POLICY", "ADDRESS", "STATE", "WHY"], members.collect());
    let orders = status.orders.iter().map(|order| {
        let name = order.name.clone().unwrap_or_else(|| "all".into());
        vec![order.address.to_string(), name, format!("{:?}", order.order).to_lowercase()]
    });
    page += &table(["ORDER FOR", "AT", "STATE"], orders.collect());
    let sinks = status.sinks.iter().map(|sink| {
        let state = match sink {
            SinkStatus { standby: true, .. } => "standby".into(),
            SinkStatus { in_step: true, .. } => "in step".into(),
            behind => format!("behind for {} ms", behind.lag_ms),
        };
        let error = sink.error.clone().unwrap_or_default();
        vec![
            sink.name.clone(),
            sink.kind.clone(),
            sink.places.to_string(),
            sink.written.to_string(),
            state,
            error,
        ]
    });
    page += &table(["SINK", "TYPE", "PLACES", "WRITTEN", "STATE", "WHY"], sinks.collect());
    if let Some(leader) = &status.leader {
        let _ = writeln!(page, "\n{}", leader_text(leader));
    }
    let claims = status
        .claims
        .iter()
        .map(|claim| vec![claim.name.clone(), claim.holder.clone(), claim.error.clone().unwrap_or_default()]);
    page += &table(["HELD IN TURN", "HOLDER", "WHY"], claims.collect());
    let observers = status.observers.iter().map(|observer| {
        let state = if observer.heard { "heard" } else { "not heard" };
        let node = observer.node.clone().unwrap_or_default();
        let reason = observer.reason.clone().unwrap_or_default();
        vec![observer.url.clone(), node, observer.down.to_string(), state.into(), reason]
    });
    page += &table(["OBSERVER", "NODE", "SEES FAIL", "STATE", "WHY"], observers.collect());
    let shared = status.anycast.iter().map(|shared| {
        let state = if shared.answers { "answers" } else { "withdrawn" };
        vec![shared.address.to_string(), state.into(), shared.reason.clone().unwrap_or_default()]
    });
    page += &table(["SHARED ADDRESS", "STATE", "WHY"], shared.collect());
    let secondaries = status.secondaries.iter().map(|secondary| {
        let serial = secondary.serial.map(|serial| serial.to_string()).unwrap_or_default();
        let state = match (secondary.serial, secondary.answered) {
            (None, _) => "nothing to tell yet",
            (_, true) => "has answered",
            (_, false) => "has not answered",
        };
        let error = secondary.error.clone().unwrap_or_default();
        vec![secondary.zone.clone(), secondary.address.to_string(), serial, state.into(), error]
    });
    page += &table(["SECONDARIES OF", "ADDRESS", "TOLD", "STATE", "WHY"], secondaries.collect());
    page += &table(["CLIENTS BY", "TYPE", "BUILT", "NETWORKS", "WHY"], clients_by(status));
    let leaving = status.leaving.iter().map(|(vip, word)| {
        let state = word.waits_for().unwrap_or_else(|| "out".into());
        let state = if word.others > 0 { "announced by others".into() } else { state };
        vec![vip.to_string(), state]
    });
    page += &table(["LEAVES", "STATE"], leaving.collect());
    let counters = status.counters.iter().filter(|(_, value)| **value > 0);
    let counters = counters.map(|(name, value)| vec![name.clone(), value.to_string()]);
    page + &table(["COUNTER", "VALUE"], counters.collect())
}

/// What says where clients are.
fn clients_by(status: &DnsStatus) -> Vec<Vec<String>> {
    let Some(geo) = &status.geo else { return Vec::new() };
    let of_file = geo.file.as_ref().map(|file| {
        let content = geo.content.as_ref();
        vec![
            file.display().to_string(),
            content.map_or_else(|| "nothing".into(), |content| content.kind.clone()),
            content.map(|content| day(content.built)).unwrap_or_default(),
            content.map_or(0, |content| content.networks).to_string(),
            geo.problem.clone().unwrap_or_default(),
        ]
    });
    let own = (geo.networks > 0).then(|| {
        let [kind, built, why] = [const { String::new() }; 3];
        vec!["dns.geo.networks".into(), kind, built, geo.networks.to_string(), why]
    });
    of_file.into_iter().chain(own).collect()
}

/// The day (UTC) of a time in seconds since 1970, as in 2026-01-31.
fn day(seconds: u64) -> String {
    let time = utc(seconds.saturating_mul(1000));
    time.split_once('T').map_or_else(|| time.clone(), |(day, _)| day.to_owned())
}

fn leader_text(leader: &LeaderStatus) -> String {
    let who = match (&leader.leader, leader.leads) {
        (_, true) => "this node writes to the sinks".into(),
        (Some(other), false) => format!("{other} writes to the sinks"),
        (None, false) => "nobody is known to write to the sinks".into(),
    };
    match &leader.error {
        Some(error) => format!("{who}: {error}"),
        None => who,
    }
}

pub(super) fn explanation_text(told: &Explanation) -> String {
    let authority = if told.authoritative { ", authoritative" } else { "" };
    let mut page = format!("{} {} for {}: {}{authority}\n", told.name, told.kind, told.from, told.code);
    for record in told.answers.iter().chain(&told.authorities) {
        let _ = writeln!(page, "  {record}");
    }
    let Some(choice) = &told.choice else { return page };
    let _ = writeln!(page, "{}", basis(choice));
    if let Some(client) = &choice.client {
        let _ = writeln!(page, "{}", whereabouts(client));
    }
    let rows = choice.members.iter().map(|MemberFate { address, fate, reason }| {
        vec![address.to_string(), fate_text(*fate).into(), reason.clone()]
    });
    page + table(["ADDRESS", "FATE", "WHY"], rows.collect()).trim_start_matches('\n')
}

fn whereabouts(client: &Whereabouts) -> String {
    let Whereabouts { regions, network, source } = client;
    match source {
        None => format!("the client's region is not known; so it is with all of {network}"),
        Some(source) => {
            let by = match source {
                Source::File => "the file",
                Source::Networks => "dns.geo.networks",
            };
            format!("the client is in {} by {by}, as all of {network}", regions.join(", "))
        }
    }
}

fn basis(choice: &ChoiceExplanation) -> String {
    let policy = format!("{:?}", choice.policy).to_lowercase();
    let because = match choice.basis {
        Basis::Healthy => "enough members work".to_owned(),
        Basis::TooFew => {
            format!("too few members work, all_down: {}", format!("{:?}", choice.all_down).to_lowercase())
        }
        Basis::NotYetChecked => "no answer before the first checks".to_owned(),
        Basis::NoSuchFamily => "no member has such an address".to_owned(),
    };
    let scope = match choice.scope {
        0 => String::new(),
        bits => format!("; the answer is for the first {bits} bits of the client's network"),
    };
    format!("{}: policy {policy}, {because}{scope}", choice.name)
}

fn fate_text(fate: Fate) -> &'static str {
    match fate {
        Fate::Given => "given",
        Fate::LastResort => "given although it does not work",
        Fate::OtherFamily => "other family",
        Fate::Behind => "works, behind others",
        Fate::OtherClients => "works, for other clients",
        Fate::NotDrawn => "works, not drawn",
        Fate::Failed => "out: a check fails",
        Fate::Unknown => "out: not checked yet",
        Fate::Leaving => "out: leaves",
        Fate::Drained => "out: drained",
        Fate::Down => "out: taken out",
    }
}

pub(super) fn history_text(changes: &[Change]) -> String {
    let rows = changes.iter().map(|change| {
        let by = change.check.as_deref().unwrap_or("operator");
        let at = change.name.as_ref().map(|name| format!(" at {name}")).unwrap_or_default();
        let turn = format!("{:?}", change.turn).to_lowercase();
        vec![utc(change.at_ms), change.address.to_string(), format!("{by}{at}"), turn, change.reason.clone()]
    });
    table(["TIME", "ADDRESS", "BY", "STATE", "WHY"], rows.collect()).trim_start_matches('\n').to_owned()
}

/// A time in milliseconds since 1970 as RFC 3339 writes it, in whole seconds.
fn utc(ms: u64) -> String {
    let time = i64::try_from(ms / 1000).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| format!("{ms} ms"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::policy::{AllDown, Policy};

    #[test]
    fn the_explanation_says_why_each_address_is_in_or_out() {
        let member = |last, fate, reason: &str| MemberFate {
            address: [198, 51, 100, last].into(),
            fate,
            reason: reason.into(),
        };
        let told = Explanation {
            name: "www.example.org.".into(),
            kind: "A".into(),
            from: "203.0.113.7".into(),
            code: "NOERROR".into(),
            authoritative: true,
            answers: vec!["www.example.org. 60 IN A 198.51.100.1".into()],
            authorities: Vec::new(),
            choice: Some(ChoiceExplanation {
                name: "www.example.org.".into(),
                policy: Policy::Failover,
                all_down: AllDown::All,
                basis: Basis::Healthy,
                scope: 0,
                client: None,
                members: vec![
                    member(1, Fate::Given, "works"),
                    member(2, Fate::Failed, "web: connect to 198.51.100.2:80: connection refused"),
                ],
            }),
        };
        let expected = "\
www.example.org. A for 203.0.113.7: NOERROR, authoritative
  www.example.org. 60 IN A 198.51.100.1
www.example.org.: policy failover, enough members work
ADDRESS       FATE                WHY
198.51.100.1  given               works
198.51.100.2  out: a check fails  web: connect to 198.51.100.2:80: connection refused
";
        assert_eq!(explanation_text(&told), expected);
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(utc(951_827_696_789), "2000-02-29T12:34:56Z");
        assert_eq!((day(1_798_761_599), day(1_798_761_600)), ("2026-12-31".into(), "2027-01-01".into()));
        assert_eq!(utc(u64::MAX), "18446744073709551615 ms");
    }
}
