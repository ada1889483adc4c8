//! What a run can be compared with.

use clap::ValueEnum;

use crate::spec::{Affinity, Decapsulation, DirectorKind, LabSpec};

/// How flows keep to their hosts, another load balancer's way included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Flavour {
    /// L7 hosts pass on what is not theirs.
    SecondChance,
    /// Each director remembers flows.
    FlowTable,
    /// Nobody does anything.
    None,
    /// keepalived, IPVS and ExaBGP on directors; the kernel must have IPVS (scripts/vm).
    Ipvs,
}

impl Flavour {
    /// Of a lab.
    pub fn of(spec: &LabSpec) -> Self {
        match (spec.director, spec.affinity) {
            (DirectorKind::Ipvs, _) => Self::Ipvs,
            (DirectorKind::Xdp, Affinity::SecondChance) => Self::SecondChance,
            (DirectorKind::Xdp, Affinity::FlowTable) => Self::FlowTable,
            (DirectorKind::Xdp, Affinity::None) => Self::None,
        }
    }

    /// As reports and `--compare` spell it.
    pub fn word(self) -> &'static str {
        match self {
            Self::SecondChance => Affinity::SecondChance.word(),
            Self::FlowTable => Affinity::FlowTable.word(),
            Self::None => Affinity::None.word(),
            Self::Ipvs => "ipvs",
        }
    }

    /// Makes `spec` a lab of this flavour.
    pub fn apply(self, spec: &mut LabSpec) {
        spec.director = DirectorKind::Xdp;
        match self {
            Self::SecondChance => spec.affinity = Affinity::SecondChance,
            Self::FlowTable => spec.affinity = Affinity::FlowTable,
            Self::None => spec.affinity = Affinity::None,
            Self::Ipvs => {
                spec.director = DirectorKind::Ipvs;
                // What IPVS's users have on their hosts.
                spec.decapsulation = Decapsulation::Kernel;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;

    #[test]
    fn each_flavour_makes_a_lab_of_itself() {
        for flavour in Flavour::value_variants() {
            let mut spec = spec::load("x", spec::REFERENCE, &["director=ipvs".into()]).unwrap();
            flavour.apply(&mut spec);
            assert_eq!(Flavour::of(&spec), *flavour);
            assert_eq!(spec.has_manifest(), *flavour != Flavour::Ipvs);
            assert_eq!(flavour.to_possible_value().unwrap().get_name(), flavour.word());
        }
    }
}
