//! A Corefile, for a CoreDNS that answers from what a sink keeps, or from files that are printed by hand. Pure.

use std::fmt::Write;

use hickory_proto::rr::LowerName;

use super::sink::server::{Kind, Server};
use super::sink::zone_files::file_name;
use super::{Config, ZoneConfig};

/// How often CoreDNS looks at zone files.
const LOOK: &str = "2s";

/// A Corefile for the sink of this name, or for the only one that CoreDNS can answer from; without any, for files made by
/// `lb dns zone`.
pub fn corefile(config: &Config, sink: Option<&str>) -> Result<String, String> {
    let fits = |kind: Kind| matches!(kind, Kind::File | Kind::Etcd);
    let fitting = config.sinks.iter().filter(|(_, sink)| fits(sink.server.kind()));
    let mut fitting: Vec<_> = fitting.filter(|(name, _)| sink.is_none_or(|sink| sink == *name)).collect();
    let (name, chosen) = match (sink, fitting.pop()) {
        (None, None) => return Ok(by_hand(&config.zones)),
        (Some(sink), None) => {
            return Err(format!(
                "no sink of type file or etcd is called {sink:?}; `lb dns status` shows all sinks"
            ));
        }
        (_, Some(only)) if fitting.is_empty() => only,
        (_, Some((last, _))) => {
            let first: Vec<&str> = fitting.iter().map(|(name, _)| name.as_str()).collect();
            return Err(format!("CoreDNS can answer from {} or {last}; name one of them", first.join(", ")));
        }
    };
    let has = |zone: &&ZoneConfig| {
        chosen.zones.as_ref().is_none_or(|zones| zones.contains(&LowerName::new(&zone.apex)))
    };
    let zones: Vec<String> =
        config.zones.iter().filter(has).map(|zone| short(&zone.apex.to_ascii())).collect();
    let mut text = String::new();
    let (of, body) = match &chosen.server {
        // All zones that there are: new ones need no change of the Corefile.
        Server::File { folder, .. } if chosen.zones.is_none() => {
            let files = format!("directory {} (.*)\\.zone {{1}}", folder.display());
            (vec![".".to_owned()], plugin("auto", &[files, format!("reload {LOOK}")]))
        }
        Server::File { folder, zones, .. } => {
            let _ = writeln!(text, "# The sink {name} keeps these files.");
            for zone in zones {
                let file = folder.join(file_name(&LowerName::new(&zone.apex)));
                let body = plugin(&format!("file {}", file.display()), &[format!("reload {LOOK}")]);
                text += &block(&[short(&zone.apex.to_ascii())], &body);
            }
            return Ok(text);
        }
        Server::Etcd { urls, prefix } => {
            (zones, plugin("etcd", &[format!("path {prefix}"), format!("endpoint {}", urls.join(" "))]))
        }
        _ => return Err(format!("CoreDNS cannot answer from {name}")),
    };
    let _ = writeln!(text, "# From what the sink {name} keeps.");
    Ok(text + &block(&of, &body))
}

fn by_hand(zones: &[ZoneConfig]) -> String {
    let mut text = String::from(
        "# No sink keeps anything that CoreDNS reads; add one of type file or etcd. Until then:\n",
    );
    for zone in zones {
        let (name, file) = (short(&zone.apex.to_ascii()), file_name(&LowerName::new(&zone.apex)));
        let _ = writeln!(text, "# lb dns zone {name} >{file}");
        text += &block(&[name], &plugin(&format!("file {file}"), &[format!("reload {LOOK}")]));
    }
    text
}

/// A name as Corefiles have it: without the dot at its end.
fn short(name: &str) -> String {
    match name.trim_end_matches('.') {
        "" => ".".into(),
        name => name.to_lowercase(),
    }
}

/// A server block; addresses are rotated, as the agent does it.
fn block(zones: &[String], body: &str) -> String {
    format!("{} {{\n    errors\n    loadbalance round_robin\n{body}}}\n", zones.join(" "))
}

fn plugin(head: &str, properties: &[String]) -> String {
    let properties: String = properties.iter().map(|property| format!("        {property}\n")).collect();
    format!("    {head} {{\n{properties}    }}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(sinks: &str) -> Config {
        let text = format!(
            "dns:\n  listen: \"127.0.0.1:53\"\n  zones:\n    example.org: {{ns: [ns.example.net.]}}\n    \
             example.com: {{ns: [ns.example.net.]}}\n{sinks}"
        );
        crate::config::Config::parse("lb.yaml", &text, "n").unwrap().dns.unwrap()
    }

    /// The blocks of a Corefile as CoreDNS's parser divides it: names, then per plugin its words and properties.
    fn blocks(text: &str) -> Vec<(String, Vec<String>)> {
        let (mut blocks, mut depth) = (Vec::<(String, Vec<String>)>::new(), 0);
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match (depth, line.strip_suffix(" {")) {
                (0, Some(names)) => blocks.push((names.to_owned(), Vec::new())),
                (1, Some(plugin)) => blocks.last_mut().unwrap().1.push(plugin.to_owned()),
                (1, None) if line != "}" => blocks.last_mut().unwrap().1.push(line.to_owned()),
                (2, None) if line != "}" => blocks.last_mut().unwrap().1.push(format!("  {line}")),
                (1 | 2, None) => {}
                _ => panic!("{line:?} at depth {depth}"),
            }
            depth += usize::from(line.ends_with(" {"));
            depth -= usize::from(line == "}");
        }
        assert_eq!(depth, 0, "every brace is closed");
        blocks
    }

    fn plugins(text: &str) -> Vec<(String, Vec<String>)> {
        let mut blocks = blocks(text);
        for (_, plugins) in &mut blocks {
            assert_eq!(plugins.drain(..2).collect::<Vec<_>>(), ["errors", "loadbalance round_robin"]);
        }
        blocks
    }

    #[test]
    fn each_kind_of_sink_has_its_plugin() {
        let etcd =
            "  sinks: {e: {type: etcd, urls: [\"http://192.0.2.1:2379\", \"http://192.0.2.2:2379\"]}}\n";
        let of_etcd = ["etcd", "  path /skydns", "  endpoint http://192.0.2.1:2379 http://192.0.2.2:2379"];
        assert_eq!(
            plugins(&corefile(&config(etcd), None).unwrap()),
            [("example.com example.org".into(), of_etcd.map(String::from).into())]
        );
        let auto = ["auto", "  directory /z (.*)\\.zone {1}", "  reload 2s"];
        assert_eq!(
            plugins(&corefile(&config("  sinks: {f: {type: file, folder: /z}}\n"), Some("f")).unwrap()),
            [(".".into(), auto.map(String::from).into())]
        );
        let one = "  sinks: {f: {type: file, folder: /z, zones: example.org}}\n";
        assert_eq!(
            plugins(&corefile(&config(one), None).unwrap()),
            [("example.org".into(), ["file /z/example.org.zone", "  reload 2s"].map(String::from).into())]
        );
    }

    #[test]
    fn without_a_sink_zones_are_printed_by_hand() {
        let text = corefile(&config(""), None).unwrap();
        assert!(text.contains("# lb dns zone example.org >example.org.zone\n"), "{text}");
        assert_eq!(plugins(&text).len(), 2);
    }

    #[test]
    fn of_several_sinks_one_must_be_named() {
        let two = "  sinks: {a: {type: file, folder: /a}, b: {type: file, folder: /b}, g: {type: gdnsd, file: /g}}\n";
        let config = config(two);
        assert_eq!(corefile(&config, None).unwrap_err(), "CoreDNS can answer from a or b; name one of them");
        assert!(corefile(&config, Some("a")).unwrap().contains("directory /a "));
        assert_eq!(
            corefile(&config, Some("g")).unwrap_err(),
            "no sink of type file or etcd is called \"g\"; `lb dns status` shows all sinks"
        );
    }
}
