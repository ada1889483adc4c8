//! A scenario's file. YAML as written → checked [`Scenario`]; every mistake has its place.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use super::action::{Action, duration_of};
use crate::load::mix::{self, Mix};
use crate::spec::SpecErrors;

/// A checked scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// What it is called in reports.
    pub name: String,
    /// What it proves.
    pub description: String,
    /// Keys of the lab file that it needs, as `--set` takes them.
    pub set: Vec<String>,
    /// Long-lived connections.
    pub connections: Option<u32>,
    /// New requests a second.
    pub requests: u32,
    /// How much there is of the other kinds of load.
    pub load: Mix,
    /// How long the load runs before the timeline begins.
    pub warmup: Duration,
    /// From the start of the timeline until connections prove themselves for the last time.
    pub duration: Duration,
    /// How long an answer may take.
    pub patience: Duration,
    /// What happens, in order.
    pub timeline: Vec<Event>,
    /// What must come out.
    pub expect: Expect,
}

/// Something that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Since the start of the timeline.
    pub at: Duration,
    /// As written.
    pub text: String,
    /// What it means.
    pub action: Action,
    /// Where `lb` runs.
    pub on: String,
}

/// What must come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expect {
    /// Broken connections at most.
    pub broken: u32,
    /// Excused ones at least: else the timeline killed nobody's host.
    pub excused_at_least: u32,
    /// Failed new requests at most.
    pub failed: u64,
    /// The longest stall at most (see [`crate::load::stall`]).
    pub stall: Duration,
}

impl Default for Expect {
    fn default() -> Self {
        Self { broken: 0, excused_at_least: 0, failed: 0, stall: Duration::from_secs(3) }
    }
}

/// The keys, for messages.
const KEYS: &str = "keys: name description set connections requests load warmup duration patience timeline (at do on) expect \
     (broken excused_at_least failed stall)";

/// The longest time that a scenario may name.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: Option<String>,
    description: Option<String>,
    set: Option<BTreeMap<String, Setting>>,
    connections: Option<Spanned<u32>>,
    requests: Option<Spanned<u32>>,
    load: Option<mix::Written>,
    warmup: Option<Spanned<String>>,
    duration: Option<Spanned<String>>,
    patience: Option<Spanned<String>>,
    timeline: Spanned<Vec<WrittenEvent>>,
    #[serde(default)]
    expect: WrittenExpect,
}

/// A value of the lab file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Setting {
    Number(u32),
    Switch(bool),
    Word(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenEvent {
    at: Spanned<String>,
    #[serde(rename = "do")]
    action: Spanned<String>,
    on: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenExpect {
    broken: u32,
    excused_at_least: u32,
    failed: u64,
    stall: Option<Spanned<String>>,
}

/// Reads the scenario described by `yaml`, called `source` in messages.
pub fn load(source: &str, yaml: &str) -> Result<Scenario, SpecErrors> {
    let written: Written =
        serde_saphyr::from_str(yaml).map_err(|error| SpecErrors(vec![describe(source, &error)]))?;
    let mut check = Check { source, errors: Vec::new() };
    let scenario = check.scenario(written);
    if check.errors.is_empty() { Ok(scenario) } else { Err(SpecErrors(check.errors)) }
}

fn describe(source: &str, error: &serde_saphyr::Error) -> String {
    let error = error.without_snippet();
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text).trim().replace('\n', " ");
    let place = error.location().map_or_else(|| format!("{source}: "), |place| place_of(source, &place));
    format!("{place}{text}; {KEYS}; load: {}", mix::KEYS)
}

fn place_of(source: &str, place: &Location) -> String {
    format!("{source}:{}:{}: ", place.line(), place.column())
}

struct Check<'a> {
    source: &'a str,
    errors: Vec<String>,
}

impl Check<'_> {
    fn wrong(&mut self, place: &Location, problem: &str) {
        self.errors.push(format!("{}{problem}", place_of(self.source, place)));
    }

    fn scenario(&mut self, written: Written) -> Scenario {
        let file = self.source.rsplit('/').next().unwrap_or(self.source);
        let name = written.name.unwrap_or_else(|| file.trim_end_matches(".yaml").to_owned());
        let timeline = self.timeline(written.timeline);
        let end = timeline.last().map_or(Duration::ZERO, |event| event.at);
        let duration = self.duration("duration", written.duration.as_ref());
        if let (Some(duration), Some(spanned)) = (duration, &written.duration)
            && duration < end
        {
            self.wrong(&spanned.referenced, "duration: the timeline goes on for longer; raise it");
        }
        let load = written.load.unwrap_or_default();
        let connections =
            self.either("connections", written.connections, "long_lived", load.long_lived.clone());
        if let Some(spanned) = &connections
            && !(1..=50_000).contains(&spanned.value)
        {
            self.wrong(&spanned.referenced, "connections: choose 1 to 50000");
        }
        let requests = self.either("requests", written.requests, "requests", load.requests.clone());
        if let Some(spanned) = requests.as_ref().filter(|spanned| spanned.value > 10_000) {
            self.wrong(&spanned.referenced, "requests: choose 0 to 10000 a second");
        }
        let patience =
            self.duration("patience", written.patience.as_ref()).unwrap_or(Duration::from_secs(20));
        let expect = self.expect(&written.expect, patience);
        Scenario {
            name,
            description: written.description.unwrap_or_default().trim().to_owned(),
            set: written.set.unwrap_or_default().iter().map(|(key, value)| setting(key, value)).collect(),
            connections: connections.map(|spanned| spanned.value),
            requests: requests.map_or(50, |spanned| spanned.value),
            load: load.check(Mix::default(), &mut |place, problem| self.wrong(place, problem)),
            warmup: self.duration("warmup", written.warmup.as_ref()).unwrap_or(Duration::from_secs(1)),
            duration: duration.unwrap_or(end + Duration::from_secs(5)),
            patience,
            timeline,
            expect,
        }
    }

    fn expect(&mut self, written: &WrittenExpect, patience: Duration) -> Expect {
        let stall = self.duration("expect.stall", written.stall.as_ref());
        if let (Some(stall), Some(spanned)) = (stall, &written.stall) {
            if stall.is_zero() {
                self.wrong(&spanned.referenced, "expect.stall: every answer takes some time; write e.g. 3s");
            } else if stall > patience {
                let problem = format!(
                    "expect.stall: {stall:?} is longer than `patience` ({patience:?}), after which an answer is missing \
                     anyway; lower it, or raise `patience`"
                );
                self.wrong(&spanned.referenced, &problem);
            }
        }
        let default = Expect::default();
        Expect {
            broken: written.broken,
            excused_at_least: written.excused_at_least,
            failed: written.failed,
            stall: stall.unwrap_or(default.stall.min(patience)),
        }
    }

    /// A number that may stand in two places, but not in both.
    fn either(
        &mut self,
        key: &str,
        written: Option<Spanned<u32>>,
        key_in_load: &str,
        in_load: Option<Spanned<u32>>,
    ) -> Option<Spanned<u32>> {
        if let (Some(_), Some(spanned)) = (&written, &in_load) {
            let problem = format!("load: {key_in_load}: `{key}` says it already; leave one of them out");
            self.wrong(&spanned.referenced, &problem);
        }
        written.or(in_load)
    }

    fn timeline(&mut self, written: Spanned<Vec<WrittenEvent>>) -> Vec<Event> {
        let mut events: Vec<Event> = Vec::new();
        for event in written.value {
            let place = event.at.referenced;
            let Some(at) = self.duration("at", Some(&event.at)) else { continue };
            if events.last().is_some_and(|last| last.at > at) {
                self.wrong(&place, "at: earlier than the event before it; write events in order of time");
            }
            match Action::parse(&event.action.value) {
                Ok(action) => events.push(Event {
                    at,
                    text: event.action.value,
                    action,
                    on: event.on.unwrap_or_else(|| "lb4-1".to_owned()),
                }),
                Err(problem) => self.wrong(&event.action.referenced, &format!("do: {problem}")),
            }
        }
        events
    }

    fn duration(&mut self, key: &str, written: Option<&Spanned<String>>) -> Option<Duration> {
        let written = written?;
        let duration = duration_of(&written.value);
        let problem = match duration {
            None => format!("{key}: `{}` is no duration; write e.g. 500ms, 5s or 1m", written.value),
            Some(duration) if duration > LONGEST => format!("{key}: longer than a day; choose less"),
            Some(_) => return duration,
        };
        self.wrong(&written.referenced, &problem);
        None
    }
}

fn setting(key: &str, value: &Setting) -> String {
    match value {
        Setting::Number(number) => format!("{key}={number}"),
        Setting::Switch(switch) => format!("{key}={switch}"),
        Setting::Word(word) => format!("{key}={word}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::action::Nodes;

    #[test]
    fn scenario_has_defaults_for_all_but_its_timeline() {
        let yaml = "timeline:\n  - {at: 2s, do: disable lb4-2}\n";
        let scenario = load("configs/scenarios/02-x.yaml", yaml).unwrap();
        assert_eq!(scenario.name, "02-x");
        assert_eq!((scenario.requests, scenario.expect.broken), (50, 0));
        assert_eq!(scenario.duration, Duration::from_secs(7));
        assert_eq!(scenario.timeline[0].action, Action::Disable(Nodes("lb4-2".to_owned())));
        assert_eq!(scenario.timeline[0].on, "lb4-1");
    }

    #[test]
    fn load_has_its_kinds_and_refuses_what_it_does_not_know() {
        let load = |yaml: &str| load("x.yaml", &format!("timeline: []\n{yaml}\n"));
        assert_eq!(load("").unwrap().load, Mix::default());
        let scenario = load("load: {long_lived: 300, requests: 7, downloads: 8, udp: 0}").unwrap();
        assert_eq!((scenario.connections, scenario.requests), (Some(300), 7));
        assert_eq!(scenario.load, Mix { downloads: 8, udp: 0, ..Mix::default() });
        let error = load("load:\n  udp: 3\n  upload: 3").unwrap_err();
        assert!(error.0[0].starts_with("x.yaml:4:3: ") && error.0[0].contains("slow_uploads"), "{error}");
        let error = load("load: {idle: 10001, size: big}").unwrap_err();
        assert_eq!(error.0.len(), 2, "{error}");
        assert_eq!(error.0[0], "x.yaml:2:14: load: idle: choose 0 to 10000");
        let error = load("connections: 3\nload: {long_lived: 4}").unwrap_err();
        assert_eq!(
            error.0,
            ["x.yaml:3:20: load: long_lived: `connections` says it already; leave one of them out"]
        );
    }

    #[test]
    fn settings_become_sets() {
        let yaml = "set: {spare_lb7: 2, bgp: bird, bfd: true}\ntimeline: []\n";
        assert_eq!(load("x", yaml).unwrap().set, ["bfd=true", "bgp=bird", "spare_lb7=2"]);
    }

    #[test]
    fn every_mistake_is_named_with_its_place() {
        let yaml = "warmup: soon
timeline:
  - {at: 5s, do: disable lb4-2}
  - {at: 3s, do: enable lb4-2}
  - {at: 6s, do: explode lb4-2}
duration: 1s
";
        let errors = load("x.yaml", yaml).unwrap_err().0;
        assert_eq!(errors.len(), 4, "{errors:#?}");
        let all = errors.join("\n");
        assert!(all.contains("x.yaml:1:9: warmup: `soon` is no duration"), "{all}");
        assert!(all.contains("x.yaml:4:10: at: earlier than the event before it"), "{all}");
        assert!(all.contains("x.yaml:5:18: do: `explode` is no action"), "{all}");
        assert!(all.contains("x.yaml:6:11: duration: the timeline goes on for longer"), "{all}");
    }

    #[test]
    fn what_is_expected_has_strict_defaults() {
        let expect = |yaml: &str| load("x.yaml", &format!("timeline: []\n{yaml}")).map(|read| read.expect);
        let strict = Expect { broken: 0, failed: 0, excused_at_least: 0, stall: Duration::from_secs(3) };
        assert_eq!(expect(""), Ok(strict));
        let loose = Expect { failed: 2, stall: Duration::from_secs(7), ..strict };
        assert_eq!(expect("expect: {failed: 2, stall: 7s}\n"), Ok(loose));
        let impatient = expect("patience: 2s\n").unwrap();
        assert_eq!(impatient.stall, Duration::from_secs(2), "not more than a request may take");
    }

    #[test]
    fn absurd_expectations_are_refused_with_their_place() {
        for (expect, problem) in [
            ("stall: -1s", "x.yaml:2:17: expect.stall: `-1s` is no duration"),
            ("stall: 3", "x.yaml:2:17: expect.stall: `3` is no duration"),
            ("stall: 0s", "x.yaml:2:17: expect.stall: every answer takes some time"),
            ("stall: 21s", "x.yaml:2:17: expect.stall: 21s is longer than `patience` (20s)"),
            ("stall: 99999m", "x.yaml:2:17: expect.stall: longer than a day"),
            ("stalls: 3s", "x.yaml:2:10: unknown field `stalls`"),
            ("failed: -1", "x.yaml:2:18: "),
            ("broken: some", "x.yaml:2:18: "),
        ] {
            let yaml = format!("timeline: []\nexpect: {{{expect}}}\n");
            let errors = load("x.yaml", &yaml).unwrap_err().0;
            assert!(errors.len() == 1 && errors[0].starts_with(problem), "{expect}: {errors:#?}");
        }
    }

    #[test]
    fn unknown_key_is_refused_with_its_place_and_the_keys_there_are() {
        let error = load("x.yaml", "timeline: []\nconections: 3\n").unwrap_err();
        assert!(error.0[0].starts_with("x.yaml:2:1: ") && error.0[0].contains("keys: name"), "{error}");
    }
}
