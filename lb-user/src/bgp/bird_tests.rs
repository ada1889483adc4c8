//! What is said to BIRD, told by a BIRD that is played: it loads the include file as the real one does, and keeps what it was
//! told to disable through a soft reconfiguration.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::*;

/// What the played BIRD has.
#[derive(Default)]
struct State {
    include: PathBuf,
    /// Routes of each protocol, with their attributes as the file has them.
    loaded: BTreeMap<String, Vec<(String, String)>>,
    disabled: BTreeSet<String>,
    /// Why it does not take its configuration.
    error: Option<String>,
    /// It says that it reconfigures, and does so only when its routes have been looked at so many times.
    looks_until_loaded: usize,
    /// What it was asked since somebody last looked.
    asked: Vec<String>,
}

struct Played {
    state: Arc<Mutex<State>>,
    socket: PathBuf,
    task: JoinHandle<()>,
    folder: tempfile::TempDir,
}

impl Played {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (include, socket) = (folder.path().join("lb.conf"), folder.path().join("bird.ctl"));
        let state = Arc::new(Mutex::new(State { include, ..State::default() }));
        let task = tokio::spawn(listen(UnixListener::bind(&socket).unwrap(), state.clone()));
        Self { state, socket, task, folder }
    }

    fn bird(&self) -> Bird {
        Bird::new(&self.include(), &self.socket)
    }

    fn include(&self) -> PathBuf {
        self.folder.path().join("lb.conf")
    }

    fn with<T>(&self, use_it: impl FnOnce(&mut State) -> T) -> T {
        use_it(&mut self.state.lock().unwrap())
    }

    /// What it was asked since the last look.
    fn asked(&self) -> Vec<String> {
        self.with(|state| std::mem::take(&mut state.asked))
    }

    /// What it announces: routes of the protocols that are not disabled.
    fn announces(&self) -> Vec<String> {
        self.with(|state| {
            let up = state.loaded.iter().filter(|(protocol, _)| !state.disabled.contains(*protocol));
            up.flat_map(|(_, routes)| routes.iter().map(|(prefix, _)| prefix.clone())).collect()
        })
    }

    /// It ends; its socket stays behind.
    async fn stop(&mut self) {
        let task = std::mem::replace(&mut self.task, tokio::spawn(async {}));
        task.abort();
        let _ = task.await;
    }

    /// Another one starts with the include file as it stands.
    async fn restart(&mut self) {
        self.stop().await;
        fs::remove_file(&self.socket).unwrap();
        self.with(|state| {
            state.loaded = load(&state.include);
            state.disabled.clear();
        });
        self.task = tokio::spawn(listen(UnixListener::bind(&self.socket).unwrap(), self.state.clone()));
    }
}

/// Ends every connection when it is dropped.
async fn listen(listener: UnixListener, state: Arc<Mutex<State>>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(answer(stream, state.clone()));
    }
}

async fn answer(stream: UnixStream, state: Arc<Mutex<State>>) {
    let mut stream = BufReader::new(stream);
    let _ = stream.get_mut().write_all(b"0001 BIRD 2.0.12 ready.\n").await;
    let mut command = String::new();
    while stream.read_line(&mut command).await.is_ok_and(|read| read > 0) {
        let reply = state.lock().unwrap().reply(command.trim());
        let _ = stream.get_mut().write_all(reply.as_bytes()).await;
        command.clear();
    }
}

impl State {
    fn reply(&mut self, command: &str) -> String {
        self.asked.push(command.to_owned());
        let quoted = command.split('"').nth(1).unwrap_or_default().to_owned();
        match command.split_whitespace().collect::<Vec<_>>()[..] {
            ["configure", how] => match &self.error {
                Some(error) => format!("0002-Reading configuration from /etc/bird/bird.conf\n8002 {error}\n"),
                None if how == "check" => "0002-Reading configuration\n0020 Configuration OK\n".into(),
                None => {
                    if self.looks_until_loaded == 0 {
                        self.loaded = load(&self.include);
                    }
                    "0002-Reading configuration\n0003 Reconfigured\n".into()
                }
            },
            ["enable", _] => {
                self.disabled.remove(&quoted);
                format!("0011-{quoted}: enabled\n0000 \n")
            }
            ["disable", _] => {
                self.disabled.insert(quoted.clone());
                format!("0009-{quoted}: disabled\n0000 \n")
            }
            ["show", "route", ..] => {
                if self.looks_until_loaded > 0 {
                    self.looks_until_loaded -= 1;
                    if self.looks_until_loaded == 0 {
                        self.loaded = load(&self.include);
                    }
                }
                let mut text = String::new();
                for (protocol, routes) in
                    self.loaded.iter().filter(|(name, _)| !self.disabled.contains(*name))
                {
                    for (prefix, attributes) in routes {
                        text += &format!("1007-{prefix} blackhole [{protocol} 01:38:38.292] * (200)\n");
                        text +=
                            &format!("1008-\tType: static univ\n1012-\tBGP.med: {}\n", number(attributes));
                        text += &format!(" \tBGP.community: {}\n", communities(attributes));
                    }
                }
                text + "0000 \n"
            }
            ["show", "protocols", ..] => {
                let mut text = "2002-Name       Proto      Table      State  Since         Info\n".to_owned();
                for (protocol, routes) in &self.loaded {
                    let (state, count) = match self.disabled.contains(protocol) {
                        true => ("down", 0),
                        false => ("up", routes.len()),
                    };
                    text += &format!("1002-{protocol}   Static     master4    {state}     01:38:38.292\n");
                    text +=
                        &format!("1006-  Channel ipv4\n     Routes:         {count} imported, 0 exported\n");
                }
                text + "0000 \n"
            }
            _ => "9001 syntax error\n".into(),
        }
    }
}

/// What an include file makes BIRD hold.
fn load(include: &Path) -> BTreeMap<String, Vec<(String, String)>> {
    let (mut all, mut protocol) = (BTreeMap::new(), String::new());
    for line in fs::read_to_string(include).unwrap_or_default().lines() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["protocol", "static", name, "{"] => {
                protocol = name.to_owned();
                all.insert(protocol.clone(), Vec::new());
            }
            ["route", prefix, "blackhole", ..] => {
                let attributes = line.split_once('{').unwrap().1.to_owned();
                all.get_mut(&protocol).unwrap().push((prefix.to_owned(), attributes));
            }
            _ => {}
        }
    }
    all
}

fn number(attributes: &str) -> &str {
    attributes.split(['=', ';']).nth(1).unwrap().trim()
}

fn communities(attributes: &str) -> String {
    let all = attributes.split("bgp_community.add(").skip(1);
    all.map(|text| text.split_once(");").unwrap().0.to_owned() + " ").collect()
}

const ONE4: &str = "198.51.100.1/32";
const TWO4: &str = "198.51.100.2/32";
const ONE6: &str = "2001:db8::c633:6401/128";
const ENABLE: [&str; 2] = [r#"enable "lb_vips4""#, r#"enable "lb_vips6""#];
const LOAD_ALL: [&str; 2] = ["configure check", "configure soft"];
const ROUTES: &str = r#"show route where proto ~ "lb_vips*" all"#;
const COUNTS: &str = r#"show protocols all "lb_vips*""#;

fn want(routes: &[&str]) -> Announcements {
    let routes = routes.iter().map(|route| route.parse().unwrap()).collect();
    Announcements { routes, med: 5, communities: vec![(65000, 100), (65000, 7)], ..Default::default() }
}

fn prefixes(routes: &[&str]) -> BTreeSet<Prefix> {
    want(routes).routes
}

#[tokio::test]
async fn a_change_is_checked_loaded_and_seen_and_no_change_is_only_looked_at() {
    let played = Played::start();
    let mut bird = played.bird();
    bird.announce(&want(&[ONE4, ONE6])).await.unwrap();
    assert_eq!(played.announces(), [ONE4, ONE6]);
    let whole = [[ROUTES, LOAD_ALL[0]], [LOAD_ALL[1], ENABLE[0]], [ENABLE[1], ROUTES]].concat();
    assert_eq!(played.asked(), whole);
    bird.announce(&want(&[ONE4, ONE6])).await.unwrap();
    assert_eq!(played.asked(), [ROUTES], "nothing is to be done");
    bird.announce(&want(&[ONE6])).await.unwrap();
    assert_eq!(
        (played.announces(), played.asked()),
        (vec![ONE6.to_owned()], whole.iter().map(ToString::to_string).collect())
    );
}

/// `announced` walks the tables only when the counts have changed, or after a protocol was down.
#[tokio::test]
async fn routes_are_counted_and_read_again_only_when_the_count_is_another() {
    let mut played = Played::start();
    let mut bird = played.bird();
    bird.announce(&want(&[ONE4, ONE6])).await.unwrap();
    played.asked();
    for _ in 0..2 {
        assert_eq!(bird.announced().await.unwrap(), prefixes(&[ONE4, ONE6]));
        assert_eq!(played.asked(), [COUNTS]);
    }
    played.with(|state| state.disabled.insert("lb_vips6".into()));
    assert_eq!(bird.announced().await.unwrap(), prefixes(&[ONE4]));
    assert_eq!(played.asked(), [COUNTS, ROUTES]);
    played.with(|state| state.disabled.clear());
    assert_eq!(bird.announced().await.unwrap(), prefixes(&[ONE4, ONE6]));
    // Another BIRD may hold others, as many as before.
    fs::write(played.include(), render(&want(&[TWO4, ONE6]))).unwrap();
    played.restart().await;
    assert!(matches!(bird.announced().await, Err(BgpError::Away { .. })), "its socket is gone");
    played.asked();
    assert_eq!(bird.announced().await.unwrap(), prefixes(&[TWO4, ONE6]));
    assert_eq!(played.asked(), [COUNTS, ROUTES]);
}

/// What somebody changed in BIRD, or in the file, is set right by the next announcement.
#[tokio::test]
async fn what_others_changed_is_set_right() {
    let played = Played::start();
    let mut bird = played.bird();
    let changes: [fn(&mut State); 4] = [
        |state| {
            state.disabled.insert("lb_vips4".into());
        },
        |state| state.loaded.clear(),
        |state| state.loaded.get_mut("lb_vips4").unwrap()[0].1 = "bgp_med = 6;".into(),
        |state| fs::write(&state.include, "# mine\n").unwrap(),
    ];
    for change in changes {
        bird.announce(&want(&[ONE4, ONE6])).await.unwrap();
        played.with(change);
        bird.announce(&want(&[ONE4, ONE6])).await.unwrap();
        assert_eq!(played.announces(), [ONE4, ONE6]);
        let loaded = played.with(|state| state.loaded.clone());
        assert_eq!(loaded, load(&played.include()));
        assert_eq!(fs::read_to_string(played.include()).unwrap(), render(&want(&[ONE4, ONE6])));
    }
}

#[tokio::test]
async fn an_error_in_our_own_file_brings_the_old_one_back() {
    let played = Played::start();
    let mut bird = played.bird();
    let error = format!("{}:3:1 syntax error", played.include().display());
    played.with(|state| state.error = Some(error.clone()));
    let refused = bird.announce(&want(&[ONE4])).await.unwrap_err();
    assert!(refused.to_string().contains(&error), "{refused}");
    assert!(!played.include().exists(), "there was none");
    assert!(!played.asked().iter().any(|command| command.starts_with("disable")));

    played.with(|state| state.error = None);
    bird.announce(&want(&[ONE4])).await.unwrap();
    played.with(|state| state.error = Some(error.clone()));
    bird.announce(&want(&[TWO4])).await.unwrap_err();
    assert_eq!(fs::read_to_string(played.include()).unwrap(), render(&want(&[ONE4])));
    assert_eq!(played.announces(), [ONE4]);
}

/// The operator broke `bird.conf` elsewhere: our file stays, to be right once that is mended; a family that is to have no
/// route is taken back at once, and is there again as soon as it may.
#[tokio::test]
async fn an_error_of_the_operators_silences_what_is_to_go_until_it_is_mended() {
    let played = Played::start();
    let mut bird = played.bird();
    bird.announce(&want(&[ONE4, ONE6])).await.unwrap();
    played.with(|state| state.error = Some("/etc/bird/bird.conf:7:2 syntax error".into()));
    played.asked();
    bird.announce(&want(&[ONE4])).await.unwrap_err();
    assert_eq!(played.announces(), [ONE4]);
    assert_eq!(played.asked(), [ROUTES, LOAD_ALL[0], r#"disable "lb_vips6""#]);
    assert_eq!(fs::read_to_string(played.include()).unwrap(), render(&want(&[ONE4])));
    bird.announce(&want(&[])).await.unwrap_err();
    assert_eq!(played.announces(), [""; 0]);
    bird.announce(&want(&[ONE4, ONE6])).await.unwrap_err();
    assert_eq!(played.announces(), [""; 0], "it cannot be loaded yet");

    played.with(|state| state.error = None);
    bird.announce(&want(&[ONE4, ONE6])).await.unwrap();
    assert_eq!(played.announces(), [ONE4, ONE6]);
}

/// What was written while the configuration could not be loaded is loaded later, though BIRD may hold the same routes.
#[tokio::test]
async fn a_file_that_was_not_loaded_is_loaded_as_soon_as_it_can_be() {
    let played = Played::start();
    let mut bird = played.bird();
    bird.announce(&want(&[ONE4])).await.unwrap();
    played.with(|state| state.error = Some("/etc/bird/bird.conf:7:2 syntax error".into()));
    bird.announce(&want(&[TWO4])).await.unwrap_err();
    bird.announce(&want(&[ONE4])).await.unwrap_err();
    played.with(|state| state.error = None);
    played.asked();
    bird.announce(&want(&[ONE4])).await.unwrap();
    assert!(
        played.asked().contains(&LOAD_ALL[1].to_owned()),
        "the file may be another than the one it holds"
    );
    bird.announce(&want(&[ONE4])).await.unwrap();
    assert_eq!(played.asked(), [ROUTES]);
}

/// A BIRD that starts only now begins with what is wanted.
#[tokio::test]
async fn the_file_is_written_while_bird_is_away() {
    let mut played = Played::start();
    let mut bird = played.bird();
    played.stop().await;
    let away = bird.announce(&want(&[ONE4])).await.unwrap_err();
    assert!(matches!(away, BgpError::Away { .. }), "{away}");
    assert_eq!(fs::read_to_string(played.include()).unwrap(), render(&want(&[ONE4])));
    played.restart().await;
    assert_eq!(played.announces(), [ONE4]);
    bird.announce(&want(&[ONE4])).await.unwrap();
    assert_eq!(bird.announced().await.unwrap(), prefixes(&[ONE4]));
}

/// One look before there is anything to load, two before the routes are there.
#[tokio::test]
async fn a_bird_that_takes_its_time_is_waited_for() {
    let played = Played::start();
    played.with(|state| state.looks_until_loaded = 3);
    played.bird().announce(&want(&[ONE4])).await.unwrap();
    assert_eq!(played.announces(), [ONE4]);
}

#[tokio::test]
async fn a_bird_that_does_not_load_the_file_is_told_of_with_the_protocol() {
    let played = Played::start();
    played.with(|state| state.looks_until_loaded = usize::MAX);
    for (routes, name) in [([ONE6], "lb_vips6"), ([ONE4], "lb_vips4")] {
        let error = played.bird().announce(&want(&routes)).await.unwrap_err();
        assert!(matches!(error, BgpError::NotLoaded { protocol, .. } if protocol == name), "{error}");
    }
}

/// Not text is not ours; what cannot be read is said.
#[test]
fn a_file_that_is_not_text_is_replaced_and_one_that_cannot_be_read_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lb.conf");
    fs::write(&path, [0xff, 0xfe]).unwrap();
    assert_eq!(read(&path).unwrap(), None);
    assert!(matches!(read(folder.path()), Err(BgpError::Include { .. })));
    replace(&path, "one").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o644, "BIRD may run as another user");
}

#[test]
fn replies_that_are_not_as_expected_hold_nothing() {
    let lines = |code, text: &str| -> Vec<Line> {
        text.lines().map(|text| Line { code, text: text.into() }).collect()
    };
    // Attributes before any route, or behind a line that names none.
    let stray = lines(ATTRIBUTE, "\tBGP.med: 5");
    assert_eq!(parse_routes(&stray), Held::new());
    let unreadable =
        [lines(ROUTE, "198.51.100.1/32 blackhole"), lines(ROUTE, "Table master4:"), stray].concat();
    let held = parse_routes(&unreadable);
    assert_eq!(held.into_values().collect::<Vec<_>>(), [Attributes::default()]);
    let kinds = [lines(ROUTE, "198.51.100.1/32 blackhole"), lines(1008, "\tBGP.med: 5")].concat();
    assert_eq!(parse_routes(&kinds).into_values().next(), Some(Attributes::default()));
    for text in ["65000,7", "(65000,7", "65000,7)", "(65000)", "(65000,x)", "(70000,7)"] {
        assert_eq!(parse_community(text), None, "{text}");
    }
    assert_eq!(parse_community("(65000,7)"), Some((65000, 7)));
    // Numbers of routes stand in lines of their own kind only.
    let up = lines(PROTOCOL, "lb_vips4 Static master4 up 01:38\nlb_vips6 Static master6 up 01:38");
    let counted = |code| parse_counts(&[up.clone(), lines(code, "    Routes:         2 imported")].concat());
    assert_eq!((counted(PROTOCOL_DETAIL), counted(PROTOCOL), counted(0)), (Some(2), Some(0), Some(0)));
    let other = lines(PROTOCOL_DETAIL, "lb_vips4 Static master4 up 01:38\nlb_vips6 Static master6 up 01:38");
    assert_eq!(parse_counts(&other), None);
}
