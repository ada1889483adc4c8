//! Agents that keep a BIND: two that share a name by `configs/dns/pair.yaml`, and one whose name follows a file.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

use super::servers::{DNS, SECRET, Server, dig, isolated, wait_until};

/// A node with an agent, and a web server that passes its checks.
pub struct Node {
    folder: TempDir,
    agent: Child,
    /// Answers by itself: the test waits for commands on its own thread.
    web: Option<Runtime>,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
        self.web.take().into_iter().for_each(Runtime::shutdown_background);
        if std::thread::panicking() {
            println!("{}", fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
        }
    }
}

impl Node {
    /// A node of this address; `FOLDER` in its configuration is its own.
    pub async fn start(address: &str, configuration: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path().display().to_string();
        let text = format!(
            "api: FOLDER/api\ndisable_file: FOLDER/disable\n{}",
            configuration.replacen("dns:\n", "dns:\n  state: FOLDER/dns.json\n", 1)
        );
        fs::write(folder.path().join("lb.yaml"), text.replace("FOLDER", &at)).expect("a configuration");
        fs::write(folder.path().join("secret"), format!("{SECRET}\n")).expect("a secret");
        let agent = run(folder.path());
        let web = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = std::net::TcpListener::bind((address, 80)).expect("a web server");
        listener.set_nonblocking(true).expect("a web server");
        web.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a web server");
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(answer).await;
            }
        });
        Node { folder, agent, web: Some(web) }
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Kills the agent with SIGKILL and starts it again.
    pub fn restart(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
        self.agent = run(self.folder.path());
    }

    /// What a command prints that speaks to the agent.
    pub fn lb(&self, words: &[&str]) -> String {
        lb(&[words, &["--config", &self.path("lb.yaml").display().to_string()]].concat())
    }

    /// What `lb dns status` shows.
    pub fn status(&self) -> String {
        self.lb(&["dns", "status"])
    }
}

/// The agent of a folder.
fn run(folder: &Path) -> Child {
    let log = fs::File::options().create(true).append(true).open(folder.join("log")).expect("a log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
    command.args(["agent", "--config"]).arg(folder.join("lb.yaml"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("an agent")
}

/// What a command prints.
pub fn lb(words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_lb")).args(words).output().expect("lb");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A configuration that operators begin with.
pub fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/dns").join(name);
    fs::read_to_string(path).expect("a configuration")
}

/// `pair.yaml` for a node of the test, with checks every second.
fn of_pair(number: u8, address: &str) -> String {
    file("pair.yaml")
        .replace("example.com", "example.org")
        .replace("192.0.2.53:53", DNS)
        .replace("192.0.2.1", address)
        .replace("lb1.example", &format!("lb{number}.example"))
        .replace("key: lb1.", "key: lb-key.")
        .replace("/etc/lb/tsig.secret", "FOLDER/secret")
        .replace("interval: 60s, timeout: 5s", "interval: 1s, timeout: 900ms")
}

#[test]
#[ignore = "needs root"]
fn two_agents_share_a_name() {
    isolated("two agents share a name", &["named", "dig"], || async {
        let mut server = Server::bind();
        server.start();
        wait_until("the server answers", || !dig("others.example.org", "A").is_empty()).await;
        let lb1 = Node::start("127.0.0.11", &of_pair(1, "127.0.0.11")).await;
        let holds = |address: &str| dig("lb.example.org", "A") == [format!("60 {address}")];
        wait_until("the first holds the name", || holds("127.0.0.11")).await;
        wait_until("and has its own", || dig("lb1.example.org", "A") == ["60 127.0.0.11"]).await;
        let lb2 = Node::start("127.0.0.12", &of_pair(2, "127.0.0.12")).await;
        wait_until("the second has its own", || dig("lb2.example.org", "A") == ["60 127.0.0.12"]).await;
        wait_until("both know who holds the name", || {
            lb1.status().contains("lb.example.org.  this node")
                && lb2.status().contains("lb.example.org.  127.0.0.11")
        })
        .await;
        // Disabled, it gives the name up; enabled again, it does not take it back.
        fs::write(lb1.path("disable"), "").expect("a switch");
        wait_until("the second takes what was given up", || holds("127.0.0.12")).await;
        fs::remove_file(lb1.path("disable")).expect("a switch");
        wait_until("it sees who holds it", || lb1.status().contains("lb.example.org.  127.0.0.12")).await;
        assert!(holds("127.0.0.12"));
        // A machine that dies says nothing.
        drop(lb2);
        wait_until("the first takes it over", || holds("127.0.0.11")).await;
        assert_eq!(dig("others.example.org", "A"), ["300 192.0.2.99"]);
    });
}

#[test]
#[ignore = "needs root"]
fn a_name_on_another_server_follows_a_file() {
    isolated("a name on another server follows a file", &["named", "dig"], || async {
        let mut server = Server::bind();
        server.start();
        wait_until("the server answers", || !dig("others.example.org", "A").is_empty()).await;
        let node = Node::start(
            "127.0.0.11",
            &format!(
                "dns:
  checks: {{operator: {{type: extfile, file: FOLDER/ext}}}}
  zones:
    example.org:
      ns: [ns1.example.net.]
      names: {{www: {{ttl: 30, checks: operator, all_down: none, members: [192.0.2.1, 192.0.2.2, \"2001:db8::1\"]}}}}
  sinks:
    bind: {{type: rfc2136, server: \"{DNS}\", key: lb-key., secret_file: FOLDER/secret}}
"
            ),
        )
        .await;
        wait_until("all are there", || dig("www.example.org", "A") == ["30 192.0.2.1", "30 192.0.2.2"]).await;
        wait_until("of both families", || dig("www.example.org", "AAAA") == ["30 2001:db8::1"]).await;
        fs::write(node.path("ext"), "192.0.2.1 => DOWN\n2001:db8::1 => DOWN\n").expect("a file");
        wait_until("one has left", || dig("www.example.org", "A") == ["30 192.0.2.2"]).await;
        wait_until("of the other family the last", || dig("www.example.org", "AAAA").is_empty()).await;
        wait_until("the agent says so", || {
            let status = node.status();
            status.lines().any(|line| line.starts_with("bind  rfc2136  2  ") && line.contains("in step"))
        })
        .await;
    });
}
