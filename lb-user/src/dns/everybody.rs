//! What names have for everybody, for servers that cannot choose by client: each other's, and zones as files. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hickory_proto::rr::{LowerName, Name};

use super::master::{self, write};
use super::policy::{Choice, Standing};
use super::sink::zone_files::lines;
use super::sink::{Addresses, Place, Wanted, Wish};
use super::snapshot::Snapshot;
use super::zone::Rr;
use crate::model::Family;

/// A name whose addresses are chosen.
pub struct Chosen<'a> {
    zone: LowerName,
    choice: &'a Choice,
    standings: &'a [Standing],
}

/// The names of these zones whose addresses are chosen; `None`: of all.
pub fn chosen<'a>(snapshot: &'a Snapshot, zones: Option<&BTreeSet<LowerName>>) -> Vec<Chosen<'a>> {
    let all = snapshot.data.choices.iter().enumerate().filter_map(|(number, choice)| {
        let zone = snapshot.data.zone_of(&LowerName::new(&choice.name))?.apex().clone();
        Some(Chosen { zone, choice, standings: snapshot.standings(number) })
    });
    all.filter(|chosen| zones.is_none_or(|zones| zones.contains(&chosen.zone))).collect()
}

/// What the names are to have.
pub fn wanted(snapshot: &Snapshot, names: &[Chosen<'_>]) -> Wanted {
    let mut wanted = Wanted::new();
    for Chosen { zone, choice, standings } in names {
        for family in Family::ALL {
            let wish = match choice.for_everybody(family, standings, snapshot.starting) {
                None => Wish::AsItIs,
                Some(all) if all.is_empty() => Wish::Nothing,
                Some(all) => Wish::Value(Addresses { ttl: choice.ttl, all: all.into_iter().collect() }),
            };
            let name = LowerName::new(&choice.name);
            wanted.insert(Place { zone: zone.clone(), name, family }, wish);
        }
    }
    wanted
}

/// What is to be said of the members of the names: an address works if it does at each of them.
pub fn states(names: &[Chosen<'_>]) -> Wanted<IpAddr, bool> {
    let mut wanted: Wanted<IpAddr, bool> = Wanted::new();
    for Chosen { choice, standings, .. } in names {
        for (member, standing) in choice.members.iter().zip(*standings) {
            let wish = match standing {
                Standing::Up(_) => Wish::Value(true),
                Standing::Unknown => Wish::AsItIs,
                Standing::Failed | Standing::Leaving | Standing::Drained | Standing::Down => {
                    Wish::Value(false)
                }
            };
            let at = wanted.entry(member.address).or_insert_with(|| Wish::Value(true));
            match (&at, &wish) {
                (Wish::Value(false), _) | (_, Wish::Value(true)) => {}
                _ => *at = wish,
            }
        }
    }
    wanted
}

/// A zone as it is answered now, as a master file.
pub fn zone_text(snapshot: &Snapshot, zone: &str) -> Result<String, String> {
    let apex = LowerName::new(&master::name(zone, &Name::root())?);
    let Some(found) = snapshot.data.zones.get(&apex) else {
        let mut known: Vec<String> = snapshot.data.zones.keys().map(ToString::to_string).collect();
        known.sort();
        return Err(format!("no such zone: {apex}; there are {}", known.join(", ")));
    };
    let soa = snapshot.soa(found);
    let soa = Rr { name: soa.name, ttl: soa.ttl, data: soa.data };
    let mut text: String = [soa].iter().chain(&found.records()[1..]).map(write::line).collect();
    for (place, wish) in wanted(snapshot, &chosen(snapshot, Some(&[apex].into()))) {
        match wish {
            Wish::Value(addresses) => text.extend(lines(&place, &addresses)),
            Wish::Nothing => {}
            Wish::AsItIs => text += &format!("; {place}: SERVFAIL now\n"),
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::dns::snapshot::{Data, Observed, Order, Orders};
    use crate::{config, dns};

    /// Names a and b of one zone, c of another; the second address is a member of a and b, checks are web and ssh.
    const TEXT: &str = "dns:
  checks: {web: {type: tcp, port: 80}, ssh: {type: tcp, port: 22}}
  zones:
    example.org:
      ns: [ns.example.net.]
      names:
        a: {checks: web, members: [192.0.2.1, 192.0.2.2]}
        b: {checks: ssh, members: [192.0.2.2]}
    example.com:
      ns: [ns.example.net.]
      names: {c: {members: [192.0.2.3, \"2001:db8::3\"]}}
  sinks:
    all: {type: gdnsd, file: /all}
    one: {type: gdnsd, file: /one, zones: example.com}
";

    fn snapshot(checks: [Option<bool>; 3], orders: &Orders) -> (dns::Config, Snapshot) {
        let config = config::Config::parse("lb.yaml", TEXT, "n").unwrap().dns.unwrap();
        let data = Arc::new(Data::new(&config).unwrap());
        let check = |address: &str, name: &str| match (name, address) {
            ("web", "192.0.2.1") => checks[0],
            ("web", _) => checks[1],
            _ => checks[2],
        };
        let seen = data.watches().iter().map(|watch| Observed {
            up: check(&watch.address.to_string(), watch.check()),
            ..Observed::default()
        });
        let seen = seen.collect();
        let snapshot = Snapshot::new(data, seen, orders, false);
        (config, snapshot)
    }

    /// What a sink is to say, when the checks say this of 192.0.2.1 and .2 by web, and of .2 by ssh.
    fn told(sink: &str, checks: [Option<bool>; 3], orders: Orders) -> Vec<String> {
        let (config, snapshot) = snapshot(checks, &orders);
        let states = states(&chosen(&snapshot, config.sinks[sink].zones.as_ref()));
        let shown = |(address, wish)| match wish {
            Wish::Value(up) => format!("{address} {}", if up { "up" } else { "down" }),
            wish => format!("{address} {wish:?}"),
        };
        states.into_iter().map(shown).collect()
    }

    #[test]
    fn an_address_works_if_it_does_at_each_name() {
        let rest = ["192.0.2.3 up", "2001:db8::3 up"].map(String::from);
        let of = |checks: [Option<bool>; 3]| {
            let all = told("all", checks, Orders::new());
            assert_eq!(all[2..], rest);
            format!("{}, {}", all[0], all[1])
        };
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(of([yes, yes, yes]), "192.0.2.1 up, 192.0.2.2 up");
        assert_eq!(of([no, yes, no]), "192.0.2.1 down, 192.0.2.2 down");
        assert_eq!(of([yes, no, yes]), "192.0.2.1 up, 192.0.2.2 down");
        assert_eq!(of([None, yes, None]), "192.0.2.1 AsItIs, 192.0.2.2 AsItIs");
        assert_eq!(of([yes, None, no]), "192.0.2.1 up, 192.0.2.2 down");
    }

    #[test]
    fn what_is_drained_is_down_and_other_zones_are_not_told() {
        let drained = [(("192.0.2.3".parse().unwrap(), None), Order::Drain)].into();
        assert_eq!(told("one", [None; 3], drained), ["192.0.2.3 down", "2001:db8::3 up"]);
    }

    #[test]
    fn a_zone_is_printed_as_it_is_answered() {
        let (_, snapshot) = snapshot([Some(true), Some(false), None], &Orders::new());
        let soa = "example.org. 3600 IN SOA ns.example.net. hostmaster.example.org. (\n    1 ; serial\n    \
                   3600 900 1209600 60 )\n";
        assert_eq!(
            zone_text(&snapshot, "Example.org").unwrap(),
            format!(
                "{soa}example.org. 3600 IN NS ns.example.net.\na.example.org. 60 IN A 192.0.2.1\n\
                 ; b.example.org. A: SERVFAIL now\n"
            )
        );
        assert_eq!(
            zone_text(&snapshot, "example.net").unwrap_err(),
            "no such zone: example.net.; there are example.com., example.org."
        );
    }
}
