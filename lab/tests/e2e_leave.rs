//! A site leaves in sequence: out of the names' answers, then unused, then out of BGP; and returns the other way round.

mod common;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::programs::{Program, has};
use common::wires::{Machine, can_run, wire};
use common::{PATIENCE, check, figure, seconds, text, wait_until};
use lb_test_support::stays;

/// The VIPs of the two sites.
const A: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const B: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// Of the name.
const TTL: Duration = Duration::from_secs(3);
/// How long a VIP must be unused.
const HOLD: Duration = Duration::from_secs(2);

/// A director at this number, of the site with this host.
fn director(number: u8, host: u8, vip: Ipv4Addr, bird: &str) -> String {
    format!(
        "peers: {{listen: \"10.1.0.{number}:7400\"}}
bgp: {{driver: bird, bird: {{include: {bird}/lb.conf, control: {bird}/bird.ctl}}}}
leave: {{name_servers: [\"http://10.1.0.53:7400\"], below: 1, hold: {}s}}
director: {{interfaces: [eth0], xdp: generic, source4: 10.1.0.{number}}}
{}",
        HOLD.as_secs(),
        site(host, vip)
    )
}

fn site(host: u8, vip: Ipv4Addr) -> String {
    format!(
        "pools: {{web: {{size: 251, hosts: {{web: {{address4: 10.1.0.{host}}}}}}}}}
services: [{{vip: {vip}, port: 80, pool: web}}]
"
    )
}

fn name_server() -> String {
    format!(
        "peers: {{listen: \"10.1.0.53:7400\", nodes: [{}]}}
dns:
  listen: \"10.1.0.53:53\"
  state: FOLDER/dns.json
  checks: {{announced: {{type: vip, directors: 1}}}}
  zones: {{example.org: {{ns: [ns1], records: [ns1 A 10.1.0.53], names: {{www: {{ttl: {}, checks: [announced], members: [{A}, {B}]}}}}}}}}
",
        [11, 12, 13].map(|number| format!("\"http://10.1.0.{number}:7400\"")).join(", "),
        TTL.as_secs()
    )
}

/// What the name server answers now; nothing if it does not.
fn answers(users: &Machine) -> BTreeSet<IpAddr> {
    let dig = ["@10.1.0.53", "+short", "+time=1", "+tries=1", "www.example.org", "A"];
    let output = users.inside(|| Command::new("dig").args(dig).output()).expect("dig");
    text(&output.stdout).lines().filter_map(|line| line.parse().ok()).collect()
}

fn has_route(users: &Machine, vip: Ipv4Addr) -> bool {
    !users.sh(&format!("ip -4 route show {vip}")).is_empty()
}

/// When a request began, at which VIP, and who answered.
type Request = (Instant, IpAddr, Result<String, String>);

/// Requests of users behind a resolver that keeps answers for their TTL.
#[derive(Default)]
struct Requests {
    made: Mutex<Vec<Request>>,
    end: AtomicBool,
}

impl Requests {
    fn make(&self, users: &Machine) {
        let (mut known, mut until) = (BTreeSet::new(), Instant::now());
        while !self.end.load(Ordering::Relaxed) {
            if until <= Instant::now() {
                let asked = Instant::now();
                let fresh = answers(users);
                if !fresh.is_empty() {
                    (known, until) = (fresh, asked + TTL);
                }
            }
            for vip in &known {
                let began = Instant::now();
                let answer = users.ask(*vip, 10);
                self.made.lock().expect("requests").push((began, *vip, answer));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn last(&self, vip: Ipv4Addr) -> Option<Instant> {
        let made = self.made.lock().expect("requests");
        made.iter().rev().find(|(_, to, _)| *to == vip).map(|(at, ..)| *at)
    }

    fn failed(&self) -> Vec<String> {
        let made = self.made.lock().expect("requests");
        made.iter().filter_map(|(_, _, answer)| answer.clone().err()).collect()
    }
}

/// Ends the requests also when a check fails.
struct Ending<'r>(&'r Requests);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.end.store(true, Ordering::Relaxed);
    }
}

#[test]
#[ignore = "needs root"]
fn a_site_leaves_answers_before_bgp_and_returns_to_bgp_before_answers() {
    let test = "a_site_leaves_answers_before_bgp_and_returns_to_bgp_before_answers";
    if !can_run(test) || !has(test, &["bird"]) {
        return;
    }
    let names = ["switch", "users", "ns", "lb4-a", "lb4-b", "lb4-c", "web-a", "web-b"];
    let [switch, users, mut ns, mut lb4_a, mut lb4_b, mut lb4_c, mut web_a, mut web_b] =
        names.map(Machine::new);
    switch.sh("ip link add br0 type bridge; ip link set br0 up");
    let ports = ["p1", "p53", "p11", "p12", "p13", "p21", "p22"];
    let numbers = [1, 53, 11, 12, 13, 21, 22];
    for ((machine, port), number) in
        [&users, &ns, &lb4_a, &lb4_b, &lb4_c, &web_a, &web_b].into_iter().zip(ports).zip(numbers)
    {
        wire((&switch, port), (machine, "eth0"), 1600);
        switch.sh(&format!("ip link set {port} master br0"));
        machine.address("eth0", 1, number);
    }
    let folders: Vec<_> = (0..4).map(|_| tempfile::tempdir().expect("a folder")).collect();
    let birds = [(&users, 1, &[11, 12, 13][..]), (&lb4_a, 11, &[1]), (&lb4_b, 12, &[1]), (&lb4_c, 13, &[1])]
        .into_iter()
        .zip(&folders)
        .map(|((machine, number, neighbours), folder)| {
            Program::bird(machine, folder.path(), number, neighbours)
        })
        .collect::<Vec<_>>();
    let bird = |number: usize| folders[number].path().display().to_string();
    for (web, number, vip) in [(&mut web_a, 21, A), (&mut web_b, 22, B)] {
        web.serve(&[vip.into()], &[80]);
        web.start(&format!(
            "host: {{interfaces: [eth0], xdp: generic, accept_from: [10.1.0.0/24]}}\n{}",
            site(number, vip)
        ));
    }
    lb4_a.start(&director(11, 21, A, &bird(1)));
    lb4_b.start(&director(12, 22, B, &bird(2)));
    ns.start(&name_server());

    let both = BTreeSet::from([A.into(), B.into()]);
    wait_until("both VIPs are there and answered", PATIENCE, || {
        let found = answers(&users);
        check(has_route(&users, A) && has_route(&users, B) && found == both, format!("{found:?}"))
    });
    let requests = Requests::default();
    thread::scope(|scope| {
        let _ending = Ending(&requests);
        scope.spawn(|| requests.make(&users));
        wait_until("requests go to both", PATIENCE, || {
            check(
                requests.last(A).is_some() && requests.last(B).is_some(),
                format!("{:?}", requests.failed()),
            )
        });

        leaves(&users, &lb4_a, &requests);
        stays_away_over_a_restart(&users, &mut lb4_a);
        returns(&users, &lb4_a, &birds[1], &both);
        wait_until("requests go there again", PATIENCE, || {
            let age = requests.last(A).map(|at| at.elapsed());
            check(age.is_some_and(|age| age < Duration::from_secs(1)), format!("{age:?}"))
        });
        is_held_by_a_name_server_that_is_not_heard(&users, &lb4_a, &mut ns);
        leaves_in_a_hurry(&users, &lb4_a, &mut ns);
        ns.resume();
        lb4_c.start(&director(13, 21, A, &bird(3)));
        the_last_director_of_a_site_waits(&users, &ns, [&lb4_a, &lb4_c], &both);
    });
    let failed = requests.failed();
    let made = requests.made.lock().expect("requests").len();
    println!("figure: {} of {made} requests failed while a site left and returned", failed.len());
    assert!(made > 100 && failed.is_empty(), "{failed:?}");
}

fn leaves(users: &Machine, director: &Machine, requests: &Requests) {
    let vip = A.to_string();
    let ((answered, gone), told) = thread::scope(|scope| {
        let leave = scope.spawn(|| director.run(&["leave", &vip]));
        (withdrawal(users), leave.join().expect("lb leave").expect("lb leave"))
    });
    let last = requests.last(A).expect("requests before");
    figure(
        "lb leave: from the answers to the last request",
        seconds(last.saturating_duration_since(answered)),
    );
    figure("lb leave: from the answers to the route", seconds(gone - answered));
    assert!(gone - answered >= TTL + HOLD, "resolvers may still have had it: {:?}", gone - answered);
    // Packets are counted once a second.
    let slack = Duration::from_secs(1);
    assert!(gone - last + slack >= HOLD, "it was used {:?} before it was withdrawn", gone - last);
    let said = text(&told.stdout);
    assert!(told.status.success(), "{said}{}", text(&told.stderr));
    let stages = ["answers", "falling", "withdrawn"].map(|stage| said.find(&format!("{vip} {stage}")));
    assert!(stages.iter().all(Option::is_some) && stages.is_sorted(), "{said}");
    assert!(said.contains(": ns (http://10.1.0.53:7400): out for "), "{said}");
    let status = director.status().expect("a status");
    assert_eq!((&status["ready"], &status["leaving"][0]["stage"]), (&true.into(), &"withdrawn".into()));
    // What still comes is served.
    users.sh(&format!("ip route add {vip} via 10.1.0.11"));
    assert_eq!(users.ask(A.into(), 10), Ok("web-a".into()));
    users.sh(&format!("ip route del {vip} via 10.1.0.11"));
}

/// Waits until A's route goes. When A was last answered and when the route was gone: before the one look and after the other,
/// so that what lies between is not shorter than it is for the agent, however long looking takes.
fn withdrawal(users: &Machine) -> (Instant, Instant) {
    let mut answered = Instant::now();
    wait_until("the route goes", PATIENCE, || {
        let looked = Instant::now();
        if answers(users).contains(&IpAddr::from(A)) {
            answered = looked;
        }
        check(!has_route(users, A), "it is still there")
    });
    (answered, Instant::now())
}

fn stays_away_over_a_restart(users: &Machine, director: &mut Machine) {
    director.stop();
    director.resume();
    wait_until("the agent has read the order", PATIENCE, || {
        assert!(!has_route(users, A), "an agent that starts announces what has left");
        let page = director.lb(&["status"])?;
        check(page.contains("has left by the operator's order"), page)
    });
    stays("what has left stays away", HOLD, || check(!has_route(users, A), "it is announced"));
}

fn returns(users: &Machine, director: &Machine, bird: &Program, both: &BTreeSet<IpAddr>) {
    bird.hang(true);
    let told = director.run(&["return", &A.to_string()]).expect("lb return");
    assert_eq!(text(&told.stdout), format!("{A} returns\n"), "{}", text(&told.stderr));
    // A daemon that hangs has no route, so that there must be no answer. Behind it, BGP and DNS race.
    stays("no answer without a route", HOLD, || check(answers(users) != *both, "it is answered"));
    bird.hang(false);
    wait_until("it is answered again", PATIENCE, || {
        let (found, route) = (answers(users), has_route(users, A));
        check(found == *both && route, format!("{found:?}, {route}"))
    });
}

fn is_held_by_a_name_server_that_is_not_heard(users: &Machine, director: &Machine, ns: &mut Machine) {
    ns.stop();
    assert!(director.run(&["leave", "--all", "--no-wait"]).expect("lb leave").status.success());
    wait_until("the status says what is waited for", PATIENCE, || {
        let page = director.lb(&["status"])?;
        check(page.contains("http://10.1.0.53:7400 is not heard: "), page)
    });
    stays("the route, without the word of the name server", TTL + 2 * HOLD, || {
        check(has_route(users, A), "it is withdrawn")
    });
    ns.resume();
    let metrics = || users.sh("curl -s http://10.1.0.11:7400/metrics");
    wait_until("it goes on", 2 * PATIENCE, || check(!has_route(users, A), "the route is still there"));
    wait_until("metrics say so", PATIENCE, || {
        let page = metrics();
        check(page.contains("lb_leave_stage{vip=\"198.51.100.1\"} 3\n"), page)
    });
}

/// Without a name server, and then without waiting for anything.
fn leaves_in_a_hurry(users: &Machine, director: &Machine, ns: &mut Machine) {
    ns.stop();
    for haste in ["--force", "--now"] {
        assert!(director.run(&["return", "--all"]).expect("lb return").status.success());
        wait_until("the route returns", PATIENCE, || check(has_route(users, A), "no route"));
        let told = director.run(&["leave", &A.to_string(), haste]).expect("lb leave");
        let said = text(&told.stdout);
        assert!(told.status.success(), "{haste}: {said}{}", text(&told.stderr));
        let falls = said.contains(&format!("{A} falling"));
        assert_eq!(falls, haste == "--force", "{haste}: {said}");
        wait_until("the route goes", PATIENCE, || check(!has_route(users, A), "the route is still there"));
    }
}

fn the_last_director_of_a_site_waits(
    users: &Machine,
    ns: &Machine,
    site: [&Machine; 2],
    both: &BTreeSet<IpAddr>,
) {
    let [first, last] = site;
    let is_announced = |director: &Machine| -> Result<bool, String> {
        Ok(director.status()?["services"][0]["announced"] == true)
    };
    assert!(first.run(&["return", "--all"]).expect("lb return").status.success());
    // One that has not heard of both would take the first one for the last.
    wait_until("both directors announce it, and the name server knows", PATIENCE, || {
        let why = ns.lb(&["dns", "explain", "www.example.org", "--type", "A"])?;
        let is_known = why.contains(&format!("{A}: announced by 2"));
        check(is_announced(first)? && is_announced(last)? && is_known && answers(users) == *both, why)
    });
    // What the name server has said of the order before this one is not to be taken for an answer to it.
    stays("the VIP", 3 * HOLD, || check(is_announced(first)?, "it is withdrawn"));
    let told = first.run(&["leave", &A.to_string()]).expect("lb leave");
    let said = text(&told.stdout);
    assert!(told.status.success() && !said.contains("falling"), "{said}{}", text(&told.stderr));
    wait_until("another director has it", PATIENCE, || {
        let found = answers(users);
        check(found == *both && has_route(users, A) && !is_announced(first)?, format!("{found:?}"))
    });
    assert!(last.run(&["leave", "--all", "--no-wait"]).expect("lb leave").status.success());
    let (answered, gone) = withdrawal(users);
    assert!(gone - answered >= TTL + HOLD, "the last one does not wait for resolvers: {:?}", gone - answered);
}
