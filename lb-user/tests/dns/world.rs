//! An agent with a name server, and web servers that it checks, all on loopback.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use lb_test_support::{PATIENCE, check, has_programs, this_test, wait_until};

/// Whether there is a `dig`; skips the test otherwise.
pub fn has_dig() -> bool {
    has_programs(&this_test(), &["dig"])
}

/// Waits until something is so.
#[track_caller]
pub fn eventually(what: &str, is: impl Fn() -> bool) {
    wait_until(what, PATIENCE, || check(is(), "it is not"));
}

/// A running agent.
pub struct Agent {
    folder: tempfile::TempDir,
    pub address: SocketAddr,
    child: Option<Child>,
}

impl Agent {
    /// Starts with this section `dns`, to which the listener is added; `DIR` is the agent's folder.
    pub fn start(dns: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().display().to_string();
        let address = free_address();
        fs::write(
            folder.path().join("zone"),
            "$TTL 60\n@ SOA ns.x. h.x. 1 1 1 1 1\n NS ns.x.\nwww A 192.0.2.1\n",
        )
        .unwrap();
        let text = format!(
            "api: DIR/agent.sock\ndisable_file: DIR/disable\ndns:\n  listen: \"{address}\"\n  nsid: ns-under-test\n  \
             state: DIR/dns.json\n  threads: 2\n  tcp: {{connections: 3, idle: 1s}}{dns}"
        );
        fs::write(folder.path().join("lb.yaml"), text.replace("DIR", &dir)).unwrap();
        let mut agent = Agent { folder, address, child: None };
        agent.run();
        agent
    }

    fn run(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        // With no more descriptors than systemd gives a service that asks for none.
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 1024 && exec \"$0\" agent --config \"$1\"", env!("CARGO_BIN_EXE_lb")]);
        command.arg(self.path("lb.yaml")).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        let started = Instant::now();
        while std::os::unix::net::UnixStream::connect(self.path("agent.sock")).is_err() {
            assert!(started.elapsed() < PATIENCE, "the agent did not start:\n{}", self.read("log"));
            sleep(Duration::from_millis(5));
        }
    }

    /// Kills it with SIGKILL and starts it again.
    pub fn restart(&mut self) {
        self.end();
        self.run();
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where its configuration is.
    pub fn config(&self) -> String {
        self.path("lb.yaml").display().to_string()
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// What dig shows, with these words behind its own.
    pub fn dig(&self, words: &str) -> String {
        let mut command = Command::new("dig");
        command.arg(format!("@{}", self.address.ip())).args(["-p", &self.address.port().to_string()]);
        // Some of the words are options of a question, and hold for the one before them.
        command.args(["+time=2", "+tries=2"]).args(words.split(' '));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    }

    /// The addresses of a name, sorted.
    pub fn addresses(&self, words: &str) -> Vec<String> {
        let told = self.dig(&format!("{words} +short"));
        let is_address = |line: &&str| line.parse::<std::net::IpAddr>().is_ok();
        let mut addresses: Vec<String> = told.lines().filter(is_address).map(str::to_owned).collect();
        addresses.sort();
        addresses
    }

    fn command(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
        command.args(words).arg("--api").arg(self.path("agent.sock")).output().unwrap()
    }

    /// What a command prints; its exit code may be that of a bad state.
    #[track_caller]
    pub fn lb(&self, words: &[&str]) -> String {
        let output = self.command(words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.is_empty(), "{words:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The errors of a command that fails.
    #[track_caller]
    pub fn lb_fails(&self, words: &[&str]) -> String {
        let output = self.command(words);
        assert!(!output.status.success(), "{words:?} succeeded");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Descriptors that it has open.
    pub fn descriptors(&self) -> usize {
        let process = self.child.as_ref().unwrap().id();
        fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
    }

    pub fn metrics(&self) -> String {
        let mut stream = std::os::unix::net::UnixStream::connect(self.path("agent.sock")).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        page
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            eprintln!("the agent's log:\n{}", self.read("log"));
        }
    }
}

/// An address where neither UDP nor TCP is taken. Its port is below those that the kernel gives to clients, so that none of them
/// takes it meanwhile.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(61).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let address = SocketAddr::from(([127, 0, 0, 1], 10_000 + (number % 20_000) as u16));
        if UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// A web server that answers every request with the same status.
pub struct Backend {
    address: SocketAddr,
    status: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    pub fn start(address: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let status = Arc::new(Mutex::new("200 OK".to_owned()));
        let stop = Arc::new(AtomicBool::new(false));
        let (says, ends) = (Arc::clone(&status), Arc::clone(&stop));
        let thread = spawn(move || {
            for stream in listener.incoming() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                let _ = stream.read(&mut [0; 1024]);
                let status = says.lock().unwrap().clone();
                let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            }
        });
        Backend { address, status, stop, thread: Some(thread) }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn says(&self, status: &str) {
        status.clone_into(&mut self.status.lock().unwrap());
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes it.
        let _ = std::net::TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
