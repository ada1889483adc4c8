//! BIRD: an include file with static routes, and the control socket to have it loaded.
//!
//! `configure check` reads the files that are in place, so a new include file is put in place first, also while BIRD is
//! away. If BIRD objects to it, the old one returns. If it objects to something else in the configuration, the new one stays, to be right
//! when the operator has mended that; a family that is to have no routes is disabled at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::warn;

use super::bird_control::{Control, Line};
use super::{Announcements, BgpError, Prefix, Speaker};
use crate::model::Family;

/// Most time between BIRD's word that it is reconfiguring and the routes being there.
const LOAD: Duration = Duration::from_secs(1);
/// Numbers of reply lines: a protocol, a route, an attribute of the route before.
const PROTOCOL: u16 = 1002;
const PROTOCOL_DETAIL: u16 = 1006;
const ROUTE: u16 = 1007;
const ATTRIBUTE: u16 = 1012;

/// A BIRD 2 daemon whose `bird.conf` includes our file.
pub struct Bird {
    include: PathBuf,
    path: PathBuf,
    control: Option<Control>,
    /// What it was last seen to hold, as long as the control socket stays open.
    held: Option<Held>,
    /// The include file before the changes that BIRD has not yet loaded.
    unconfirmed: Option<Option<String>>,
}

/// Routes and what is told with them.
type Held = BTreeMap<Prefix, Attributes>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Attributes {
    med: Option<u32>,
    communities: BTreeSet<(u16, u16)>,
}

impl Bird {
    /// Touches nothing yet.
    pub fn new(include: &Path, control: &Path) -> Self {
        Self { include: include.into(), path: control.into(), control: None, held: None, unconfirmed: None }
    }

    /// Puts the include file in place, if it differs; returns whether it did.
    fn write(&mut self, new: &str) -> Result<bool, BgpError> {
        let old = read(&self.include)?;
        if old.as_deref() == Some(new) {
            return Ok(false);
        }
        replace(&self.include, new)?;
        self.unconfirmed.get_or_insert(old);
        Ok(true)
    }

    async fn ask(&mut self, command: &str) -> Result<Vec<Line>, BgpError> {
        let mut control = match self.control.take() {
            Some(control) => control,
            None => {
                // Another BIRD, perhaps.
                self.held = None;
                Control::connect(&self.path).await?
            }
        };
        let reply = control.ask(command).await;
        if !matches!(reply, Err(BgpError::Away { .. })) {
            self.control = Some(control);
        }
        reply
    }

    /// Reads every route of ours with its attributes. Walks BIRD's tables: not for every look.
    async fn read_routes(&mut self) -> Result<Held, BgpError> {
        // Unlike `protocol lb_vips4` this is no error while there is no such protocol.
        let reply = self.ask(r#"show route where proto ~ "lb_vips*" all"#).await?;
        let held = parse_routes(&reply);
        self.held = Some(held.clone());
        Ok(held)
    }

    /// Has BIRD read its configuration, and makes sure that both protocols run.
    async fn configure(&mut self) -> Result<(), BgpError> {
        self.ask("configure check").await?;
        self.ask("configure soft").await?;
        for family in Family::ALL {
            // A protocol that was disabled by hand or by `silence` stays so through a soft reconfiguration.
            let reply = self.ask(&format!(r#"enable "{}""#, protocol(family))).await;
            if let Err(error @ BgpError::Away { .. }) = reply {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes back the routes of families that are to have none, although the configuration cannot be loaded.
    async fn silence(&mut self, want: &Announcements) {
        for family in Family::ALL {
            if routes_of(want, family).next().is_none() {
                let command = format!(r#"disable "{}""#, protocol(family));
                if let Err(error) = self.ask(&command).await {
                    warn!("{error}");
                }
            }
        }
    }

    async fn wait_for(&mut self, want: &Held) -> Result<(), BgpError> {
        let deadline = Instant::now() + LOAD;
        let mut pause = Duration::from_millis(1);
        loop {
            let held = self.read_routes().await?;
            if held == *want {
                return Ok(());
            }
            if Instant::now() > deadline {
                let differs = |prefix: &&Prefix| held.get(prefix) != want.get(prefix);
                let prefix = want.keys().chain(held.keys()).find(differs);
                let family = prefix.map_or(Family::V4, |prefix| Family::of(prefix.address));
                return Err(BgpError::NotLoaded { path: self.include.clone(), protocol: protocol(family) });
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

impl Speaker for Bird {
    async fn announce(&mut self, want: &Announcements) -> Result<(), BgpError> {
        // First the file: a BIRD that starts only now has to begin with what is wanted.
        let written = self.write(&render(want))?;
        let wanted = wanted(want);
        if self.read_routes().await? == wanted && !written && self.unconfirmed.is_none() {
            return Ok(());
        }
        match self.configure().await {
            Ok(()) => self.unconfirmed = None,
            Err(BgpError::Refused { daemon, what, message }) => {
                if !message.starts_with(&*self.include.to_string_lossy()) {
                    self.silence(want).await;
                } else if let Some(old) = self.unconfirmed.take() {
                    restore(&self.include, old.as_deref())?;
                }
                return Err(BgpError::Refused { daemon, what, message });
            }
            Err(error) => return Err(error),
        }
        self.wait_for(&wanted).await
    }

    async fn announced(&mut self) -> Result<BTreeSet<Prefix>, BgpError> {
        let reply = self.ask(r#"show protocols all "lb_vips*""#).await?;
        let counts = parse_counts(&reply);
        let held = match self.held.take() {
            Some(held) if counts == Some(held.len()) => {
                self.held = Some(held.clone());
                held
            }
            _ => self.read_routes().await?,
        };
        Ok(held.into_keys().collect())
    }
}

const fn protocol(family: Family) -> &'static str {
    match family {
        Family::V4 => "lb_vips4",
        Family::V6 => "lb_vips6",
    }
}

fn routes_of(want: &Announcements, family: Family) -> impl Iterator<Item = &Prefix> {
    want.routes.iter().filter(move |prefix| Family::of(prefix.address) == family)
}

/// What BIRD shows once it has loaded the file.
fn wanted(want: &Announcements) -> Held {
    let attributes =
        Attributes { med: Some(want.med), communities: want.communities.iter().copied().collect() };
    want.routes.iter().map(|prefix| (*prefix, attributes.clone())).collect()
}

/// The content of the include file.
pub fn render(want: &Announcements) -> String {
    let mut attributes = format!("bgp_med = {};", want.med);
    for (high, low) in &want.communities {
        // Writing to a string cannot fail.
        let _ = write!(attributes, " bgp_community.add(({high},{low}));");
    }
    let mut text = "# written by lb agent; changes are lost\n".to_owned();
    for (family, channel) in [(Family::V4, "ipv4"), (Family::V6, "ipv6")] {
        let _ = writeln!(text, "protocol static {} {{\n    {channel};", protocol(family));
        for prefix in routes_of(want, family) {
            let _ = writeln!(text, "    route {prefix} blackhole {{ {attributes} }};");
        }
        text.push_str("}\n");
    }
    text
}

fn parse_routes(reply: &[Line]) -> Held {
    let mut held = Held::new();
    let mut current: Option<Prefix> = None;
    for line in reply {
        let text = line.text.trim();
        match line.code {
            ROUTE => {
                current = text.split_whitespace().next().and_then(|word| word.parse().ok());
                if let Some(prefix) = current {
                    held.entry(prefix).or_default();
                }
            }
            ATTRIBUTE => {
                let Some(attributes) = current.and_then(|prefix| held.get_mut(&prefix)) else { continue };
                if let Some(med) = text.strip_prefix("BGP.med:") {
                    attributes.med = med.trim().parse().ok();
                } else if let Some(list) = text.strip_prefix("BGP.community:") {
                    attributes.communities = list.split_whitespace().filter_map(parse_community).collect();
                }
            }
            _ => {}
        }
    }
    held
}

fn parse_community(text: &str) -> Option<(u16, u16)> {
    let (high, low) = text.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    Some((high.parse().ok()?, low.parse().ok()?))
}

/// How many routes both protocols hold together; `None` unless both are up.
fn parse_counts(reply: &[Line]) -> Option<usize> {
    let up = |line: &&Line| {
        line.code == PROTOCOL && line.text.split_whitespace().nth(3).is_some_and(|state| state == "up")
    };
    if reply.iter().filter(up).count() != Family::ALL.len() {
        return None;
    }
    let imported = |line: &Line| {
        let words = line.text.trim().strip_prefix("Routes:").filter(|_| line.code == PROTOCOL_DETAIL)?;
        words.split_whitespace().next()?.parse::<usize>().ok()
    };
    Some(reply.iter().filter_map(imported).sum())
}

fn read(path: &Path) -> Result<Option<String>, BgpError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        // Not text: not ours, and to be replaced.
        Err(error) if error.kind() == ErrorKind::InvalidData => Ok(None),
        Err(source) => Err(BgpError::Include { path: path.into(), source }),
    }
}

/// Puts a file in place in one step. Not synced to the disk: after a power failure the agent writes it anew.
fn replace(path: &Path, content: &str) -> Result<(), BgpError> {
    let write = || {
        let directory = path.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new("."));
        fs::create_dir_all(directory)?;
        // Hidden, and not named `*.conf`: BIRD's glob does not see it.
        let mut file = tempfile::Builder::new().prefix(".lb-").suffix(".new").tempfile_in(directory)?;
        file.write_all(content.as_bytes())?;
        // BIRD may run as another user.
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.as_file().set_permissions(readable)?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|source| BgpError::Include { path: path.into(), source })
}

fn restore(path: &Path, old: Option<&str>) -> Result<(), BgpError> {
    match old {
        Some(old) => replace(path, old),
        None => fs::remove_file(path).map_err(|source| BgpError::Include { path: path.into(), source }),
    }
}

#[cfg(test)]
#[path = "bird_tests.rs"]
mod conversations;

#[cfg(test)]
mod tests {
    use super::*;

    fn want(routes: &[&str]) -> Announcements {
        let routes = routes.iter().map(|route| route.parse().unwrap()).collect();
        Announcements { routes, med: 5, communities: vec![(65000, 100), (65000, 7)], ..Default::default() }
    }

    fn lines(code: u16, text: &str) -> Vec<Line> {
        text.lines().map(|text| Line { code, text: text.into() }).collect()
    }

    #[test]
    fn routes_are_written_by_family_with_their_attributes() {
        let text = render(&want(&[
            "2001:db8::c633:6401/128",
            "2001:db8:5::/64",
            "198.51.100.2/32",
            "198.51.100.1/32",
        ]));
        assert_eq!(
            text,
            "# written by lb agent; changes are lost
protocol static lb_vips4 {
    ipv4;
    route 198.51.100.1/32 blackhole { bgp_med = 5; bgp_community.add((65000,100)); bgp_community.add((65000,7)); };
    route 198.51.100.2/32 blackhole { bgp_med = 5; bgp_community.add((65000,100)); bgp_community.add((65000,7)); };
}
protocol static lb_vips6 {
    ipv6;
    route 2001:db8::c633:6401/128 blackhole { bgp_med = 5; bgp_community.add((65000,100)); bgp_community.add((65000,7)); };
    route 2001:db8:5::/64 blackhole { bgp_med = 5; bgp_community.add((65000,100)); bgp_community.add((65000,7)); };
}
"
        );
    }

    #[test]
    fn with_nothing_to_announce_both_protocols_stay() {
        let text = render(&Announcements::default());
        assert_eq!(text.matches("protocol static").count(), 2);
        assert!(!text.contains("route "));
    }

    #[test]
    fn shown_routes_are_read_with_their_attributes() {
        let mut reply =
            lines(ROUTE, "Table master4:\n198.51.100.1/32      blackhole [lb_vips4 01:38:38.292] * (200)");
        reply.extend(lines(1008, "\tType: static univ"));
        reply.extend(lines(ATTRIBUTE, "\tBGP.med: 5\n\tBGP.community: (65000,7) (65000,100)"));
        reply.extend(lines(
            ROUTE,
            "\nTable master6:\n2001:db8::1/128 blackhole [lb_vips6 01:38:38.292] * (200)",
        ));
        reply.extend(lines(0, ""));
        let held = parse_routes(&reply);
        let plain = Attributes::default();
        assert_eq!(
            held.get(&"198.51.100.1/32".parse().unwrap()),
            wanted(&want(&["198.51.100.1/32"])).values().next()
        );
        assert_eq!(held.get(&"2001:db8::1/128".parse().unwrap()), Some(&plain));
        assert_eq!(held.len(), 2);
    }

    #[test]
    fn routes_count_only_while_both_protocols_are_up() {
        let shown = |state: &str| {
            let mut reply = lines(PROTOCOL, "lb_vips4   Static     master4    up     01:38:38.292");
            reply.extend(lines(PROTOCOL_DETAIL, "    Routes:         2 imported, 0 exported, 2 preferred"));
            reply
                .extend(lines(PROTOCOL, &format!("lb_vips6   Static     master6    {state}   01:38:38.292")));
            reply.extend(lines(PROTOCOL_DETAIL, "    Routes:         1 imported, 0 exported, 1 preferred"));
            parse_counts(&reply)
        };
        assert_eq!(shown("up"), Some(3));
        assert_eq!(shown("down"), None);
        assert_eq!(parse_counts(&[]), None);
    }

    #[test]
    fn a_file_is_replaced_whole_and_restored() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lb.conf");
        assert_eq!(read(&path).unwrap(), None);
        replace(&path, "one").unwrap();
        replace(&path, "two").unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some("two"));
        restore(&path, Some("one")).unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some("one"));
        restore(&path, None).unwrap();
        assert_eq!(read(&path).unwrap(), None);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);

        replace(&directory.path().join("absent/lb.conf"), "one").unwrap();
        let error = replace(&directory.path().join("absent/lb.conf/lb.conf"), "one").unwrap_err();
        assert!(error.to_string().contains("absent/lb.conf/lb.conf: "), "{error}");
    }
}
