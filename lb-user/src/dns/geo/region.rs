//! Parts of the world: continents, countries and what those consist of. Pure.

use std::fmt;
use std::str::FromStr;

/// The continents by MaxMind's codes, each with its countries by ISO 3166-1 (and XK, Kosovo), as GeoNames has them.
const CONTINENTS: [(&str, &str); 7] = [
    (
        "AF",
        "AO BF BI BJ BW CD CF CG CI CM CV DJ DZ EG EH ER ET GA GH GM GN GQ GW KE KM LR LS LY MA MG ML MR MU MW MZ NA NE \
         NG RE RW SC SD SH SL SN SO SS ST SZ TD TG TN TZ UG YT ZA ZM ZW",
    ),
    ("AN", "AQ BV GS HM TF"),
    (
        "AS",
        "AE AF AM AZ BD BH BN BT CC CN GE HK ID IL IN IO IQ IR JO JP KG KH KP KR KW KZ LA LB LK MM MN MO MV MY NP OM PH \
         PK PS QA SA SG SY TH TJ TM TR TW UZ VN YE",
    ),
    (
        "EU",
        "AD AL AT AX BA BE BG BY CH CY CZ DE DK EE ES FI FO FR GB GG GI GR HR HU IE IM IS IT JE LI LT LU LV MC MD ME MK \
         MT NL NO PL PT RO RS RU SE SI SJ SK SM UA VA XK",
    ),
    (
        "NA",
        "AG AI AW BB BL BM BQ BS BZ CA CR CU CW DM DO GD GL GP GT HN HT JM KN KY LC MF MQ MS MX NI PA PM PR SV SX TC TT \
         US VC VG VI",
    ),
    ("OC", "AS AU CK CX FJ FM GU KI MH MP NC NF NR NU NZ PF PG PN PW SB TK TL TO TV UM VU WF WS"),
    ("SA", "AR BO BR CL CO EC FK GF GY PE PY SR UY VE"),
];

/// A code of two capital letters.
pub type Code = [u8; 2];

/// A part of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Region {
    /// A continent.
    Continent(Code),
    /// A country (ISO 3166-1).
    Country(Code),
    /// A part of a country (ISO 3166-2): its country, and the rest, filled up with zeros.
    Subdivision(Code, [u8; 3]),
}

impl Region {
    /// The part of a country with this code (ISO 3166-2 without the country: `CA`); `None`: it is no such code.
    pub fn subdivision(country: Code, rest: &str) -> Option<Self> {
        let fits = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
        if !(1..=3).contains(&rest.len()) || !rest.bytes().all(fits) {
            return None;
        }
        let mut code = [0; 3];
        code[..rest.len()].copy_from_slice(rest.as_bytes());
        Some(Region::Subdivision(country, code))
    }

    /// This and all that it is in, beginning with this.
    pub fn outwards(self) -> Vec<Region> {
        let continent = |country| continent_of(country).map(Region::Continent);
        match self {
            Region::Continent(_) => vec![self],
            Region::Country(country) => [self].into_iter().chain(continent(country)).collect(),
            Region::Subdivision(country, _) => {
                [self, Region::Country(country)].into_iter().chain(continent(country)).collect()
            }
        }
    }
}

/// Two capital letters.
pub fn code(text: &str) -> Option<Code> {
    text.as_bytes().try_into().ok().filter(|code: &Code| code.iter().all(u8::is_ascii_uppercase))
}

/// The continent of a country; `None`: there is no such country.
pub fn continent_of(country: Code) -> Option<Code> {
    let has = |(_, countries): &&(&str, &str)| countries.split(' ').any(|other| other.as_bytes() == country);
    CONTINENTS.iter().find(has).and_then(|(continent, _)| code(continent))
}

fn is_continent(wanted: Code) -> bool {
    CONTINENTS.iter().any(|(continent, _)| continent.as_bytes() == wanted)
}

impl FromStr for Region {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = match text.split_once(':') {
            Some((kind @ ("continent" | "country"), name)) => (Some(kind), name),
            _ => (None, text),
        };
        let country = |text: &str| {
            let code = code(text)?;
            continent_of(code).map(|_| code)
        };
        let continent = code(name).filter(|code| is_continent(*code)).map(Region::Continent);
        let found = match (kind, continent, country(name).map(Region::Country)) {
            (None, Some(_), Some(_)) => {
                return Err(format!(
                    "a continent and a country have the code {name}; write continent:{name} or country:{name}"
                ));
            }
            (Some("continent"), continent, _) => continent,
            (Some(_), _, country) => country,
            (None, continent, country) => continent.or(country),
        };
        let part = || {
            let (of, rest) = name.split_once('-').filter(|_| kind.is_none())?;
            Region::subdivision(country(of)?, rest)
        };
        found.or_else(part).ok_or_else(|| {
            format!(
                "not a region: {text:?}; write a continent as in EU (AF, AN, AS, EU, NA, OC, SA), a country as in GB (ISO \
                 3166-1), or a part of one as in US-CA (ISO 3166-2)"
            )
        })
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Codes are ASCII.
        let text = |code: &[u8]| String::from_utf8_lossy(code).trim_end_matches('\0').to_owned();
        match self {
            Region::Continent(code) if continent_of(*code).is_some() => write!(f, "continent:{}", text(code)),
            Region::Country(code) if is_continent(*code) => write!(f, "country:{}", text(code)),
            Region::Continent(code) | Region::Country(code) => f.write_str(&text(code)),
            Region::Subdivision(country, rest) => write!(f, "{}-{}", text(country), text(rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_region_is_written_in_one_way_and_read_back() {
        for text in ["EU", "OC", "AN", "DE", "GB", "US-CA", "GB-ENG", "AT-9", "continent:NA", "country:NA"] {
            assert_eq!(text.parse::<Region>().unwrap().to_string(), text);
        }
        assert_eq!("country:DE".parse::<Region>(), "DE".parse());
        assert_eq!("continent:EU".parse::<Region>(), "EU".parse());
        let outwards = |text: &str| {
            let regions = text.parse::<Region>().unwrap().outwards();
            regions.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(outwards("US-CA"), "US-CA US continent:NA");
        assert_eq!(outwards("NO"), "NO EU");
        assert_eq!(outwards("EU"), "EU");
    }

    #[test]
    fn what_is_no_region_or_two_is_refused() {
        for text in [
            "",
            "UK",
            "de",
            "DEU",
            "US-",
            "US-CALI",
            "US-ca",
            "XX-1",
            "continent:DE",
            "country:EU",
            "country:US-CA",
        ] {
            let error = text.parse::<Region>().unwrap_err();
            assert!(
                error.starts_with(&format!("not a region: {text:?}; write a continent as in EU")),
                "{error}"
            );
        }
        for code in ["AF", "AS", "NA", "SA"] {
            let expected = format!(
                "a continent and a country have the code {code}; write continent:{code} or country:{code}"
            );
            assert_eq!(code.parse::<Region>(), Err(expected));
        }
    }

    #[test]
    fn no_country_is_in_two_continents() {
        let mut all: Vec<&str> = CONTINENTS.iter().flat_map(|(_, countries)| countries.split(' ')).collect();
        all.sort_unstable();
        let known = all.len();
        all.dedup();
        assert_eq!(all.len(), known);
    }

    #[test]
    #[ignore = "needs tzdata"]
    fn the_countries_are_those_of_the_time_zone_database() {
        let mut all: Vec<&str> = CONTINENTS.iter().flat_map(|(_, countries)| countries.split(' ')).collect();
        all.sort_unstable();
        let Ok(table) = std::fs::read_to_string("/usr/share/zoneinfo/iso3166.tab") else {
            let reason = "no /usr/share/zoneinfo/iso3166.tab; install package tzdata";
            lb_test_support::skip(&lb_test_support::this_test(), reason);
            return;
        };
        let lines = table.lines().filter(|line| !line.starts_with('#'));
        let mut codes: Vec<&str> = lines.filter_map(|line| line.split('\t').next()).chain(["XK"]).collect();
        codes.sort_unstable();
        assert_eq!(all, codes);
    }
}
