//! Why a packet was treated as it was: one list for the programs' verdicts, the counters, the metrics and the
//! documentation.

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Sent on, rewritten by the program.
    Tx,
    /// Given to the kernel.
    Pass,
    /// Thrown away.
    Drop,
}

impl Verdict {
    /// The name in what `lb trace`, `lb replay` and `lb capture` print.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Tx => "tx",
            Verdict::Pass => "pass",
            Verdict::Drop => "drop",
        }
    }
}

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal, $verdict:ident, $help:literal;)+ }) => {
        $(#[$doc])*
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $(#[doc = $help] $variant,)+ }

        impl $name {
            /// All of them, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// How many there are: the size of the counter map.
            pub const COUNT: usize = Self::ALL.len();

            /// The name in metrics, `lb status` and documents.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// What it means, in one sentence.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)+ }
            }

            /// What becomes of the packet.
            #[inline(always)]
            pub const fn verdict(self) -> Verdict {
                match self { $(Self::$variant => Verdict::$verdict,)+ }
            }
        }
    };
}

reasons! {
    /// Verdicts of the director.
    Director {
        Forwarded = "forwarded", Tx, "Encapsulated and sent to the L7 host of its flow.";
        ForwardedError = "forwarded_icmp_error", Tx, "An ICMP error, sent to the L7 host of the flow that it quotes.";
        ForwardedFragment = "forwarded_fragment", Tx, "A fragment, sent to the L7 host of its addresses.";
        ById = "forwarded_by_id", Tx, "Encapsulated and sent to the L7 host that its QUIC connection id names.";
        UnknownId = "forwarded_unknown_id", Tx, "Its QUIC connection id names no host that takes packets: sent to that of its flow.";
        Echo = "echo_answered", Tx, "An echo request to a VIP, answered here.";
        NotIp = "not_ip", Pass, "Neither IPv4 nor IPv6 (ARP, more than two VLAN tags and the like).";
        NotVip = "not_vip", Pass, "Not for a VIP.";
        Truncated = "truncated", Drop, "The frame ends before the headers do.";
        BadHeader = "bad_header", Drop, "For a VIP, but version or lengths of the IP header contradict themselves or the frame.";
        IpOptions = "ip_options", Drop, "For a VIP, with IPv4 options that name a route or contradict themselves, or more than sixteen.";
        Fragment = "fragment", Drop, "A fragment for a VIP whose services have none forwarded: only the first one knows its ports.";
        Extension = "ipv6_extension", Drop, "For a VIP, with IPv6 extension headers that are refused, or more than five.";
        NoService = "no_service", Drop, "For a VIP, but no service has this port and protocol.";
        IcmpOther = "icmp_other", Drop, "ICMP for a VIP that is neither an error nor an echo request.";
        IcmpQuote = "icmp_bad_quote", Drop, "An ICMP error whose quotation is too short or names no port.";
        IcmpForeign = "icmp_foreign", Drop, "An ICMP error for a VIP that quotes a packet of no service of that VIP.";
        SourceDenied = "source_denied", Drop, "The service does not take packets from this source.";
        RateLimited = "rate_limited", Drop, "Its source has used up the service's limit for the moment.";
        NoTable = "no_table", Drop, "The service has no table.";
        NoHost = "no_host", Drop, "No owner of the row is healthy and reachable.";
        TooBig = "too_big", Drop, "With the outer header it would exceed the MTU towards the host, and its sender is not told: it is an error itself, or too many were told in this moment.";
        TooBigTold = "too_big_answered", Tx, "With the outer header it would exceed the MTU towards the host: its sender is told what fits, by ICMP.";
        NoHeadroom = "no_headroom", Drop, "The driver left no room for the outer header.";
    }
}

reasons! {
    /// Verdicts of the L7 host's program.
    Host {
        Local = "local", Pass, "Decapsulated and given to the kernel.";
        Rescued = "rescued", Pass, "The same, of a connection of this host, after another host had passed it on.";
        LastResort = "last_resort", Pass, "Given to the kernel for want of another owner, though of no connection of this host.";
        PassedOn = "passed_on", Tx, "Of no connection of this host: sent to the next owner of its row.";
        Waits = "waits", Drop, "Of no connection of this host, but a host on the way passed over an owner that this one trusts: to be sent again.";
        OverBudget = "over_budget", Drop, "It was to be passed on, but too many were in this moment.";
        TooBig = "too_big", Drop, "It was to be passed on, but exceeds the MTU towards the next owner.";
        Merged = "merged", Drop, "It was to be passed on, but the kernel had merged it from several, and would number them.";
        Expired = "ttl_expired", Drop, "It was to be passed on, but the outer time to live had run out.";
        NotIp = "not_ip", Pass, "Neither IPv4 nor IPv6.";
        NotTunnel = "not_tunnel", Pass, "Not IP in IP.";
        NotForUs = "not_for_us", Pass, "IP in IP for another machine.";
        Truncated = "truncated", Drop, "The frame ends before the headers do.";
        OuterOptions = "outer_options", Drop, "The outer header has options or extension headers.";
        OuterFragment = "outer_fragment", Drop, "A fragment of an encapsulated packet: directors never fragment.";
        Sender = "sender_refused", Drop, "The outer source is not an accepted sender.";
        BadInner = "bad_inner", Drop, "The inner header contradicts itself, the outer header or the frame.";
        Congested = "congested", Drop, "The outer header reports congestion to a sender that does not understand it (RFC 6040).";
        NotVip = "not_vip", Pass, "Inner destination is no VIP of this host: left to the kernel as it came.";
        Failed = "adjust_failed", Drop, "The kernel refused to change the outer header.";
    }
}

reasons! {
    /// Verdicts of the program that encapsulates the agent's own probes.
    Probe {
        Sent = "probe_sent", Tx, "A probe, encapsulated to the host that it tests.";
        NotProbe = "not_probe", Pass, "Without the mark of a probe.";
        NoHost = "probe_no_host", Drop, "The host has no usable next hop.";
        Failed = "probe_failed", Drop, "The kernel refused to make room for the outer header.";
    }
}

impl Director {
    /// A packet with this reason goes to a host.
    pub const fn is_to_host(self) -> bool {
        matches!(
            self,
            Director::Forwarded
                | Director::ForwardedError
                | Director::ForwardedFragment
                | Director::ById
                | Director::UnknownId
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_metric_safe() {
        let names: Vec<_> = Director::ALL.iter().map(|r| r.name()).collect();
        for (i, name) in names.iter().enumerate() {
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{name}"
            );
            assert!(!names[..i].contains(name), "{name} twice");
        }
        assert!(Host::ALL.iter().all(|r| r.help().ends_with('.')));
    }
}
