//! A gdnsd that an agent tells what works.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use lb_test_support::{check, stays_async};

use super::agents::Node;
use super::servers::{Server, dig, isolated, wait_until};

/// What gdnsd has for the name, without TTLs: it halves them while an address is down.
fn answer(name: &str, kind: &str) -> Vec<String> {
    let mut addresses: Vec<String> = dig(name, kind)
        .iter()
        .map(|line| line.split_once(' ').expect("a TTL and an address").1.to_owned())
        .collect();
    addresses.sort();
    addresses
}

#[test]
#[ignore = "needs root"]
fn gdnsd_follows_the_checks_of_an_agent() {
    isolated("gdnsd follows the checks of an agent", &["gdnsd", "dig"], || async {
        let node = Node::start(
            "127.0.0.11",
            "dns:
  checks: {operator: {type: extfile, file: FOLDER/ext}}
  zones:
    example.org:
      ns: [ns1.example.net.]
      names: {www: {checks: operator, members: [192.0.2.1, 192.0.2.2, \"2001:db8::1\", \"2001:db8::2\"]}}
  sinks:
    gdnsd: {type: gdnsd, file: FOLDER/states, full_sync: 1s}
",
        )
        .await;
        let states = node.path("states");
        let text = || fs::read_to_string(&states).unwrap_or_default();
        wait_until("the file of states", || text().ends_with("2001:db8::2 => UP\n")).await;
        assert_eq!(text().lines().count(), 5, "{}", text());
        let mut server = Server::gdnsd(&states);
        server.start();
        wait_until("all are answered", || answer("www.example.org", "A") == ["192.0.2.1", "192.0.2.2"]).await;

        fs::write(node.path("ext"), "192.0.2.1 => DOWN\n2001:db8::2 => DOWN\n").expect("a file");
        wait_until("one has left", || answer("www.example.org", "A") == ["192.0.2.2"]).await;
        wait_until("of the other family, too", || answer("www.example.org", "AAAA") == ["2001:db8::1"]).await;
        wait_until("the agent says so", || {
            let status = node.status();
            status.lines().any(|line| line.starts_with("gdnsd  gdnsd  4  ") && line.contains("in step"))
        })
        .await;

        // A file that says the right things is not touched.
        let inode = || fs::metadata(&states).expect("the file").ino();
        let before = inode();
        let time = Duration::from_millis(2500);
        stays_async("compared twice, never written", time, async || check(inode() == before, "written"))
            .await;

        // Somebody else's change is mended, what is about others stays.
        fs::write(&states, "192.0.2.1 => UP\nlb9.example.net. => DOWN\n").expect("a file");
        wait_until("the states are right again", || {
            text()
                == "192.0.2.1 => DOWN\nlb9.example.net. => DOWN\n192.0.2.2 => UP\n2001:db8::1 => UP\n2001:db8::2 => DOWN\n"
        })
        .await;
        wait_until("and the answers", || answer("www.example.org", "A") == ["192.0.2.2"]).await;

        // A folder in the way of the file is told, and things go on when it is gone.
        fs::remove_file(&states).expect("removing");
        fs::create_dir(&states).expect("a folder");
        wait_until("the agent says what is wrong", || {
            let status = node.status();
            status.contains("behind for") && status.contains("states: cannot be read: ")
        })
        .await;
        fs::remove_dir(&states).expect("removing");
        fs::write(node.path("ext"), "").expect("a file");
        wait_until("all are answered", || answer("www.example.org", "A") == ["192.0.2.1", "192.0.2.2"]).await;
        assert_eq!(answer("www.example.org", "AAAA"), ["2001:db8::1", "2001:db8::2"]);
    });
}
