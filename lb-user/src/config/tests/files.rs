//! Defaults, the effective configuration, and the files that operators begin with.

use std::path::PathBuf;

use super::super::{Config, Effective, schema};
use super::{GOOD, parse};

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let errors = Config::load(&PathBuf::from("/nowhere/lb.yaml")).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "/nowhere/lb.yaml: cannot be read: No such file or directory (os error 2); name another file or make this \
         one readable"
    );
}

#[test]
fn defaults_are_as_documented() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.node, "this-host");
    assert_eq!(config.api, PathBuf::from("/run/lb/agent.sock"));
    assert_eq!(config.disable_file, PathBuf::from("/etc/lb/disable"));
    let pool = &config.model.pools["web"];
    assert_eq!((pool.seed, pool.size, pool.hosts["a"].weight), (0, 65537, 1));
    assert_eq!(config.roles(), ["director"]);
    let servers = parse("agent_check:\n").unwrap().agent_check.unwrap();
    assert_eq!(servers.listen, ["[::]:5555".parse().unwrap()]);
    assert_eq!(servers.file, PathBuf::from("/etc/lb/agent-check"));
}

#[test]
fn the_vips_of_a_host_are_those_of_the_services_unless_listed() {
    let host = "host: {interfaces: [eth0], accept_from: [10.0.0.0/8]";
    let vips = |text: &str| parse(text).unwrap().host.unwrap().vips.into_iter().map(|v| v.to_string());
    assert!(vips(&format!("{GOOD}{host}}}\n")).eq(["198.51.100.1"]));
    assert!(vips(&format!("{GOOD}{host}, vips: [10.9.9.9]}}\n")).eq(["10.9.9.9"]));
}

#[test]
fn the_effective_configuration_is_read_back_as_the_same() {
    for text in [GOOD.to_owned(), file("lb.yaml"), file("lb.full.yaml")] {
        let config = parse(&text).unwrap();
        let effective = serde_saphyr::to_string(&Effective::from(&config)).unwrap();
        assert_eq!(Config::parse("effective", &effective, "other").as_ref(), Ok(&config), "{effective}");
    }
}

#[test]
fn the_smallest_file_has_the_role_of_a_director() {
    assert_eq!(parse(&file("lb.yaml")).unwrap().roles(), ["director"]);
}

#[test]
fn the_full_file_explains_every_key_of_the_schema() {
    let text = file("lb.full.yaml");
    assert_eq!(parse(&text).unwrap().roles(), ["director", "host", "agent_check", "dns"]);
    let mut comment_before = false;
    let mut explained = Vec::new();
    for line in text.lines().map(|line| line.trim_start().trim_start_matches("- ")) {
        // An alternative to what is written is commented out, without a space.
        let line = line
            .strip_prefix('#')
            .filter(|line| !line.starts_with(' ') && line.contains(':'))
            .unwrap_or(line);
        if let Some((key, _)) = line.split_once(':').filter(|(key, _)| !key.contains(['#', ' ', '{'])) {
            if comment_before {
                explained.push(key);
            }
            // A comment may speak of two keys, one below the other.
            comment_before = comment_before && ["address4", "spread4", "prefix4"].contains(&key);
        } else {
            comment_before = line.starts_with('#');
        }
    }
    for keys in schema::ALL {
        for key in keys.keys {
            let wanted = schema::ALL.iter().filter(|other| other.keys.contains(key)).count();
            let found = explained.iter().filter(|explained| *explained == key).count();
            assert!(found >= wanted, "{}.{key} is explained {found} of {wanted} times", keys.path);
        }
    }
}

fn file(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../configs").join(name);
    std::fs::read_to_string(path).unwrap()
}
