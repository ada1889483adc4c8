//! Keys and values of the BPF maps. Layout and padding are explicit and tested: both sides are the same bytes.

use crate::flow::Addr;

/// Owners per row: as many generations as may overlap, and a backup.
pub const OWNERS: usize = 4;

/// Marks an unused place among a row's owners.
pub const NO_OWNER: u16 = u16::MAX;

/// A row of a table: host slots in order of precedence. Eight bytes, which is also the stride of an mmap-able array.
pub type Row = [u16; OWNERS];

/// A row without owners.
pub const EMPTY_ROW: Row = [NO_OWNER; OWNERS];

/// Key of the service map: VIP, port and protocol.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceKey {
    vip: Addr,
    /// Port as in the packet in the low half, protocol number above.
    port_protocol: u32,
}

impl ServiceKey {
    /// `port` as it stands in the packet (network byte order).
    #[inline(always)]
    pub const fn new(vip: Addr, port: u16, protocol: u8) -> Self {
        ServiceKey { vip, port_protocol: port as u32 | (protocol as u32) << 16 }
    }

    /// The VIP.
    pub const fn vip(&self) -> Addr {
        self.vip
    }

    /// The port in host byte order.
    pub const fn port(&self) -> u16 {
        u16::from_be(self.port_protocol as u16)
    }

    /// IANA protocol number.
    pub const fn protocol(&self) -> u8 {
        (self.port_protocol >> 16) as u8
    }
}

/// Value of the service map. It is replaced as a whole (a BPF hash map swaps in a new element), so that a packet sees
/// table, size, seed and generation of one moment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Keys the flow hash.
    pub seed: u64,
    /// Index of its counters.
    pub id: u32,
    /// Slot of its table in the map of tables.
    pub table: u32,
    /// Rows of that table.
    pub rows: u32,
    /// Generation of that table, for the outer header.
    pub generation: u16,
    /// [`KEEP`].
    pub flags: u16,
}

/// Bit of [`Service::flags`]: a host keeps every packet of the service that it gets, known or not.
pub const KEEP: u16 = 1;

/// Bit of [`Nexthop::state`]: the outer header is complete and the next hop known.
pub const RESOLVED: u8 = 1;
/// Bit of [`Nexthop::state`]: the host passes its health checks.
pub const HEALTHY: u8 = 2;
/// Bits of [`Nexthop::state`] that a host needs to get packets. To a fellow host that passes packets on, one that is
/// [`RESOLVED`] alone is doubtful, and gets its turn after the others.
pub const USABLE: u8 = RESOLVED | HEALTHY;

/// Longest outer header: Ethernet and IPv6.
pub const HEADER_MAX: usize = 54;

/// How packets of one family reach a host: value of the next hop map, whose index is [`nexthop_index`].
///
/// Userspace rewrites it in place. A packet that meets the write half-way carries a mixture of two headers to the
/// *same* host (a slot never changes its host's address while a table names it): at worst one packet is lost, as on any
/// change of a neighbour.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nexthop {
    /// Interface to send on.
    pub ifindex: u32,
    /// Largest outer packet, bytes from the outer IP header on.
    pub mtu: u16,
    /// [`RESOLVED`] | [`HEALTHY`].
    pub state: u8,
    /// Bytes of the outer IP header: 20 or 40.
    pub outer_len: u8,
    /// Ethernet and IP header; see [`crate::outer`].
    pub header: [u8; HEADER_MAX],
    /// Zero.
    pub pad: [u8; 2],
}

impl Nexthop {
    /// A next hop that is not known.
    pub const UNKNOWN: Nexthop =
        Nexthop { ifindex: 0, mtu: 0, state: 0, outer_len: 20, header: [0; HEADER_MAX], pad: [0; 2] };
}

/// Index of a host's next hop for packets of one inner family.
#[inline(always)]
pub const fn nexthop_index(slot: u16, inner_v6: bool) -> u32 {
    (slot as u32) << 1 | inner_v6 as u32
}

/// Packets and bytes (of inner packets) of a service, per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets sent to hosts.
    pub packets: u64,
    /// Bytes of the packets as they came, from the IP header on.
    pub bytes: u64,
}

/// Generations of a pool that may be in force at once.
pub const GENERATIONS: usize = 8;

/// What a host knows of the pool of a table besides its rows; its index is the slot of the table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Stable id of this host in the pool; 0: it is no member.
    pub own: u64,
    /// Numbers of the generations in force, 0 for a free place. One keeps its place as long as it is in force, which
    /// is where its packets are accounted.
    pub generations: [u16; GENERATIONS],
}

impl View {
    /// The place of a generation of which an outer IPv4 header shows the low 12 bits; [`GENERATIONS`] if it is not in
    /// force.
    #[inline(always)]
    pub const fn place(&self, generation: u16) -> usize {
        let mut place = 0;
        while place < GENERATIONS {
            let have = self.generations[place];
            if have != 0 && (have ^ generation) & 0xfff == 0 {
                return place;
            }
            place += 1;
        }
        GENERATIONS
    }
}

/// Packets of a service and a generation on a host, per CPU, by what became of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Accepted by the first host that got them.
    pub local: u64,
    /// Accepted with hop 1, 2, 3 and more.
    pub rescued: [u64; 4],
    /// Passed on.
    pub passed_on: u64,
    /// Kept for want of another owner.
    pub last_resort: u64,
    /// Dropped for want of budget.
    pub over_budget: u64,
}

/// Index of the account of a service and the place of a generation ([`View::place`]).
#[inline(always)]
pub const fn account_index(service: u32, place: usize) -> u32 {
    service * (GENERATIONS as u32 + 1) + place as u32
}

/// How many packets a host may pass on, all CPUs together, in a window of time of 2^[`WINDOW_BITS`] nanoseconds.
///
/// One word is shared by all CPUs, and written only by a packet that is passed on: a flood beyond the budget only reads.
/// Two CPUs that begin a window at once may lose a few packets of the count.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Packets per window; userspace writes it.
    pub limit: u64,
    /// Number of the window that `spent` is of.
    pub window: u64,
    /// Packets passed on in it.
    pub spent: u64,
}

/// A window is 67 ms.
pub const WINDOW_BITS: u32 = 26;

impl Budget {
    /// A budget of so many packets per second.
    pub const fn per_second(packets: u64) -> Self {
        let limit = (packets as u128 * (1 << WINDOW_BITS)).div_ceil(1_000_000_000);
        Budget { limit: limit as u64, window: 0, spent: 0 }
    }
}

/// Bit in the address map: a VIP.
pub const ADDRESS_VIP: u32 = 1;
/// Bit in the address map: an address of this machine that tunnels may end at.
pub const ADDRESS_LOCAL: u32 = 2;

/// High byte of the mark of probes that are to be encapsulated; the rest is a [`nexthop_index`].
pub const PROBE_MARK: u32 = 0x4c00_0000;
/// Mask of [`PROBE_MARK`].
pub const PROBE_MASK: u32 = 0xff00_0000;

#[cfg(feature = "user")]
mod pod {
    use super::{Account, Budget, Nexthop, Service, ServiceKey, Traffic, View};
    use crate::flow::Addr;

    // SAFETY: plain data in C layout without implicit padding, as the tests below assert; any bytes are a value.
    unsafe impl aya::Pod for ServiceKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Service {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Nexthop {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Traffic {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Addr {}
    // SAFETY: as above.
    unsafe impl aya::Pod for View {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Account {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Budget {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{align_of, offset_of, size_of};

    #[test]
    fn layouts_have_no_padding() {
        assert_eq!((size_of::<Addr>(), align_of::<Addr>()), (16, 4));
        assert_eq!((size_of::<ServiceKey>(), offset_of!(ServiceKey, port_protocol)), (20, 16));
        assert_eq!((size_of::<Service>(), offset_of!(Service, flags)), (24, 22));
        assert_eq!(
            (size_of::<Nexthop>(), offset_of!(Nexthop, header), offset_of!(Nexthop, pad)),
            (64, 8, 62)
        );
        assert_eq!(size_of::<Row>(), 8);
        assert_eq!(size_of::<Traffic>(), 16);
        assert_eq!((size_of::<View>(), offset_of!(View, generations)), (24, 8));
        assert_eq!((size_of::<Account>(), offset_of!(Account, over_budget)), (64, 56));
        assert_eq!((size_of::<Budget>(), offset_of!(Budget, spent)), (24, 16));
    }

    #[test]
    fn a_generation_is_found_by_what_an_outer_header_shows_of_it() {
        let view = View { own: 1, generations: [0x1abc, 0, 7, 0, 0, 0, 0, 0] };
        assert_eq!((view.place(0xabc), view.place(0x1abc), view.place(7)), (0, 0, 2));
        assert_eq!(
            (view.place(8), view.place(0), view.place(0x1000)),
            (GENERATIONS, GENERATIONS, GENERATIONS)
        );
        assert_eq!(account_index(2, GENERATIONS), 26);
    }

    #[test]
    fn a_budget_allows_at_least_what_is_asked_of_it() {
        assert_eq!(Budget::per_second(100_000).limit, 6711);
        assert_eq!((Budget::per_second(1).limit, Budget::per_second(0).limit), (1, 0));
    }

    #[test]
    fn service_keys_give_back_what_they_hold() {
        let key = ServiceKey::new(Addr::v4(1), 80u16.to_be(), 6);
        assert_eq!((key.port(), key.protocol()), (80, 6));
    }
}
