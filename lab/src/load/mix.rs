//! Which kinds of load there are, and how much of each: `load:` of a scenario file.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_saphyr::{Location, Spanned};

use crate::scenario::action::duration_of;

/// A kind of load. Each has counts and a verdict of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadKind {
    /// Connections that ask every few seconds.
    LongLived,
    /// Downloads as fast as they go, with a pause between two.
    Downloads,
    /// Downloads read at `rate`, one after the other.
    SlowDownloads,
    /// Uploads as fast as they go, with a pause between two.
    Uploads,
    /// Uploads written at `rate`, one after the other.
    SlowUploads,
    /// Connections that are silent until the end, and must answer then.
    Idle,
    /// Downloads read at `rate` on connections whose user has sent FIN.
    HalfClosed,
    /// UDP flows, each by a connected socket at both ends.
    Udp,
}

impl LoadKind {
    /// All but [`Self::LongLived`], which scenarios count apart.
    pub const OTHERS: [Self; 7] = [
        Self::Downloads,
        Self::SlowDownloads,
        Self::Uploads,
        Self::SlowUploads,
        Self::Idle,
        Self::HalfClosed,
        Self::Udp,
    ];

    /// As scenario files and JSON spell it.
    pub fn word(self) -> &'static str {
        match self {
            Self::LongLived => "long_lived",
            Self::Downloads => "downloads",
            Self::SlowDownloads => "slow_downloads",
            Self::Uploads => "uploads",
            Self::SlowUploads => "slow_uploads",
            Self::Idle => "idle",
            Self::HalfClosed => "half_closed",
            Self::Udp => "udp",
        }
    }
}

/// How much there is of the kinds other than long-lived connections. The default is a modest share of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mix {
    /// Users who download.
    pub downloads: u32,
    /// Users who download slowly.
    pub slow_downloads: u32,
    /// Users who upload.
    pub uploads: u32,
    /// Users who upload slowly.
    pub slow_uploads: u32,
    /// Silent connections.
    pub idle: u32,
    /// Half-closed connections.
    pub half_closed: u32,
    /// UDP flows.
    pub udp: u32,
    /// Bytes of a transfer.
    pub size: u64,
    /// Bytes a second of a slow one.
    pub rate: u64,
    /// Milliseconds between two fast transfers of a user.
    pub pause_ms: u64,
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            downloads: 2,
            slow_downloads: 4,
            uploads: 2,
            slow_uploads: 4,
            idle: 20,
            half_closed: 4,
            udp: 20,
            size: 10_000_000,
            rate: 500_000,
            pause_ms: 5000,
        }
    }
}

impl Mix {
    /// How many there are of `kind`; long-lived connections are not part of it.
    pub fn count(&self, kind: LoadKind) -> u32 {
        match kind {
            LoadKind::LongLived => 0,
            LoadKind::Downloads => self.downloads,
            LoadKind::SlowDownloads => self.slow_downloads,
            LoadKind::Uploads => self.uploads,
            LoadKind::SlowUploads => self.slow_uploads,
            LoadKind::Idle => self.idle,
            LoadKind::HalfClosed => self.half_closed,
            LoadKind::Udp => self.udp,
        }
    }

    /// All kinds together.
    pub fn total(&self) -> u32 {
        LoadKind::OTHERS.map(|kind| self.count(kind)).iter().sum()
    }

    /// Reads what [`Self::json`] wrote.
    pub fn from_json(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// As an argument of `lab load`.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("plain numbers")
    }
}

/// `load:` as written.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// Long-lived connections: the same as `connections` of the scenario.
    pub long_lived: Option<Spanned<u32>>,
    /// New requests a second: the same as `requests` of the scenario.
    pub requests: Option<Spanned<u32>>,
    downloads: Option<Spanned<u32>>,
    slow_downloads: Option<Spanned<u32>>,
    uploads: Option<Spanned<u32>>,
    slow_uploads: Option<Spanned<u32>>,
    idle: Option<Spanned<u32>>,
    half_closed: Option<Spanned<u32>>,
    udp: Option<Spanned<u32>>,
    size: Option<Spanned<String>>,
    rate: Option<Spanned<String>>,
    pause: Option<Spanned<String>>,
}

/// The keys, for messages.
pub const KEYS: &str =
    "long_lived requests downloads slow_downloads uploads slow_uploads idle half_closed udp size rate pause";

/// Users who transfer something at the same time, per kind.
const TRANSFERS: u32 = 1000;
/// Connections or flows, per kind.
const FLOWS: u32 = 10_000;

impl Written {
    /// `default` with what is written; mistakes go to `wrong` with their places.
    pub fn check(&self, default: Mix, wrong: &mut impl FnMut(&Location, &str)) -> Mix {
        let mut number = |key: &str, written: &Option<Spanned<u32>>, default: u32, most: u32| {
            let Some(spanned) = written else { return default };
            if spanned.value > most {
                wrong(&spanned.referenced, &format!("load: {key}: choose 0 to {most}"));
            }
            spanned.value
        };
        let mix = Mix {
            downloads: number("downloads", &self.downloads, default.downloads, TRANSFERS),
            slow_downloads: number("slow_downloads", &self.slow_downloads, default.slow_downloads, TRANSFERS),
            uploads: number("uploads", &self.uploads, default.uploads, TRANSFERS),
            slow_uploads: number("slow_uploads", &self.slow_uploads, default.slow_uploads, TRANSFERS),
            idle: number("idle", &self.idle, default.idle, FLOWS),
            half_closed: number("half_closed", &self.half_closed, default.half_closed, TRANSFERS),
            udp: number("udp", &self.udp, default.udp, FLOWS),
            ..default
        };
        let mut bytes = |key: &str, written: &Option<Spanned<String>>, default: u64, least: u64| {
            let Some(spanned) = written else { return default };
            let text = spanned.value.strip_suffix("/s").filter(|_| key == "rate").unwrap_or(&spanned.value);
            let found = bytes_of(text).filter(|bytes| (least..=1_000_000_000).contains(bytes));
            if found.is_none() {
                let example = if key == "rate" { "500kB/s, 10kB/s to 1GB/s" } else { "10MB, 1B to 1GB" };
                let problem = format!("load: {key}: `{}` does not do; write e.g. {example}", spanned.value);
                wrong(&spanned.referenced, &problem);
            }
            found.unwrap_or(default)
        };
        let size = bytes("size", &self.size, default.size, 1);
        let rate = bytes("rate", &self.rate, default.rate, 10_000);
        let pause_ms = self.pause.as_ref().map_or(default.pause_ms, |spanned| {
            let found = duration_of(&spanned.value).filter(|pause| *pause <= Duration::from_secs(600));
            if found.is_none() {
                let problem =
                    format!("load: pause: `{}` does not do; write e.g. 5s, at most 10m", spanned.value);
                wrong(&spanned.referenced, &problem);
            }
            found.map_or(default.pause_ms, super::milliseconds)
        });
        Mix { size, rate, pause_ms, ..mix }
    }
}

/// `mix` with what arguments `key=value` say.
pub fn changed(mut mix: Mix, sets: &[String]) -> Result<Mix, String> {
    for set in sets {
        let wrong = |problem: &str| format!("--load {set}: {problem}");
        let (key, value) = set.split_once('=').ok_or_else(|| wrong("write KEY=VALUE, e.g. downloads=8"))?;
        let written: Written = serde_saphyr::from_str(&format!("{}: {}", key.trim(), value.trim()))
            .map_err(|_| wrong(&format!("not a number or size of one of: {KEYS}")))?;
        if written.long_lived.is_some() || written.requests.is_some() {
            return Err(wrong("say --connections, or write it into the scenario"));
        }
        let mut problem = None;
        mix = written.check(mix, &mut |_, found| problem = Some(wrong(found)));
        if let Some(problem) = problem {
            return Err(problem);
        }
    }
    Ok(mix)
}

/// `10MB`, `64KiB`, `512B`.
fn bytes_of(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "B" => 1,
        "kB" => 1000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(yaml: &str) -> (Mix, Vec<String>) {
        let written: Written = serde_saphyr::from_str(yaml).unwrap();
        let mut problems = Vec::new();
        let mix = written.check(Mix::default(), &mut |place, problem| {
            problems.push(format!("{}: {problem}", place.column()))
        });
        (mix, problems)
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes_of("10MB"), Some(10_000_000));
        assert_eq!(bytes_of("64KiB"), Some(65_536));
        for wrong in ["10", "MB", "1.5MB", "10 MB", "10mb", "-1B", "99999999999999999999GB"] {
            assert_eq!(bytes_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_not_said_stays_as_it_is() {
        let (mix, problems) = checked("{downloads: 8, size: 1MB, rate: 100kB/s, pause: 2s}");
        assert!(problems.is_empty(), "{problems:?}");
        let wanted = Mix { downloads: 8, size: 1_000_000, rate: 100_000, pause_ms: 2000, ..Mix::default() };
        assert_eq!(mix, wanted);
    }

    #[test]
    fn every_number_out_of_range_has_its_place() {
        let (_, problems) = checked("{uploads: 1001, udp: 10001, size: 2GB, rate: 1kB, pause: 11m}");
        assert_eq!(problems.len(), 5, "{problems:#?}");
        assert_eq!(problems[0], "11: load: uploads: choose 0 to 1000");
        assert!(problems[2].contains("size: `2GB` does not do"), "{problems:#?}");
    }

    #[test]
    fn arguments_change_single_keys() {
        let sets = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let mix = changed(Mix::default(), &sets("downloads=8 size=1MB udp=0")).unwrap();
        assert_eq!(mix, Mix { downloads: 8, size: 1_000_000, udp: 0, ..Mix::default() });
        for (wrong, why) in [
            ("downloads", "write KEY=VALUE"),
            ("downloads=many", "not a number"),
            ("uploads=-1", "not a number"),
            ("down=1", "one of: long_lived"),
            ("udp=10001", "choose 0 to 10000"),
            ("long_lived=3", "say --connections"),
        ] {
            let problem = changed(Mix::default(), &sets(wrong)).unwrap_err();
            assert!(problem.starts_with(&format!("--load {wrong}: ")) && problem.contains(why), "{problem}");
        }
    }

    #[test]
    fn mix_survives_the_command_line() {
        let mix = Mix { udp: 3, ..Mix::default() };
        assert_eq!(Mix::from_json(&mix.json()), Ok(mix));
        assert!(Mix::from_json("{\"down\": 1}").is_err());
    }

    #[test]
    fn words_are_those_of_json() {
        for kind in LoadKind::OTHERS {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.word());
            assert!(KEYS.split(' ').any(|key| key == kind.word()));
        }
    }
}
