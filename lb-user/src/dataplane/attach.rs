//! Programs on interfaces, by pinned links: adopted with the program behind them replaced in one step, or made anew.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::XdpLink;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode};

use super::{Error, Mode, Result, machine};

/// A program on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Interface name.
    pub interface: String,
    /// The index that it had: one made anew under the same name has another.
    pub ifindex: u32,
    /// How it is attached.
    pub mode: Mode,
    /// The link was pinned before.
    pub adopted: bool,
    /// Its pin.
    pub pin: PathBuf,
}

/// Attaches an XDP program in the first of `modes` that works, or takes over the link that is pinned in one of them.
pub fn xdp(
    program: &mut Xdp,
    name: &'static str,
    interface: &str,
    modes: &[Mode],
    links: &Path,
) -> Result<Attached> {
    let ifindex = index(interface)?;
    drop_other_modes(links, interface, name, modes)?;
    let mut tried = Vec::new();
    for &mode in modes {
        let pin = pin_path(links, interface, name, mode);
        if pin.exists() {
            match adopt_xdp(program, &pin) {
                Ok(()) => {
                    return Ok(Attached { interface: interface.into(), ifindex, mode, adopted: true, pin });
                }
                Err(reason) => forget(&pin, interface, &reason)?,
            }
        }
        let flags = if mode == Mode::XdpNative { XdpMode::Driver } else { XdpMode::Skb };
        let attached = program.attach(interface, flags).and_then(|id| program.take_link(id));
        match attached.map_err(innermost).and_then(|link| keep(link.try_into().map_err(innermost), &pin)) {
            Ok(()) => {
                return Ok(Attached { interface: interface.into(), ifindex, mode, adopted: false, pin });
            }
            Err(reason) => tried.push(format!("{}: {reason}", mode.name())),
        }
    }
    let mut tried = tried.join("; ");
    if tried.contains("busy") || tried.contains("exists") {
        tried.push_str(&format!("; another XDP program is there: `ip link show dev {interface}` names it"));
    }
    Err(Error::Attach { program: name, interface: interface.into(), tried })
}

/// Attaches a TC program by TCX (Linux 6.6), or takes over its pinned link.
pub fn tc(
    program: &mut SchedClassifier,
    name: &'static str,
    interface: &str,
    direction: TcAttachType,
    links: &Path,
) -> Result<Attached> {
    let ifindex = index(interface)?;
    let pin = pin_path(links, interface, name, Mode::Tc);
    let attached = |adopted| Attached {
        interface: interface.into(),
        ifindex,
        mode: Mode::Tc,
        adopted,
        pin: pin.clone(),
    };
    if pin.exists() {
        match adopt_tc(program, &pin) {
            Ok(()) => return Ok(attached(true)),
            Err(reason) => forget(&pin, interface, &reason)?,
        }
    }
    let order = TcAttachOptions::TcxOrder(LinkOrder::default());
    let link = program.attach_with_options(interface, direction, order).and_then(|id| program.take_link(id));
    link.map_err(innermost)
        .and_then(|link| keep(link.try_into().map_err(innermost), &pin))
        .map(|()| attached(false))
        .map_err(|reason| Error::Attach {
            program: name,
            interface: interface.into(),
            tried: format!("tcx: {reason} (needs Linux 6.6)"),
        })
}

/// Where the link of a program on an interface is pinned.
pub fn pin_path(links: &Path, interface: &str, program: &str, mode: Mode) -> PathBuf {
    // A dot cannot stand in the name of a pin: the kernel reserves it.
    links.join(format!("{}:{program}:{}", interface.replace('.', "%2e"), mode.name()))
}

/// A link in a mode that is no longer wanted would keep the new one from being attached.
fn drop_other_modes(links: &Path, interface: &str, name: &str, modes: &[Mode]) -> Result<()> {
    for mode in [Mode::XdpNative, Mode::XdpGeneric].into_iter().filter(|mode| !modes.contains(mode)) {
        remove(&pin_path(links, interface, name, mode))?;
    }
    Ok(())
}

fn adopt_xdp(program: &mut Xdp, pin: &Path) -> std::result::Result<(), String> {
    let link = FdLink::from(PinnedLink::from_pin(pin).map_err(innermost)?);
    let link = XdpLink::try_from(link).map_err(innermost)?;
    let id = program.attach_to_link(link).map_err(innermost)?;
    // The pin holds the link; ours is closed.
    program.take_link(id).map(drop).map_err(innermost)
}

fn adopt_tc(program: &mut SchedClassifier, pin: &Path) -> std::result::Result<(), String> {
    let link = FdLink::from(PinnedLink::from_pin(pin).map_err(innermost)?);
    let link = SchedClassifierLink::try_from(link).map_err(innermost)?;
    let id = program.attach_to_link(link).map_err(innermost)?;
    program.take_link(id).map(drop).map_err(innermost)
}

fn keep(link: std::result::Result<FdLink, String>, pin: &Path) -> std::result::Result<(), String> {
    link?.pin(pin).map(drop).map_err(innermost)
}

/// A pinned link that cannot be taken over belongs to an interface that is gone.
fn forget(pin: &Path, interface: &str, reason: &str) -> Result<()> {
    tracing::warn!(interface, "the pinned link is stale and is made anew: {reason}");
    remove(pin)
}

/// Detaches the program behind a pinned link, and removes the pin.
///
/// Without the first step, the kernel would detach the program some time after the pin is gone, and another mode could
/// not be attached until then.
pub fn remove(pin: &Path) -> Result<()> {
    detach(pin);
    match fs::remove_file(pin) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Pin { what: "remove", path: pin.into(), source })
        }
        _ => Ok(()),
    }
}

/// A link that cannot be detached has lost its interface, or is none: all that is left to do is to remove the pin.
fn detach(pin: &Path) {
    const BPF_OBJ_GET: libc::c_long = 7;
    const BPF_LINK_DETACH: libc::c_long = 34;
    let Ok(path) = CString::new(pin.as_os_str().as_bytes()) else { return };
    // The parts of `union bpf_attr` (include/uapi/linux/bpf.h): path, descriptor and flags; a descriptor.
    let get = [path.as_ptr() as u64, 0];
    // SAFETY: the kernel reads the attribute and the path, which lives until the end of this function.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, get.as_ptr(), size_of_val(&get)) };
    if fd < 0 {
        return;
    }
    // SAFETY: a new descriptor, owned by nobody else.
    let link = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let attr = [link.as_raw_fd()];
    // SAFETY: the kernel reads the attribute.
    unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, attr.as_ptr(), size_of_val(&attr)) };
}

fn index(interface: &str) -> Result<u32> {
    machine::index(interface)?.ok_or_else(|| Error::NoInterface(interface.into()))
}

/// Whether one of the interfaces is gone or is another one by now. One that cannot be looked up is taken for the same.
pub fn is_stale(attached: &[Attached]) -> bool {
    attached.iter().any(|attached| {
        machine::index(&attached.interface).is_ok_and(|index| index != Some(attached.ifindex))
    })
}

/// Removes all links but these: of interfaces and programs that are no longer wanted.
pub fn prune<'a>(links: &Path, keep: impl Iterator<Item = &'a PathBuf>) -> Result<()> {
    let keep: Vec<&PathBuf> = keep.collect();
    let error = |source| Error::Pin { what: "list", path: links.into(), source };
    for entry in fs::read_dir(links).map_err(error)? {
        let pin = entry.map_err(error)?.path();
        if !keep.contains(&&pin) {
            remove(&pin)?;
        }
    }
    Ok(())
}

/// The last cause says what the kernel said.
fn innermost(error: impl std::error::Error) -> String {
    let mut cause: &dyn std::error::Error = &error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
