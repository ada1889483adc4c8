//! What is told of a captured packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::capture::{CAPTURED_BYTES, Captured};
use lb_common::reasons::Director;
use serde::Serialize;

use crate::director_model::parse::{ETHERNET, Found, IPV4, IPV6, frame};
use crate::model::ServiceKey;
use crate::trace::Ends;

/// A packet and its verdict.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Told {
    /// Nanoseconds since 1970.
    pub time: u64,
    /// The interface that it came by.
    pub interface: String,
    /// `tx`, `pass` or `drop`.
    pub verdict: &'static str,
    /// As counters name it.
    pub reason: &'static str,
    /// Its flow as the client opened it, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow: Option<Ends>,
    /// The host that it was sent to: POOL/NAME where that is known, else the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Where its tunnel ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<IpAddr>,
    /// Bytes of the frame, as it left.
    pub len: u32,
    /// What the program returned.
    #[serde(skip)]
    pub action: u32,
    /// The frame as it left, as far as it was captured.
    #[serde(skip)]
    pub bytes: Vec<u8>,
}

impl Told {
    /// From an event; `None` if it is not one of ours. `clock` is what is to be added to the kernel's clock.
    pub fn from_event(event: &[u8], clock: u64, mut interface: impl FnMut(u32) -> String) -> Option<Self> {
        let captured = Captured::from_bytes(event.get(..CAPTURED_BYTES)?.try_into().ok()?);
        let bytes = event.get(CAPTURED_BYTES..)?.get(..captured.captured as usize)?.to_vec();
        let reason = *Director::ALL.get(captured.reason as usize)?;
        // What was not captured does not matter, but lengths must hold.
        let mut whole = bytes.clone();
        whole.resize(captured.len as usize, 0);
        let is_sent = reason.is_to_host();
        let tunnel = is_sent.then(|| unwrap(&mut whole)).flatten();
        let flow = match frame(&whole, |_| true) {
            Ok(Found::Packet(packet)) => Some(packet.flow),
            _ => None,
        };
        let flow = flow.map(|flow| Ends {
            source: flow.source,
            destination: flow.destination,
            protocol: flow.protocol,
        });
        Some(Told {
            time: captured.time.wrapping_add(clock),
            interface: interface(captured.ifindex),
            verdict: reason.verdict().name(),
            reason: reason.name(),
            flow,
            host: tunnel.map(|address| address.to_string()),
            tunnel,
            len: captured.len,
            action: captured.action,
            bytes,
        })
    }

    /// What users connect to, at the flow's end.
    pub fn service(&self) -> Option<ServiceKey> {
        let flow = self.flow?;
        let (vip, port) = (flow.destination.ip(), flow.destination.port());
        Some(ServiceKey { vip: vip.into(), port, protocol: flow.protocol })
    }

    /// In a line.
    pub fn line(&self) -> String {
        let service = self.service().map(|service| format!(" service {service}")).unwrap_or_default();
        let host = self.host.as_ref().map(|host| format!(" host {host}")).unwrap_or_default();
        format!("{} ({}){service}{host}", self.verdict, self.reason)
    }
}

/// Takes the outer header off a frame, if it is in a tunnel, and says where that ends.
fn unwrap(whole: &mut Vec<u8>) -> Option<IpAddr> {
    let v4 = whole.get(12..14)? == [8, 0];
    let header = if v4 { IPV4 } else { IPV6 };
    let outer = whole.get(ETHERNET..ETHERNET + header)?.to_vec();
    let inner_v6 = match outer[if v4 { 9 } else { 6 }] {
        4 => false,
        41 => true,
        _ => return None,
    };
    let address = match v4 {
        true => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(&outer[16..20]).ok()?)),
        false => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(&outer[24..40]).ok()?)),
    };
    whole.drain(ETHERNET..ETHERNET + header);
    whole[12..14].copy_from_slice(if inner_v6 { &[0x86, 0xdd] } else { &[8, 0] });
    Some(address)
}
