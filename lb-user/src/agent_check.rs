//! The server that HAProxy's `agent-check` asks: each connection is answered with the first line of a file.
//!
//! The file is read at each connection, so a change counts from the next one on. A missing file means `up`; content
//! that HAProxy would not understand is logged, and the last good answer stays.

use std::io::{self, Read};
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::admission::{Admission, Limits};

/// The answer while there is no file.
const DEFAULT_ANSWER: &str = "up";
/// Longest line that is accepted.
const LINE_LIMIT: usize = 256;
/// Connections served at once; HAProxy makes one per server line, and they take a moment. Others are closed at once.
const CONNECTIONS: Limits = Limits { total: 256, per_source: 128 };
/// Most time that a connection lives.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the server listens and what it answers from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses; `[::]` accepts IPv4 as well.
    pub listen: Vec<SocketAddr>,
    /// The file with the answer.
    pub file: PathBuf,
}

/// The server cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("agent check: cannot listen on {address}: {source}")]
pub struct ListenError {
    /// Where.
    pub address: SocketAddr,
    /// What the kernel said.
    pub source: io::Error,
}

/// The running server; dropping it closes its sockets.
pub struct AgentCheck {
    source: Arc<AnswerFile>,
    addresses: Vec<SocketAddr>,
    _listeners: JoinSet<()>,
}

impl AgentCheck {
    /// Listens on all addresses or on none.
    ///
    /// Must be called within a Tokio runtime.
    pub fn start(config: &Config) -> Result<Self, ListenError> {
        let source = Arc::new(AnswerFile::new(&config.file));
        let mut addresses = Vec::new();
        let mut sockets = Vec::new();
        for &address in &config.listen {
            let socket = listen(address).map_err(|source| ListenError { address, source })?;
            addresses.push(socket.local_addr().map_err(|source| ListenError { address, source })?);
            sockets.push(socket);
        }
        let mut listeners = JoinSet::new();
        let admission = Admission::new(CONNECTIONS);
        for socket in sockets {
            listeners.spawn(serve(socket, Arc::clone(&source), Arc::clone(&admission)));
        }
        Ok(Self { source, addresses, _listeners: listeners })
    }

    /// What a connection would be answered now, without the newline.
    pub fn answer(&self) -> String {
        self.source.answer()
    }

    /// Where it listens; differs from the configuration where that says port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

/// How long the agent before this one may still hold its listeners: a killed process ends thread by thread.
const HANDOVER: Duration = Duration::from_secs(1);

/// A listener; `[::]` takes IPv4 as well. Waits a moment for an address that is in use.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if let SocketAddr::V6(v6) = address {
        socket.set_only_v6(*v6.ip() != Ipv6Addr::UNSPECIFIED)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    let end = Instant::now() + HANDOVER;
    while let Err(error) = socket.bind(&address.into()).and_then(|()| socket.listen(1024)) {
        if error.kind() != io::ErrorKind::AddrInUse || Instant::now() > end {
            return Err(error);
        }
        // At the start of the agent only, when nothing else runs yet.
        std::thread::sleep(Duration::from_millis(20));
    }
    TcpListener::from_std(socket.into())
}

async fn serve(listener: TcpListener, source: Arc<AnswerFile>, admission: Arc<Admission>) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                if let Some(place) = admission.admit(from.ip()) {
                    let answer = source.answer();
                    connections.spawn(async move {
                        let _ = timeout(PATIENCE, reply(stream, &answer)).await;
                        drop(place);
                    });
                }
            }
            // Out of descriptors, or the connection was aborted: neither ends the server. Whoever connects can bring that
            // about, so it has no line in the log.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn reply(mut stream: TcpStream, answer: &str) -> io::Result<()> {
    stream.write_all(format!("{answer}\n").as_bytes()).await?;
    stream.shutdown().await?;
    // HAProxy may send its `agent-send` text. Closing with it unread would reset the connection and could cost the
    // peer our answer.
    let mut rest = [0; 256];
    for _ in 0..16 {
        if stream.read(&mut rest).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// The file, and the last good answer it gave.
struct AnswerFile {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    answer: String,
    /// What was last complained about, so that it is said once.
    complaint: Option<String>,
}

impl AnswerFile {
    fn new(path: &Path) -> Self {
        Self {
            path: path.into(),
            state: Mutex::new(State { answer: DEFAULT_ANSWER.into(), complaint: None }),
        }
    }

    fn answer(&self) -> String {
        let read = self.read();
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match read {
            Ok(answer) => {
                if state.answer != answer {
                    info!("agent check: answering {answer:?}, was {:?}", state.answer);
                }
                state.answer = answer;
                state.complaint = None;
            }
            Err(complaint) => {
                if state.complaint.as_ref() != Some(&complaint) {
                    warn!(
                        "agent check: {}: {complaint}; still answering {:?}",
                        self.path.display(),
                        state.answer
                    );
                }
                state.complaint = Some(complaint);
            }
        }
        state.answer.clone()
    }

    fn read(&self) -> Result<String, String> {
        let file = match std::fs::File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(DEFAULT_ANSWER.into()),
            Err(error) => return Err(error.to_string()),
        };
        let mut content = Vec::new();
        file.take(LINE_LIMIT as u64 + 1).read_to_end(&mut content).map_err(|e| e.to_string())?;
        let line = content.split(|byte| *byte == b'\n').next().unwrap_or_default();
        if line.len() > LINE_LIMIT {
            return Err(format!("the first line is longer than {LINE_LIMIT} bytes"));
        }
        let line = std::str::from_utf8(line).map_err(|_| "the first line is not text".to_owned())?;
        let line = line.trim();
        validate(line)?;
        Ok(line.to_owned())
    }
}

/// Whether HAProxy understands the line: words parted by spaces, tabs or commas, and a comment after `#`.
fn validate(line: &str) -> Result<(), String> {
    if line.contains(|c: char| c.is_control() && c != '\t') {
        return Err("the first line has control characters".into());
    }
    let words = line.split('#').next().unwrap_or_default();
    let mut words = words.split([' ', '\t', ',']).filter(|word| !word.is_empty()).peekable();
    if words.peek().is_none() {
        return Err("the first line has no word; write one such as up, drain or down".into());
    }
    match words.find(|word| !known(word)) {
        None => Ok(()),
        Some(word) => Err(format!(
            "{word:?} is not an agent-check word; use up, down, ready, drain, maint, stopped, fail, NN% or maxconn:N"
        )),
    }
}

fn known(word: &str) -> bool {
    const WORDS: [&str; 7] = ["up", "down", "ready", "drain", "maint", "stopped", "fail"];
    let number =
        |digits: &str| (1..=9).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    WORDS.contains(&word)
        || word.strip_suffix('%').is_some_and(number)
        || word.strip_prefix("maxconn:").is_some_and(number)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Server {
        check: AgentCheck,
        directory: tempfile::TempDir,
    }

    impl Server {
        fn start(listen: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("agent-check");
            let check = AgentCheck::start(&Config { listen: vec![listen.parse().unwrap()], file }).unwrap();
            Self { check, directory }
        }

        fn write(&self, content: impl AsRef<[u8]>) {
            fs::write(self.directory.path().join("agent-check"), content).unwrap();
        }

        async fn ask(&self) -> String {
            self.ask_with(self.check.addresses()[0], b"").await
        }

        async fn ask_with(&self, address: SocketAddr, send: &[u8]) -> String {
            let asking = async {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(send).await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                answer
            };
            timeout(Duration::from_secs(5), asking).await.expect("an answer in time")
        }
    }

    #[tokio::test]
    async fn each_connection_gets_the_files_first_line_as_it_is_now() {
        let server = Server::start("127.0.0.1:0");
        assert_eq!(server.ask().await, "up\n");
        server.write("drain\nignored\n");
        assert_eq!(server.ask().await, "drain\n");
        server.write("  ready 75% maxconn:30 # all well \r\n");
        assert_eq!(server.ask().await, "ready 75% maxconn:30 # all well\n");
        fs::remove_file(server.directory.path().join("agent-check")).unwrap();
        assert_eq!(server.ask().await, "up\n");
        assert_eq!(server.check.answer(), "up");
    }

    #[tokio::test]
    async fn junk_leaves_the_last_good_answer() {
        let server = Server::start("127.0.0.1:0");
        server.write("maint");
        assert_eq!(server.ask().await, "maint\n");
        let long = "up ".repeat(1000);
        for junk in [&b"upp"[..], b"", b"\n\nup", b"\xff\xfe", b"up\0", b"# only words", long.as_bytes()] {
            server.write(junk);
            assert_eq!(server.ask().await, "maint\n", "{junk:?}");
        }
        server.write("up");
        assert_eq!(server.ask().await, "up\n");
    }

    #[tokio::test]
    async fn an_unreadable_file_leaves_the_last_good_answer() {
        let server = Server::start("127.0.0.1:0");
        fs::create_dir(server.directory.path().join("agent-check")).unwrap();
        assert_eq!(server.ask().await, "up\n");
    }

    #[tokio::test]
    async fn what_haproxy_sends_does_not_cost_it_the_answer() {
        let server = Server::start("127.0.0.1:0");
        let address = server.check.addresses()[0];
        assert_eq!(server.ask_with(address, b"be_web/lb7-1\n").await, "up\n");
        let _silent = TcpStream::connect(address).await.unwrap();
        assert_eq!(server.ask().await, "up\n");
    }

    #[tokio::test]
    async fn the_unspecified_address_serves_both_families() {
        let server = Server::start("[::]:0");
        let port = server.check.addresses()[0].port();
        for address in
            [SocketAddr::from(([127, 0, 0, 1], port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))]
        {
            assert_eq!(server.ask_with(address, b"").await, "up\n");
        }
    }

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let server = Server::start("127.0.0.1:0");
        let address = server.check.addresses()[0];
        let config = Config { listen: vec![address], file: "/nonexistent".into() };
        let error = AgentCheck::start(&config).err().expect("in use").to_string();
        assert!(error.starts_with(&format!("agent check: cannot listen on {address}: ")), "{error}");
    }

    #[test]
    fn haproxys_words_are_known_and_others_named() {
        for line in
            ["up", "down", "ready", "drain", "maint", "stopped", "fail", "50%", "0%", "150%", "maxconn:30"]
        {
            assert_eq!(validate(line), Ok(()), "{line}");
        }
        for line in ["up,75%", "ready\tup 100%", "down # disk full, call Ann", "up#"] {
            assert_eq!(validate(line), Ok(()), "{line}");
        }
        for line in
            ["", " , ", "# up", "UP", "%", "5 %", "-1%", "maxconn:", "maxconn:x", "1234567890%", "up\u{7}"]
        {
            assert!(validate(line).is_err(), "{line:?}");
        }
        assert!(validate("up sideways").unwrap_err().starts_with("\"sideways\" is not an agent-check word"));
    }
}
