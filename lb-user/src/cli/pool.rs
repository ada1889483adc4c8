//! `lb pool`, `lb drain`, `lb undrain`, `lb weight`: what the operator writes becomes an edit.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;

use super::edit::{self, Options};
use super::{Api, Format};
use crate::manifest::edit::{Edit, NewHost, NewPool};
use crate::manifest::{Manifest, PoolManifest};
use crate::model::HostState;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show pools: hosts, states, generations.
    #[command(after_help = "Example: lb pool show web")]
    Show(Show),
    /// Add hosts to a pool.
    #[command(after_help = "Example: lb pool add web lb7-14=192.0.2.152,2001:db8::c000:298")]
    Add(AddNow),
    /// Remove hosts that take no new connections; connections that they still have break.
    #[command(after_help = "Example: lb pool remove web lb7-3 --when-safe")]
    Remove(RemoveNow),
    /// Forget an old generation; the agents do this themselves when nobody holds a connection of it.
    #[command(after_help = "Example: lb pool retire web 3")]
    Retire(RetireNow),
    /// Put the prepared generation in force, where the command that prepared it has died.
    #[command(after_help = "Example: lb pool activate web")]
    Activate(OfPool),
    /// Give the prepared generation up, where the command that prepared it has died.
    #[command(after_help = "Example: lb pool abort web")]
    Abort(OfPool),
}

#[derive(Debug, clap::Args)]
struct Show {
    /// Only this pool.
    pool: Option<String>,
    #[command(flatten)]
    api: Api,
    /// How to report.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Hosts that join.
#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// The pool.
    pool: String,
    /// Hosts with their addresses: one, or one of each family.
    #[arg(required = true, value_name = "HOST=ADDRESS[,ADDRESS]", value_parser = new_host)]
    hosts: Vec<(String, NewHost)>,
    /// Share of new connections of each.
    #[arg(long, default_value_t = 1)]
    weight: u32,
    /// Make the pool, which is not there yet.
    #[arg(long)]
    create: bool,
    /// Key of the new pool's table and flow hash; by default a random one, so that nobody can aim a flood at one host.
    #[arg(long, requires = "create", default_value_t = random_seed(), hide_default_value = true)]
    seed: u64,
    /// Rows of the new pool's table, a prime.
    #[arg(long, requires = "create", default_value_t = NewPool::default().size)]
    size: u32,
}

/// Nobody can guess it. JSON numbers are safe up to 53 bits.
fn random_seed() -> u64 {
    RandomState::new().hash_one(0) >> 11
}

#[derive(Debug, clap::Args)]
struct AddNow {
    #[command(flatten)]
    what: Add,
    #[command(flatten)]
    options: Options,
}

/// Hosts, by name.
#[derive(Debug, clap::Args)]
pub(super) struct Named {
    /// Names of hosts.
    #[arg(required = true, value_name = "HOST")]
    hosts: Vec<String>,
    /// Their pool; may be left out where only one pool has them.
    #[arg(long)]
    pool: Option<String>,
}

/// Hosts to drain or undrain.
#[derive(Debug, clap::Args)]
pub(super) struct Hosts {
    #[command(flatten)]
    what: Named,
    #[command(flatten)]
    options: Options,
}

/// A host's share.
#[derive(Debug, clap::Args)]
pub(super) struct Weighed {
    /// Name of the host.
    host: String,
    /// Its share of new connections, 1 to 1000.
    weight: u32,
    /// Its pool; may be left out where only one pool has it.
    #[arg(long)]
    pool: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Weight {
    #[command(flatten)]
    what: Weighed,
    #[command(flatten)]
    options: Options,
}

/// Hosts that leave.
#[derive(Debug, clap::Args)]
pub(super) struct Remove {
    /// The pool.
    pool: String,
    /// Names of hosts.
    #[arg(required = true, value_name = "HOST")]
    hosts: Vec<String>,
    /// Also hosts that take new connections, at once.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
struct RemoveNow {
    #[command(flatten)]
    what: Remove,
    /// Wait until the hosts hold no connection any more.
    #[arg(long, conflicts_with = "force")]
    when_safe: bool,
    #[command(flatten)]
    options: Options,
}

/// An old generation.
#[derive(Debug, clap::Args)]
pub(super) struct Retire {
    /// The pool.
    pool: String,
    /// Number of the generation.
    generation: u16,
}

#[derive(Debug, clap::Args)]
struct RetireNow {
    #[command(flatten)]
    what: Retire,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, clap::Args)]
struct OfPool {
    /// The pool.
    pool: String,
    #[command(flatten)]
    options: Options,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Show(show) => show.run(),
        Command::Add(add) => edit::run(&add.what.edit()?, &add.options),
        Command::Remove(remove) if remove.when_safe => {
            edit::run_when_safe(&remove.what.edit(), &remove.options)
        }
        Command::Remove(remove) => edit::run(&remove.what.edit(), &remove.options),
        Command::Retire(retire) => edit::run(&retire.what.edit(), &retire.options),
        Command::Activate(OfPool { pool, options }) => {
            edit::run(&Edit::Activate { pool: pool.clone(), generation: None }, options)
        }
        Command::Abort(OfPool { pool, options }) => edit::run(&Edit::Abort { pool: pool.clone() }, options),
    }
}

impl Add {
    /// The edit that is meant.
    pub fn edit(&self) -> anyhow::Result<Edit> {
        let mut hosts = BTreeMap::new();
        for (name, host) in &self.hosts {
            let host = NewHost { weight: self.weight, ..host.clone() };
            if hosts.insert(name.clone(), host).is_some() {
                bail!("host {name} is named twice; leave one out");
            }
        }
        let create = self.create.then_some(NewPool { seed: self.seed, size: self.size });
        Ok(Edit::Add { pool: self.pool.clone(), hosts, create })
    }
}

impl Named {
    fn of(&self, api: &Api) -> anyhow::Result<(String, BTreeSet<String>)> {
        let pool = pool_of(&self.pool, &self.hosts, || edit::manifest(api))?;
        Ok((pool, self.hosts.iter().cloned().collect()))
    }

    /// No new connections for these hosts.
    pub fn drain(&self, api: &Api) -> anyhow::Result<Edit> {
        let (pool, hosts) = self.of(api)?;
        Ok(Edit::Drain { pool, hosts })
    }

    /// New connections for these hosts.
    pub fn undrain(&self, api: &Api) -> anyhow::Result<Edit> {
        let (pool, hosts) = self.of(api)?;
        Ok(Edit::Undrain { pool, hosts })
    }
}

impl Hosts {
    pub fn drain(&self) -> anyhow::Result<Edit> {
        self.what.drain(self.options.api())
    }

    pub fn undrain(&self) -> anyhow::Result<Edit> {
        self.what.undrain(self.options.api())
    }

    pub fn run(&self, what: impl Fn(&Self) -> anyhow::Result<Edit>) -> anyhow::Result<ExitCode> {
        edit::run(&what(self)?, &self.options)
    }
}

impl Weighed {
    /// The edit that is meant.
    pub fn edit(&self, api: &Api) -> anyhow::Result<Edit> {
        let pool = pool_of(&self.pool, std::slice::from_ref(&self.host), || edit::manifest(api))?;
        Ok(Edit::Weight { pool, hosts: BTreeMap::from([(self.host.clone(), self.weight)]) })
    }
}

impl Weight {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        edit::run(&self.what.edit(self.options.api())?, &self.options)
    }
}

impl Remove {
    /// The edit that is meant.
    pub fn edit(&self) -> Edit {
        let hosts = self.hosts.iter().cloned().collect();
        Edit::Remove { pool: self.pool.clone(), hosts, force: self.force }
    }
}

impl Retire {
    /// The edit that is meant.
    pub fn edit(&self) -> Edit {
        Edit::Retire { pool: self.pool.clone(), generation: self.generation }
    }
}

impl Show {
    fn run(&self) -> anyhow::Result<ExitCode> {
        let mut manifest = edit::manifest(&self.api)?;
        if let Some(name) = &self.pool {
            let known: Vec<_> = manifest.pools.keys().cloned().collect();
            manifest.pools.retain(|pool, _| pool == name);
            if manifest.pools.is_empty() {
                bail!("no pool {name:?} in the manifest, which has {}", known.join(", "));
            }
        }
        match self.format {
            Format::Json => println!("{:#}", serde_json::to_value(&manifest)?),
            Format::Text => print!("{}", shown(&manifest)),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn shown(manifest: &Manifest) -> String {
    let mut page = format!("manifest: version {}\n", manifest.version);
    for (name, pool) in &manifest.pools {
        page +=
            &format!("\npool {name}: {} rows, seed {}, generation {}", pool.size, pool.seed, pool.generation);
        if let Some(prepared) = &pool.prepared {
            page += &format!(", {} is prepared", prepared.number);
        }
        if !pool.old.is_empty() {
            let old: Vec<_> = pool.old.iter().map(|old| old.number.to_string()).collect();
            page += &format!(", still in force: {}", old.join(", "));
        }
        page.push('\n');
        let head = ["HOST", "STATE", "WEIGHT", "IPV4", "IPV6", "GENERATIONS"];
        page += super::status::table(head, rows(pool)).trim_start_matches('\n');
    }
    page
}

fn rows(pool: &PoolManifest) -> Vec<Vec<String>> {
    let generations = pool.pool().generations();
    let row = |name: &String| {
        let host = pool.hosts.get(name);
        let within = generations.iter().filter(|generation| generation.hosts.contains_key(name));
        let within: Vec<_> = within.map(|generation| generation.number.to_string()).collect();
        let state = host.map_or("gone".to_owned(), |host| match host.state {
            HostState::Active => "active".into(),
            HostState::Drain => "drain".into(),
            HostState::Down => "down".into(),
        });
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        vec![
            name.clone(),
            state,
            or_dash(host.map(|host| host.weight.to_string())),
            or_dash(host.and_then(|host| host.address4).map(|address| address.to_string())),
            or_dash(host.and_then(|host| host.address6).map(|address| address.to_string())),
            or_dash(Some(within.join(", ")).filter(|within| !within.is_empty())),
        ]
    };
    let gone = generations.iter().flat_map(|generation| generation.hosts.keys());
    let names: BTreeSet<&String> = pool.hosts.keys().chain(gone).collect();
    names.into_iter().map(row).collect()
}

/// The pool that is meant: the named one, or the only one that has these hosts.
fn pool_of(
    named: &Option<String>,
    hosts: &[String],
    manifest: impl FnOnce() -> anyhow::Result<Manifest>,
) -> anyhow::Result<String> {
    if let Some(pool) = named {
        return Ok(pool.clone());
    }
    let manifest = manifest()?;
    let has = |pool: &PoolManifest| hosts.iter().all(|host| pool.hosts.contains_key(host));
    let pools: Vec<_> = manifest.pools.iter().filter(|(_, pool)| has(pool)).map(|(name, _)| name).collect();
    let (hosts, all) = (hosts.join(" and "), manifest.pools.keys().cloned().collect::<Vec<_>>().join(", "));
    match pools[..] {
        [pool] => Ok(pool.clone()),
        [] => bail!("no pool has {hosts}; pools are {all}"),
        _ => {
            let pools: Vec<_> = pools.into_iter().cloned().collect();
            bail!("{} have {hosts}; say which by --pool", pools.join(" and "))
        }
    }
}

fn new_host(text: &str) -> anyhow::Result<(String, NewHost)> {
    const HOW: &str = "write it as in lb7-14=192.0.2.152,2001:db8::c000:298";
    let (name, addresses) = text.split_once('=').context(HOW)?;
    let addresses = addresses.split(',').map(str::parse).collect::<Result<Vec<_>, _>>().context(HOW)?;
    Ok((name.to_owned(), NewHost { addresses, weight: 1 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_host_has_a_name_and_addresses() {
        let (name, host) = new_host("lb7-14=192.0.2.152,2001:db8::1").unwrap();
        assert_eq!((name.as_str(), host.addresses.len()), ("lb7-14", 2));
        for wrong in ["lb7-14", "lb7-14=", "lb7-14=192.0.2"] {
            assert!(new_host(wrong).unwrap_err().to_string().starts_with("write it as in "), "{wrong}");
        }
    }

    #[test]
    fn the_pool_may_be_left_out_where_only_one_has_the_hosts() {
        let text = "version: 1\npools:\n  web: {generation: 1, hosts: {a: {address4: 192.0.2.1}, b: {address4: 192.0.2.2}}}\n  \
                    dns: {generation: 1, hosts: {b: {address4: 192.0.2.2}}}\n";
        let pool = |named: Option<&str>, hosts: &[&str]| {
            let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
            let found = pool_of(&named.map(Into::into), &hosts, || Ok(Manifest::parse("m", text)?));
            found.map_err(|error| error.to_string())
        };
        assert_eq!(pool(None, &["a"]), Ok("web".into()));
        assert_eq!(pool(None, &["a", "b"]), Ok("web".into()));
        assert_eq!(pool(Some("dns"), &["b"]), Ok("dns".into()));
        assert_eq!(pool(None, &["b"]), Err("dns and web have b; say which by --pool".into()));
        assert_eq!(pool(None, &["c"]), Err("no pool has c; pools are dns, web".into()));
    }
}
