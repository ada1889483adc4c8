//! GoBGP's gRPC API: the generated client, and routes of ours as its messages.

use std::collections::BTreeSet;
use std::net::IpAddr;

use prost::Message;
use prost_types::Any;

use super::{Announcements, BgpError, Prefix};
use crate::model::Family;

/// The generated code.
#[allow(missing_docs, clippy::all, unused_qualifications, dead_code)]
mod generated {
    tonic::include_proto!("apipb");
}

pub(super) use generated::gobgp_api_client::GobgpApiClient;
pub(super) use generated::*;

/// Path identifier of our paths: `lb`.
const OURS: u32 = 0x6c62;
/// RFC 4271, section 5.1.1.
const ORIGIN_IGP: u32 = 0;

/// What is told with a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    next_hop: Option<IpAddr>,
    med: Option<u32>,
    communities: BTreeSet<u32>,
}

impl Attributes {
    /// The attributes that `prefix` is wanted with.
    pub(super) fn wanted(prefix: Prefix, want: &Announcements) -> Result<Self, BgpError> {
        let (next_hop, family, key) = match Family::of(prefix.address) {
            Family::V4 => (want.next_hop4.map(IpAddr::V4), "IPv4", "source4"),
            Family::V6 => (want.next_hop6.map(IpAddr::V6), "IPv6", "source6"),
        };
        if next_hop.is_none() {
            return Err(BgpError::NoNextHop { family, prefix, key });
        }
        let communities =
            want.communities.iter().map(|(high, low)| u32::from(*high) << 16 | u32::from(*low)).collect();
        Ok(Self { next_hop, med: Some(want.med), communities })
    }

    /// The attributes of a path that GoBGP holds.
    pub(super) fn of(path: &Path) -> Self {
        let mut found = Self::default();
        for any in &path.pattrs {
            if let Some(next_hop) = unpack::<NextHopAttribute>(any, "NextHopAttribute") {
                found.next_hop = next_hop.next_hop.parse().ok();
            } else if let Some(reach) = unpack::<MpReachNlriAttribute>(any, "MpReachNLRIAttribute") {
                found.next_hop = reach.next_hops.first().and_then(|hop| hop.parse().ok());
            } else if let Some(med) = unpack::<MultiExitDiscAttribute>(any, "MultiExitDiscAttribute") {
                found.med = Some(med.med);
            } else if let Some(list) = unpack::<CommunitiesAttribute>(any, "CommunitiesAttribute") {
                found.communities = list.communities.into_iter().collect();
            }
        }
        found
    }
}

/// A path to inject. LOCAL_PREF is left to GoBGP, which adds 100 towards internal peers.
pub(super) fn path(prefix: Prefix, attributes: &Attributes) -> Path {
    let next_hop = attributes.next_hop.map(|hop| hop.to_string()).unwrap_or_default();
    let mut path = withdrawal(prefix);
    path.is_withdraw = false;
    path.pattrs.push(pack("OriginAttribute", &OriginAttribute { origin: ORIGIN_IGP }));
    path.pattrs.push(match Family::of(prefix.address) {
        Family::V4 => pack("NextHopAttribute", &NextHopAttribute { next_hop }),
        Family::V6 => pack(
            "MpReachNLRIAttribute",
            &MpReachNlriAttribute {
                family: path.family,
                next_hops: vec![next_hop],
                nlris: path.nlri.iter().cloned().collect(),
            },
        ),
    });
    if let Some(med) = attributes.med {
        path.pattrs.push(pack("MultiExitDiscAttribute", &MultiExitDiscAttribute { med }));
    }
    if !attributes.communities.is_empty() {
        let communities = attributes.communities.iter().copied().collect();
        path.pattrs.push(pack("CommunitiesAttribute", &CommunitiesAttribute { communities }));
    }
    path
}

/// What withdraws our path to a prefix: GoBGP matches prefix, source and identifier. Without `is_withdraw` it asks for
/// a next hop even to delete.
pub(super) fn withdrawal(prefix: Prefix) -> Path {
    let nlri = IpAddressPrefix { prefix_len: prefix.length.into(), prefix: prefix.address.to_string() };
    Path {
        nlri: Some(pack("IPAddressPrefix", &nlri)),
        family: Some(family(Family::of(prefix.address))),
        identifier: OURS,
        is_withdraw: true,
        ..Default::default()
    }
}

/// Whether a path is one that [`path`] made: injected here, not learnt from a peer, with our identifier.
pub(super) fn is_ours(path: &Path) -> bool {
    path.identifier == OURS && path.neighbor_ip.parse::<IpAddr>().is_err()
}

/// The unicast address family.
pub(super) fn family(family: Family) -> generated::Family {
    let afi = match family {
        Family::V4 => family::Afi::Ip,
        Family::V6 => family::Afi::Ip6,
    };
    generated::Family { afi: afi.into(), safi: family::Safi::Unicast.into() }
}

fn pack(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("type.googleapis.com/apipb.{name}"), value: message.encode_to_vec() }
}

fn unpack<M: Message + Default>(any: &Any, name: &str) -> Option<M> {
    let found = any.type_url.rsplit('/').next()?.strip_prefix("apipb.")?;
    (found == name).then(|| M::decode(any.value.as_slice()).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want() -> Announcements {
        Announcements {
            routes: BTreeSet::new(),
            med: 7,
            communities: vec![(65000, 100), (65000, 1)],
            next_hop4: Some("192.0.2.132".parse().unwrap()),
            next_hop6: Some("2001:db8::c000:284".parse().unwrap()),
        }
    }

    #[test]
    fn attributes_survive_the_way_through_a_path() {
        for prefix in ["198.51.100.1/32", "2001:db8::c633:6401/128"] {
            let prefix: Prefix = prefix.parse().unwrap();
            let attributes = Attributes::wanted(prefix, &want()).unwrap();
            let path = path(prefix, &attributes);
            assert_eq!(Attributes::of(&path), attributes);
            assert!(is_ours(&path) && !path.is_withdraw);
        }
    }

    #[test]
    fn a_route_without_next_hop_names_the_key_to_set() {
        let want = Announcements { next_hop6: None, ..want() };
        let error = Attributes::wanted("2001:db8::1/128".parse().unwrap(), &want).unwrap_err();
        assert_eq!(error.to_string(), "no IPv6 next hop for 2001:db8::1/128; set director.source6");
    }

    #[test]
    fn paths_of_peers_and_of_operators_are_not_ours() {
        let ours = withdrawal("198.51.100.1/32".parse().unwrap());
        assert!(is_ours(&Path { neighbor_ip: "<nil>".into(), ..ours.clone() }));
        assert!(!is_ours(&Path { neighbor_ip: "192.0.2.254".into(), ..ours.clone() }));
        assert!(!is_ours(&Path { identifier: 0, ..ours }));
    }

    #[test]
    fn junk_attributes_are_passed_over() {
        let junk =
            Any { type_url: "type.googleapis.com/apipb.MultiExitDiscAttribute".into(), value: vec![0xff] };
        let path = Path { pattrs: vec![junk, Any::default()], ..Default::default() };
        assert_eq!(Attributes::of(&path), Attributes::default());
    }
}
