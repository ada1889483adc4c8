//! What a host does with packets of services that it knows, with sockets of the kernel behind it.
//!
//! Every test has a network of its own with the VIPs on `lo`, and runs at XDP and at TC.

mod owners;
mod seen;
mod sockets;
