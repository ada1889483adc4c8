//! Keys and values of the BPF maps. Layout and padding are explicit and tested: both sides are the same bytes.

use crate::flow::{Addr, C2};

/// Owners per row: as many generations as may overlap, and a backup.
pub const OWNERS: usize = 4;

/// Marks an unused place among a row's owners.
pub const NO_OWNER: u16 = u16::MAX;

/// A row of a table: host slots in order of precedence. Eight bytes, which is also the stride of an mmap-able array.
pub type Row = [u16; OWNERS];

/// A row without owners.
pub const EMPTY_ROW: Row = [NO_OWNER; OWNERS];

/// Key of a service: VIP, port and protocol; or of a VIP itself.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// See [`Addr::pairs`].
    vip: [u64; 2],
    /// Port as in the packet in the low 16 bits, protocol number above; or what the bits above these say.
    port_protocol: u64,
}

/// Bits that no port and protocol have; another eight are those of [`crate::prefixes`].
const OF_VIP: u64 = 1 << 32;
const OF_FRAGMENTS: u64 = 1 << 33;
/// The bits of a port.
const PORT: u64 = 0xffff;

impl ServiceKey {
    /// `port` as it stands in the packet (network byte order).
    #[inline(always)]
    pub const fn new(vip: Addr, port: u16, protocol: u8) -> Self {
        ServiceKey { vip: vip.pairs(), port_protocol: port as u64 | (protocol as u64) << 16 }
    }

    /// Of a VIP.
    #[inline(always)]
    pub const fn of_vip(vip: Addr) -> Self {
        ServiceKey { vip: vip.pairs(), port_protocol: OF_VIP }
    }

    /// In registers.
    #[inline(always)]
    pub const fn parts(&self) -> ([u64; 2], u64) {
        (self.vip, self.port_protocol)
    }

    /// From what [`ServiceKey::parts`] gave.
    #[inline(always)]
    pub const fn from_parts(vip: [u64; 2], port_protocol: u64) -> Self {
        ServiceKey { vip, port_protocol }
    }

    /// Of the fragments of a protocol for a VIP.
    #[inline(always)]
    pub const fn of_fragments(vip: Addr, protocol: u8) -> Self {
        ServiceKey { vip: vip.pairs(), port_protocol: OF_FRAGMENTS | (protocol as u64) << 16 }
    }

    /// The same for any port; of fragments, the same.
    #[inline(always)]
    pub const fn any_port(self) -> Self {
        ServiceKey { port_protocol: self.port_protocol & !PORT, ..self }
    }

    /// It is that of a VIP.
    pub const fn is_vip(&self) -> bool {
        self.port_protocol & OF_VIP != 0
    }

    /// It is that of a service.
    pub const fn is_service(&self) -> bool {
        self.port_protocol & (OF_VIP | OF_FRAGMENTS) == 0
    }

    /// The VIP; of a prefix, its first address.
    #[inline(always)]
    pub const fn vip(&self) -> Addr {
        Addr::from_pairs(self.vip)
    }

    /// The port in host byte order.
    pub const fn port(&self) -> u16 {
        u16::from_be(self.port_protocol as u16)
    }

    /// IANA protocol number.
    pub const fn protocol(&self) -> u8 {
        (self.port_protocol >> 16) as u8
    }

    /// Index of the chain that it is in, below [`CHAINS`]. Two multiplications: whoever configures services has no reason
    /// to make them collide.
    #[inline(always)]
    pub const fn chain(&self) -> u32 {
        let [high, low] = self.vip;
        let mixed = high.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ low ^ self.port_protocol;
        (mixed.wrapping_mul(C2) >> 48) as u32
    }
}

/// Chains of the directory of services: many more than there are services, so that nearly all that is not in it meets an
/// empty one.
pub const CHAINS: usize = 1 << 16;
/// Longest chain.
pub const LINKS: usize = 8;

/// An entry of the directory of services, which is a hash table with chains made by userspace: reading it takes two loads,
/// where a hash map of the kernel takes a function call, a slower hash and a comparison byte by byte.
///
/// An entry that can be found is never changed, but for `next`: a new one takes its place, and it is not used again before
/// all programs that may have found it are done. So a packet sees table, size, seed and generation of one moment.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Whose it is.
    pub key: ServiceKey,
    /// Index of the next entry of the chain; 0: none.
    pub next: u64,
    /// What is known of it.
    pub service: Service,
}

/// Eight-byte words of an [`Entry`]: a cache line.
pub const ENTRY_WORDS: usize = 8;

impl Entry {
    /// As it stands in the memory of a little-endian machine, the only kind that the programs are built for.
    pub const fn words(&self) -> [u64; ENTRY_WORDS] {
        let Entry { key, next, service } = *self;
        let Service { seed, id, table, rows, generation, flags, extras, spare } = service;
        let ids = id as u64 | (table as u64) << 32;
        let rest = rows as u64 | (generation as u64) << 32 | (flags as u64) << 48;
        let last = extras as u64 | (spare as u64) << 32;
        [key.vip[0], key.vip[1], key.port_protocol, next, seed, ids, rest, last]
    }

    /// From memory.
    pub const fn from_words(words: [u64; ENTRY_WORDS]) -> Self {
        let [high, low, port_protocol, next, seed, ids, rest, last] = words;
        let (id, table) = (ids as u32, (ids >> 32) as u32);
        let (rows, generation, flags) = (rest as u32, (rest >> 32) as u16, (rest >> 48) as u16);
        let (extras, spare) = (last as u32, (last >> 32) as u32);
        let service = Service { seed, id, table, rows, generation, flags, extras, spare };
        Entry { key: ServiceKey { vip: [high, low], port_protocol }, next, service }
    }
}

/// A service as the programs know it.
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
    /// [`KEEP`] | [`FLOW_TABLE`] | [`BY_SOURCE`] | [`BY_ADDRESSES`] | [`crate::extras::EXTRA`].
    pub flags: u16,
    /// Place of what it asks for beyond a table; see [`crate::extras`].
    pub extras: u32,
    /// Zero.
    pub spare: u32,
}

/// Bit of [`Service::flags`]: a host keeps every packet of the service that it gets, known or not.
pub const KEEP: u16 = 1;
/// Bit of [`Service::flags`]: a director remembers the host of every flow.
pub const FLOW_TABLE: u16 = 2;
/// Bit of [`Service::flags`]: the source address alone chooses the row.
pub const BY_SOURCE: u16 = 0x100;
/// Bit of [`Service::flags`]: source and destination address choose the row, whatever ports and protocol.
pub const BY_ADDRESSES: u16 = 0x200;

/// Flows that share a place in the flow table: a cache line of words.
pub const WAYS: usize = 8;

/// A set of the flow table: a word for each of the flows that it remembers, 0 for none; see [`flow_word`].
pub type FlowSet = [u64; WAYS];

/// Bit of a [`flow_word`]: the flow has been seen again. One that has not makes room first, so that a flood of new flows
/// drives out itself.
pub const SEEN: u64 = 1 << 16;

/// A flow in the flow table: 47 bits of its fingerprint, which are all that tells it from the others of its set, [`SEEN`],
/// and the slot of its host. It is read and written as a whole, so CPUs share the table without locks.
#[inline(always)]
pub const fn flow_word(fingerprint: u64, slot: u16) -> u64 {
    // None is 0.
    (fingerprint >> 17 | 1) << 17 | slot as u64
}

/// The word is of the flow with this fingerprint.
#[inline(always)]
pub const fn is_of(word: u64, fingerprint: u64) -> bool {
    word >> 17 == fingerprint >> 17 | 1
}

/// The slot in a [`flow_word`].
#[inline(always)]
pub const fn slot_of(word: u64) -> u16 {
    word as u16
}

/// Bit of [`Nexthop::state`]: the outer header is complete and the next hop known.
pub const RESOLVED: u8 = 1;
/// Bit of [`Nexthop::state`]: the host passes its health checks.
pub const HEALTHY: u8 = 2;
/// Bit of [`Nexthop::state`] for directors: the host gets no new connections, whatever its health.
pub const DRAINED: u8 = 4;
/// Bit of [`Nexthop::state`]: the way leaves by a VLAN device, see [`Nexthop::below`].
pub const TAGGED: u8 = 8;
/// Bits of [`Nexthop::state`] that a host needs to get packets. To a fellow host that passes packets on, one that is
/// [`RESOLVED`] alone is doubtful, and gets its turn after the others.
pub const USABLE: u8 = RESOLVED | HEALTHY;

/// Longest outer header: Ethernet and IPv6.
pub const HEADER_MAX: usize = 54;

/// How packets of one family reach a host: value of the next hop map, whose index is [`nexthop_index`]. Two cache lines:
/// most packets need only the first.
///
/// Userspace rewrites it in place. A packet that meets the write half-way carries a mixture of two headers to the
/// *same* host (a slot never changes its host's address while a table names it): at worst one packet is lost, as on any
/// change of a neighbour.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nexthop {
    /// Interface that the route leaves by.
    pub ifindex: u32,
    /// Largest outer packet, bytes from the outer IP header on.
    pub mtu: u16,
    /// [`RESOLVED`] | [`HEALTHY`] | [`DRAINED`] | [`TAGGED`].
    pub state: u8,
    /// Bytes of the outer IP header: 20 or 40.
    pub outer_len: u8,
    /// Ethernet and IP header; see [`crate::outer`].
    pub header: [u8; HEADER_MAX],
    /// Bits of the outer source, in its last two bytes as they stand in the packet, that are chosen per flow; the template
    /// has zeros there.
    pub spread: u16,
    /// If [`TAGGED`]: the interface below the VLAN device of the route, or below both of two. No driver's XDP sends by a VLAN
    /// device; frames leave by this one, with `tags`.
    pub below: u32,
    /// Bytes of `tags`: 4 or 8; 0 if there are none.
    pub tags_len: u16,
    /// Zero.
    pub pad: u16,
    /// VLAN tags as they stand in the frame, the outermost first.
    pub tags: [u32; 2],
    /// Zero.
    pub unused: [u64; 6],
}

impl Nexthop {
    /// A next hop that is not known.
    pub const UNKNOWN: Nexthop = Nexthop {
        ifindex: 0,
        mtu: 0,
        state: 0,
        outer_len: 20,
        header: [0; HEADER_MAX],
        spread: 0,
        below: 0,
        tags_len: 0,
        pad: 0,
        tags: [0; 2],
        unused: [0; 6],
    };
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

/// How many packets a host may pass on, or a director answer by an ICMP error, all CPUs together, in a window of time of
/// 2^[`WINDOW_BITS`] nanoseconds.
///
/// One word is shared by all CPUs, and written only by a packet that takes from it: a flood beyond the budget only reads.
/// Two CPUs that begin a window at once may lose a few packets of the count.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Packets per window; userspace writes it.
    pub limit: u64,
    /// Number of the window that `spent` is of.
    pub window: u64,
    /// Packets that took from it.
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
    use super::{Account, Budget, Nexthop, Traffic, View};
    use crate::flow::Addr;

    // SAFETY: plain data in C layout without implicit padding, as the tests below assert; any bytes are a value.
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
        assert_eq!((size_of::<ServiceKey>(), offset_of!(ServiceKey, port_protocol)), (24, 16));
        assert_eq!((size_of::<Entry>(), offset_of!(Entry, service)), (64, 32));
        assert_eq!((size_of::<Service>(), offset_of!(Service, extras)), (32, 24));
        assert_eq!(
            (size_of::<Nexthop>(), offset_of!(Nexthop, header), offset_of!(Nexthop, spread)),
            (128, 8, 62)
        );
        assert_eq!((offset_of!(Nexthop, below), offset_of!(Nexthop, unused)), (64, 80));
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
    fn flows_are_told_apart_by_their_fingerprints() {
        let word = flow_word(0xabcd_ef01_2345_6789, 7);
        assert!(is_of(word, 0xabcd_ef01_2345_6789) && is_of(word | SEEN, 0xabcd_ef01_2345_6789));
        assert!(!is_of(word, 0xabcd_ef01_2385_6789) && !is_of(0, 0) && is_of(flow_word(0, 0), 0));
        assert_eq!((slot_of(word | SEEN), flow_word(0, 0) & SEEN), (7, 0));
    }

    #[test]
    fn entries_survive_as_words() {
        let service =
            Service { seed: 1, id: 2, table: 3, rows: 4, generation: 5, flags: 6, extras: 7, spare: 0 };
        let entry = Entry { key: ServiceKey::new(Addr::v4(7), 80, 6), next: 8, service };
        // SAFETY: eight words of plain data.
        let memory = unsafe { *(&raw const entry).cast::<[u64; ENTRY_WORDS]>() };
        assert_eq!(entry.words(), memory);
        assert_eq!(Entry::from_words(entry.words()), entry);
    }

    #[test]
    fn a_vip_is_no_service() {
        let vip = ServiceKey::of_vip(Addr::v4(1));
        assert!(vip.is_vip() && !ServiceKey::new(Addr::v4(1), 0, 0).is_vip());
        assert_eq!(vip.vip(), Addr::v4(1));
        assert!((vip.chain() as usize) < CHAINS);
    }

    #[test]
    fn service_keys_give_back_what_they_hold() {
        let key = ServiceKey::new(Addr::v4(1), 80u16.to_be(), 6);
        assert_eq!((key.port(), key.protocol()), (80, 6));
    }
}
