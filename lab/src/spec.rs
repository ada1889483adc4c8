//! The lab file: which lab to build. YAML as written → checked [`LabSpec`].

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_saphyr::{Location, Spanned};

/// The reference lab, used when `lab up` is given no file.
pub const REFERENCE: &str = include_str!("../../configs/labs/reference.yaml");

/// A checked description of a lab; sizes are within what the addressing allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabSpec {
    /// Names the lab's namespaces, control groups and state; labs of different names coexist.
    pub name: String,
    /// Routers R1… between the internet and the infrastructure.
    pub routers: u32,
    /// BGP route reflectors RR1….
    pub reflectors: u32,
    /// Directors LB4-1….
    pub lb4: u32,
    /// L7 hosts LB7-1….
    pub lb7: u32,
    /// Further L7 hosts, numbered after those, that run but are not in the pool.
    pub spare_lb7: u32,
    /// Servers S1….
    pub servers: u32,
    /// How many addresses of 203.0.113.0/24 (and twins) the users node owns.
    pub user_addresses: u32,
    /// Which BGP daemon stands beside each director's agent.
    pub bgp: BgpSidecar,
    /// What balances on the directors.
    pub director: DirectorKind,
    /// What answers for the VIPs' names.
    pub dns: DnsKind,
    /// How the programs attach to interfaces.
    pub xdp: XdpMode,
    /// How L7 hosts decapsulate.
    pub decapsulation: Decapsulation,
    /// How flows keep to their L7 hosts when directors, routes or the pool change.
    pub affinity: Affinity,
    /// Pools in a manifest that all nodes share, instead of in each node's configuration.
    pub manifest: bool,
    /// BFD between internet and routers (the reflectors' GoBGP has none).
    pub bfd: bool,
    /// GRO, TSO and checksums in the device, as real cards have them.
    pub offloads: bool,
}

/// Which BGP daemon announces a director's VIPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BgpSidecar {
    /// Odd directors run BIRD, even directors GoBGP.
    Alternate,
    /// All directors run BIRD.
    Bird,
    /// All directors run GoBGP.
    Gobgp,
}

/// What balances on the directors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DirectorKind {
    /// The agent and its XDP program.
    Xdp,
    /// keepalived, IPVS and ExaBGP, to compare with; the kernel must have IPVS.
    Ipvs,
}

/// What answers for the VIPs' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DnsKind {
    /// The agent.
    Lb,
    /// gdnsd, which the agent tells what works.
    Gdnsd,
}

/// How XDP programs attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// Native where the driver has it, else generic.
    Auto,
    /// In the driver.
    Native,
    /// In the stack.
    Generic,
}

/// How L7 hosts take the tunnel off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decapsulation {
    /// XDP, or TC where XDP cannot attach.
    Auto,
    /// Our XDP program.
    Xdp,
    /// Our TC program.
    Tc,
    /// The kernel's tunnel devices.
    Kernel,
}

/// How flows keep to their L7 hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Affinity {
    /// L7 hosts pass on what is not theirs.
    SecondChance,
    /// Each director remembers flows, as other load balancers do.
    FlowTable,
    /// Nobody does anything.
    None,
}

impl Affinity {
    /// The word as configuration files spell it.
    pub fn word(self) -> &'static str {
        match self {
            Self::SecondChance => "second-chance",
            Self::FlowTable => "flow-table",
            Self::None => "none",
        }
    }
}

impl LabSpec {
    /// Whether nodes share their pools: IPVS knows nothing of it, and its hosts keep what they get.
    pub fn has_manifest(&self) -> bool {
        self.manifest && self.director == DirectorKind::Xdp
    }
}

impl BgpSidecar {
    /// Whether director `index` (from 1) runs BIRD.
    pub fn is_bird(self, index: u32) -> bool {
        match self {
            Self::Alternate => index % 2 == 1,
            Self::Bird => true,
            Self::Gobgp => false,
        }
    }
}

impl XdpMode {
    /// The word as configuration files spell it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

impl Decapsulation {
    /// The word as configuration files spell it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::Tc => "tc",
            Self::Kernel => "kernel",
        }
    }
}

/// Every mistake of a lab file, one line each.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct SpecErrors(pub Vec<String>);

impl fmt::Display for SpecErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// Reads the lab described by `yaml` (called `source` in messages), changed by `sets` (`key=value`).
pub fn load(source: &str, yaml: &str, sets: &[String]) -> Result<LabSpec, SpecErrors> {
    let mut errors = Vec::new();
    let mut layers = vec![parse(source, yaml).unwrap_or_else(|error| {
        errors.push(error);
        Layer::default()
    })];
    for set in sets {
        let Some((key, value)) = set.split_once('=') else {
            errors.push(format!("--set {set}: no `=`; write --set key=value, e.g. --set lb4=3"));
            continue;
        };
        match parse(ARGUMENT, &format!("{}: {}", key.trim(), value.trim())) {
            Ok(layer) => layers.push(layer),
            Err(error) => errors.push(format!("--set {set}: {error}")),
        }
    }
    if !errors.is_empty() {
        return Err(SpecErrors(errors));
    }
    check(&layers)
}

/// A lab file as written, with the place of each value for messages.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: Option<Spanned<String>>,
    routers: Option<Spanned<u32>>,
    reflectors: Option<Spanned<u32>>,
    lb4: Option<Spanned<u32>>,
    lb7: Option<Spanned<u32>>,
    spare_lb7: Option<Spanned<u32>>,
    servers: Option<Spanned<u32>>,
    user_addresses: Option<Spanned<u32>>,
    bgp: Option<Spanned<BgpSidecar>>,
    director: Option<Spanned<DirectorKind>>,
    dns: Option<Spanned<DnsKind>>,
    xdp: Option<Spanned<XdpMode>>,
    decapsulation: Option<Spanned<Decapsulation>>,
    affinity: Option<Spanned<Affinity>>,
    manifest: Option<Spanned<bool>>,
    bfd: Option<Spanned<bool>>,
    offloads: Option<Spanned<bool>>,
}

#[derive(Default)]
struct Layer {
    source: String,
    written: Written,
}

fn parse(source: &str, yaml: &str) -> Result<Layer, String> {
    let written = if yaml.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        Written::default()
    } else {
        serde_saphyr::from_str(yaml).map_err(|error| describe(source, &error))?
    };
    Ok(Layer { source: source.to_owned(), written })
}

/// The source of what `--set` says, which has no lines worth counting.
const ARGUMENT: &str = "";

/// `FILE:LINE:COL: `, as compilers write it.
fn place_of(source: &str, place: &Location) -> String {
    if source == ARGUMENT {
        return String::new();
    }
    format!("{source}:{}:{}: ", place.line(), place.column())
}

fn describe(source: &str, error: &serde_saphyr::Error) -> String {
    let error = error.without_snippet();
    let text = error.to_string();
    // The position stands in front, as compilers write it; the library puts it at the end.
    let text = text.split(" at line ").next().unwrap_or(&text).trim().replace('\n', " ");
    let text = text.replace("invalid u32", "not a whole number, where one is needed");
    let place = error.location().map_or_else(String::new, |place| place_of(source, &place));
    format!("{place}{text}; see lab/README.md for the keys")
}

fn check(layers: &[Layer]) -> Result<LabSpec, SpecErrors> {
    let mut errors = Vec::new();
    // The last layer that has the key wins.
    macro_rules! pick {
        ($field:ident, $default:expr, $limit:expr) => {{
            let found = layers
                .iter()
                .rev()
                .find_map(|layer| layer.written.$field.as_ref().map(|value| (layer, value)));
            match found {
                None => $default,
                Some((layer, spanned)) => {
                    if let Some(problem) = $limit(&spanned.value) {
                        let place = place_of(&layer.source, &spanned.referenced);
                        errors.push(format!("{place}{}: {problem}", stringify!($field)));
                    }
                    spanned.value.clone()
                }
            }
        }};
    }
    let within = |low: u32, high: u32| {
        move |value: &u32| {
            (!(low..=high).contains(value))
                .then(|| format!("{value} is out of range; choose {low} to {high}"))
        }
    };
    let spec = LabSpec {
        name: pick!(name, "lab".to_owned(), name_problem),
        routers: pick!(routers, 2, within(1, 20)),
        reflectors: pick!(reflectors, 2, within(1, 8)),
        lb4: pick!(lb4, 7, within(1, 100)),
        lb7: pick!(lb7, 13, within(1, 100)),
        spare_lb7: pick!(spare_lb7, 0, within(0, 20)),
        servers: pick!(servers, 10, within(1, 250)),
        user_addresses: pick!(user_addresses, 200, within(1, 254)),
        bgp: pick!(bgp, BgpSidecar::Alternate, no_limit),
        director: pick!(director, DirectorKind::Xdp, no_limit),
        dns: pick!(dns, DnsKind::Lb, no_limit),
        xdp: pick!(xdp, XdpMode::Auto, no_limit),
        decapsulation: pick!(decapsulation, Decapsulation::Auto, no_limit),
        affinity: pick!(affinity, Affinity::SecondChance, no_limit),
        manifest: pick!(manifest, true, no_limit),
        bfd: pick!(bfd, false, no_limit),
        offloads: pick!(offloads, false, no_limit),
    };
    let infrastructure = spec.routers + spec.lb4 + spec.lb7 + spec.spare_lb7 + spec.reflectors;
    if infrastructure > 125 {
        errors.push(format!(
            "{}: routers + lb4 + lb7 + spare_lb7 + reflectors = {infrastructure}, but 192.0.2.128/25 has room for 125; \
             choose smaller sizes",
            layers[0].source
        ));
    }
    if errors.is_empty() { Ok(spec) } else { Err(SpecErrors(errors)) }
}

fn no_limit<T>(_: &T) -> Option<String> {
    None
}

/// Why `name` cannot name a lab, if so.
#[allow(clippy::ptr_arg, reason = "one signature for every key's limit")]
fn name_problem(name: &String) -> Option<String> {
    let fits = !name.is_empty()
        && name.len() <= 32
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    (!fits).then(|| format!("`{name}` is no name; use up to 32 of a-z, 0-9 and `-`, a letter or digit first"))
}

/// Refuses a name given on the command line that could not have come from a lab file.
pub fn check_name(name: &str) -> Result<(), SpecErrors> {
    name_problem(&name.to_owned())
        .map_or(Ok(()), |problem| Err(SpecErrors(vec![format!("--name: {problem}")])))
}

/// What differs between a lab that runs and one that is asked for, one line per key.
pub fn differences(running: &LabSpec, asked: &LabSpec) -> Vec<String> {
    let (running, asked) = (as_map(running), as_map(asked));
    asked
        .iter()
        .filter(|(key, value)| running.get(key.as_str()) != Some(value))
        .map(|(key, value)| {
            format!(
                "{key}: {} is running, {value} is asked for",
                running.get(key).unwrap_or(&serde_json::Value::Null)
            )
        })
        .collect()
}

fn as_map(spec: &LabSpec) -> serde_json::Map<String, serde_json::Value> {
    match serde_json::to_value(spec) {
        Ok(serde_json::Value::Object(map)) => map,
        _ => unreachable!("a LabSpec is a JSON object"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_lab_has_the_sizes_of_the_reference() {
        let spec = load("reference.yaml", REFERENCE, &[]).unwrap();
        assert_eq!(
            (spec.routers, spec.reflectors, spec.lb4, spec.lb7, spec.servers, spec.user_addresses),
            (2, 2, 7, 13, 10, 200)
        );
        assert_eq!(spec.name, "lab");
    }

    #[test]
    fn small_lab_loads() {
        let spec = load("small.yaml", include_str!("../../configs/labs/small.yaml"), &[]).unwrap();
        assert_eq!((spec.lb4, spec.lb7, spec.servers), (2, 3, 2));
    }

    #[test]
    fn set_changes_one_key_and_the_last_one_wins() {
        let spec = load("x", REFERENCE, &["lb4=3".into(), "lb4=4".into(), "bgp=bird".into()]).unwrap();
        assert_eq!((spec.lb4, spec.lb7, spec.bgp), (4, 13, BgpSidecar::Bird));
    }

    #[test]
    fn unknown_key_is_refused_with_its_place() {
        let error = load("lab.yaml", "name: x\nlb5: 3\n", &[]).unwrap_err();
        assert!(error.0[0].starts_with("lab.yaml:2:1: "), "{error}");
        assert!(error.0[0].contains("lb5"), "{error}");
    }

    #[test]
    fn every_value_out_of_range_is_named_with_its_place() {
        let error = load("lab.yaml", "name: Bad Name\nlb4: 0\nlb7: 101\n", &[]).unwrap_err();
        assert_eq!(error.0.len(), 3, "{error}");
        assert!(error.0[0].starts_with("lab.yaml:1:7: name: "), "{error}");
        assert_eq!(error.0[1], "lab.yaml:2:6: lb4: 0 is out of range; choose 1 to 100");
    }

    #[test]
    fn wrong_type_is_refused_with_its_place() {
        let error = load("lab.yaml", "lb4: many\n", &[]).unwrap_err();
        assert!(error.0[0].starts_with("lab.yaml:1:6: not a whole number"), "{error}");
    }

    #[test]
    fn bad_set_names_the_argument() {
        let error = load("x", REFERENCE, &["lb4".into(), "lb9=1".into()]).unwrap_err();
        assert_eq!(error.0.len(), 2);
        assert!(error.0[0].starts_with("--set lb4: no `=`"), "{error}");
        assert!(error.0[1].starts_with("--set lb9=1: unknown field"), "{error}");
    }

    #[test]
    fn more_nodes_than_addresses_are_refused() {
        let error = load("x", "lb4: 60\nlb7: 62\n", &[]).unwrap_err();
        assert!(error.0[0].contains("has room for 125"), "{error}");
    }

    #[test]
    fn differences_name_only_what_differs() {
        let one = load("x", REFERENCE, &[]).unwrap();
        let other = load("x", REFERENCE, &["lb4=3".into()]).unwrap();
        assert_eq!(differences(&one, &other), ["lb4: 7 is running, 3 is asked for"]);
        assert!(differences(&one, &one).is_empty());
    }
}
