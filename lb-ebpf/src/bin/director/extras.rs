//! Packets of services that ask for more than a table: see [`lb_common::extras`]. And of those whose VIP is a prefix.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, LpmTrie};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::XdpContext;
use lb_common::extras::{ALLOWED, BY_ID, Extras, LIMITED, SOURCE_BITS, SOURCES, SourceKey};
use lb_common::flow::Flow;
use lb_common::limit::{self, Bucket, Buckets, WAYS};
use lb_common::maps::Service;
use lb_common::outer::{ETHERNET, IPV4, IPV6};
use lb_common::reasons::Director;
use lb_ebpf::packet::{ACK, Frame, SYN, protocol};
use lb_ebpf::pools;

use crate::forward::{Done, Packet, Sent, finish, forward};
use crate::{parse, quic};

/// What services ask for, by [`Service::extras`]; a place is filled before a service names it. The first is not used.
#[btf_map]
static EXTRAS: Array<Extras, 2049> = Array::new();

/// All lists of sources. A list is whole before [`EXTRAS`] names it, and stays so until none does.
#[btf_map]
static SOURCE_LISTS: LpmTrie<SourceKey, u32, 1048576> = LpmTrie::new();

/// Buckets of sources, of all services with a limit.
#[btf_map]
static BUCKETS: Array<Buckets, { limit::SETS as usize }> = Array::new();

/// Where the flags stand in a TCP header.
pub const FLAGS: usize = 13;

/// What is seen of a packet beside its flow.
pub struct Seen {
    /// The byte at the place of TCP flags; 0 if the packet is not that long.
    pub flags: u8,
    /// A connection id is looked for: it stands behind nothing but IP and UDP header.
    pub id: bool,
}

/// A packet of such a service, looked at anew. A function of its own, so that the way of other packets is short.
#[inline(never)]
pub fn treat(ctx: *mut xdp_md) -> Done {
    let ctx = XdpContext::new(ctx);
    finish(&ctx, treated(&ctx))
}

#[inline(always)]
fn treated(ctx: &XdpContext) -> Result<Sent, Director> {
    let frame = Frame::xdp(ctx);
    let (flow, packet) = parse::flow(ctx, &frame)?;
    let service = pools::service(flow.destination, flow.destination_port(), flow.protocol);
    let service = service.or_else(|| pools::service_within(&flow)).ok_or(Director::NoService)?;
    let (ip, flags) = if flow.v6 {
        (IPV6, frame.read::<u8>(ETHERNET + IPV6 + FLAGS))
    } else {
        (IPV4, frame.read::<u8>(ETHERNET + IPV4 + FLAGS))
    };
    let flags = if usize::from(packet.len) > ip + FLAGS { flags.unwrap_or(0) } else { 0 };
    serve(ctx, &flow, service, packet, Seen { flags, id: true })
}

/// A packet of a service, as far as the service wants it.
#[inline(always)]
pub fn serve(
    ctx: &XdpContext,
    flow: &Flow,
    service: &Service,
    packet: Packet,
    Seen { flags, id }: Seen,
) -> Result<Sent, Director> {
    admit(service, flow)?;
    limit(service, flow, flags)?;
    if id
        && service.flags & BY_ID != 0
        && let Some(extras) = EXTRAS.get(service.extras)
    {
        return quic::forward_by_id(ctx, flow, service, extras, packet);
    }
    forward(ctx, flow, service, packet, Director::Forwarded)
}

/// Whether a client may use a service at all: of its packets and of errors about its flows alike.
#[inline(always)]
pub fn admit(service: &Service, flow: &Flow) -> Result<(), Director> {
    if service.flags & SOURCES == 0 {
        return Ok(());
    }
    let list = EXTRAS.get(service.extras).map_or(0, |extras| extras.list);
    match SOURCE_LISTS.get(&Key::new(SOURCE_BITS, SourceKey { list, address: flow.source })) {
        Some(&ALLOWED) => Ok(()),
        _ => Err(Director::SourceDenied),
    }
}

/// Whether the packet's source may send one more just now. It takes a packet from the source's bucket.
#[inline(always)]
pub fn limit(service: &Service, flow: &Flow, flags: u8) -> Result<(), Director> {
    if service.flags & LIMITED == 0 {
        return Ok(());
    }
    let Some(extras) = EXTRAS.get(service.extras) else { return Ok(()) };
    if extras.connections != 0 && !opens(flow, flags) {
        return Ok(());
    }
    let tag = limit::tag(service.seed, service.id, flow.source, extras.prefix);
    let Some(buckets) = BUCKETS.get_ptr_mut(limit::set(tag)) else { return Ok(()) };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    // Its own, or the one that has been empty for the longest time or will be soonest.
    let (mut way, mut empty_at) = (0, u64::MAX);
    for at in 0..WAYS {
        let bucket = read(buckets, at);
        if bucket.tag == tag {
            (way, empty_at) = (at, bucket.empty_at);
            break;
        }
        if bucket.empty_at < empty_at {
            (way, empty_at) = (at, bucket.empty_at);
        }
    }
    let own = read(buckets, way).tag == tag;
    let empty_at = if own { empty_at } else { 0 };
    match limit::after(empty_at, now, extras.interval, extras.tolerance) {
        Some(empty_at) => {
            write(buckets, way, Bucket { tag, empty_at });
            Ok(())
        }
        None => Err(Director::RateLimited),
    }
}

/// A TCP segment that opens a connection. One that is too short for its flags opens none.
#[inline(always)]
fn opens(flow: &Flow, flags: u8) -> bool {
    flow.protocol == protocol::TCP && flags & (SYN | ACK) == SYN
}

#[inline(always)]
fn read(buckets: *mut Buckets, way: usize) -> Bucket {
    // SAFETY: inside a value of the map. Other CPUs read and write the same buckets, word by word: of packets of one source at
    // the same moment some may not be counted, and a bucket that changes hands may be taken for empty.
    unsafe { (&raw const (*buckets)[way & (WAYS - 1)]).read_volatile() }
}

#[inline(always)]
fn write(buckets: *mut Buckets, way: usize, bucket: Bucket) {
    // SAFETY: as above.
    unsafe { (&raw mut (*buckets)[way & (WAYS - 1)]).write_volatile(bucket) }
}
