//! What the server counts: one list, from which metrics and `lb dns status` are made.

use std::sync::atomic::{AtomicU64, Ordering};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::tsig::TsigError;

use super::wire::{Outcome, Transport};

/// Defines the counters: one line each, with its name and what it means.
macro_rules! counters {
    ($($variant:ident $name:literal $help:literal)+) => {
        /// A counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter {
            $(#[doc = $help] $variant,)+
        }

        /// Names and meanings, in the order of [`Counter`].
        pub const ALL: &[(&str, &str)] = &[$(($name, $help),)+];
    };
}
counters! {
    Udp "udp" "Packets that came by UDP."
    Tcp "tcp" "Messages that came by TCP."
    NoError "noerror" "Answers without an error."
    NxDomain "nxdomain" "Answers that there is no such name."
    ServFail "servfail" "Answers that nothing is known yet, or too few members work."
    Refused "refused" "Questions outside of the zones, of other classes, or for a transfer that the asker may not have."
    FormErr "formerr" "Packets that are malformed."
    NotImp "notimp" "Operations and types that are not served."
    BadVers "badvers" "EDNS versions other than 0."
    BadKey "bad_key" "Questions signed with a key that is not known."
    BadSig "bad_sig" "Questions with a wrong signature."
    BadTime "bad_time" "Questions that were signed too long ago, or by a clock that is wrong."
    Axfr "axfr" "Zones that were begun to be sent as a whole."
    Ixfr "ixfr" "Changes of zones that were begun to be sent, or that there are none."
    TransferMessages "transfer_messages" "Messages of zones that were sent after the first one of each."
    NotifySent "notify_sent" "Messages to secondaries that a zone has changed."
    NotifyTaken "notify_taken" "Answers of secondaries to such messages."
    OtherCode "other_code" "Answers with any other code."
    Truncated "truncated" "Answers that did not fit into a datagram."
    RateSlipped "rate_slipped" "Answers beyond the limit of a network that said \"come by TCP\"."
    RateDropped "rate_dropped" "Answers beyond the limit of a network that were not sent."
    TooShort "too_short" "Packets without a whole header, not answered."
    NotAQuestion "not_a_question" "Packets that are answers themselves, not answered."
    Unwritable "unwritable" "Answers that could not be written, not sent."
    Unsent "unsent" "Answers that the kernel did not take."
    TcpConnections "tcp_connections" "Connections that were accepted."
    TcpNotAccepted "tcp_not_accepted" "Times that the kernel gave no connection, as without descriptors."
    TcpDisplaced "tcp_displaced" "Connections that were ended because there were too many, in all or of one source: those idle for longest."
    TcpIdle "tcp_idle" "Connections that were ended because they were idle, or slower than the idle time."
}

/// A set of counters; each thread has its own, so that none waits for another.
#[derive(Debug)]
pub struct Counters([AtomicU64; ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; ALL.len()])
    }
}

impl Counters {
    /// Counts one.
    pub fn count(&self, counter: Counter) {
        self.0[counter as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a packet and what became of it.
    pub fn packet(&self, transport: Transport, outcome: Outcome) {
        self.count(match transport {
            Transport::Udp => Counter::Udp,
            Transport::Tcp => Counter::Tcp,
        });
        match outcome {
            Outcome::TooShort => self.count(Counter::TooShort),
            Outcome::NotAQuestion => self.count(Counter::NotAQuestion),
            Outcome::Unwritable => self.count(Counter::Unwritable),
            Outcome::Limited { slipped: true } => self.count(Counter::RateSlipped),
            Outcome::Limited { slipped: false } => self.count(Counter::RateDropped),
            Outcome::BadSignature(error) => self.count(match error {
                TsigError::BadKey => Counter::BadKey,
                TsigError::BadTime => Counter::BadTime,
                _ => Counter::BadSig,
            }),
            Outcome::Transfer(RecordType::AXFR) => self.count(Counter::Axfr),
            Outcome::Transfer(_) => self.count(Counter::Ixfr),
            Outcome::Answered { code, truncated, .. } => {
                self.count(match code {
                    ResponseCode::NoError => Counter::NoError,
                    ResponseCode::NXDomain => Counter::NxDomain,
                    ResponseCode::ServFail => Counter::ServFail,
                    ResponseCode::Refused => Counter::Refused,
                    ResponseCode::FormErr => Counter::FormErr,
                    ResponseCode::NotImp => Counter::NotImp,
                    ResponseCode::BADVERS => Counter::BadVers,
                    _ => Counter::OtherCode,
                });
                if truncated {
                    self.count(Counter::Truncated);
                }
            }
        }
    }

    /// The value of a counter, by its number.
    pub fn value(&self, number: usize) -> u64 {
        self.0[number].load(Ordering::Relaxed)
    }
}
