use super::*;
use crate::config::Config;

/// A zone with one chosen name.
fn zone(more: &str) -> ZoneConfig {
    let text = format!(
        "dns: {{listen: \"127.0.0.1:53\", zones: {{example.org: {{ns: [ns1], records: [ns1 A 192.0.2.3{more}], \
         names: {{www: {{members: [192.0.2.1, 192.0.2.2]}}}}}}}}}}"
    );
    Config::parse("lb.yaml", &text, "n").unwrap().dns.unwrap().zones.remove(0)
}

fn place(name: &str) -> Place {
    let lower = |text: &str| text.parse::<LowerName>().unwrap();
    Place { zone: lower("example.org."), name: lower(name), family: Family::V4 }
}

fn www(addresses: &[&str]) -> Changes {
    let all: BTreeSet<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    [(place("www.example.org."), (!all.is_empty()).then_some(Addresses { ttl: 60, all }))].into()
}

/// A folder with the files of one zone.
struct Case {
    folder: tempfile::TempDir,
    reload: Vec<String>,
}

impl Case {
    fn new() -> Self {
        Case { folder: tempfile::tempdir().unwrap(), reload: Vec::new() }
    }

    fn files(&self, zone: &ZoneConfig) -> ZoneFiles {
        ZoneFiles::new(self.folder.path().into(), self.reload.clone(), std::slice::from_ref(zone))
    }

    fn text(&self) -> String {
        fs::read_to_string(self.folder.path().join("example.org.zone")).unwrap_or_default()
    }

    fn serial(&self) -> u32 {
        held(&self.text(), &place("www.example.org.").zone).unwrap().serial
    }
}

fn www_place() -> BTreeSet<Place> {
    [place("www.example.org.")].into()
}

#[tokio::test]
async fn a_file_is_the_whole_zone() {
    let case = Case::new();
    let mut files = case.files(&zone(""));
    assert_eq!(files.read(&www_place()).await, Ok(Records::new()));
    files.write(&www(&["192.0.2.2", "192.0.2.1"])).await.unwrap();
    let text = "\
; Written by lb agent; what is changed here is lost.
example.org. 3600 IN SOA ns1.example.org. hostmaster.example.org. (
    2 ; serial
    3600 900 1209600 60 )
example.org. 3600 IN NS ns1.example.org.
ns1.example.org. 3600 IN A 192.0.2.3
; What follows is chosen by health.
www.example.org. 60 IN A 192.0.2.1
www.example.org. 60 IN A 192.0.2.2
";
    assert_eq!(case.text(), text);
    assert_eq!(files.read(&www_place()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_serial_rises_with_every_change_and_only_then() {
    let case = Case::new();
    let mut files = case.files(&zone(""));
    files.read(&www_place()).await.unwrap();
    files.write(&www(&["192.0.2.1"])).await.unwrap();
    assert_eq!(case.serial(), 2);
    let held = files.read(&www_place()).await.unwrap();
    assert_eq!((case.serial(), held.len()), (2, 1));
    // Another record, and the addresses stay.
    let mut files = case.files(&zone(", x TXT new"));
    assert_eq!(files.read(&www_place()).await.unwrap(), held);
    assert_eq!((case.serial(), case.text().contains("x.example.org. 3600 IN TXT \"new\"")), (3, true));
    files.read(&www_place()).await.unwrap();
    assert_eq!(case.serial(), 3);
    // What somebody else changed is put right, under a new number.
    let path = case.folder.path().join("example.org.zone");
    fs::write(&path, case.text().replace("192.0.2.3", "192.0.2.66")).unwrap();
    files.read(&www_place()).await.unwrap();
    assert_eq!((case.serial(), case.text().contains("192.0.2.66")), (4, false));
    files.write(&www(&[])).await.unwrap();
    assert_eq!((case.serial(), case.text().contains("www")), (5, false));
}

#[test]
fn serials_wrap_and_follow_the_configuration_upwards() {
    assert_eq!(serial_after(None, 7), 7);
    assert_eq!(serial_after(Some(7), 7), 8);
    assert_eq!(serial_after(Some(9), 2026010100), 2026010100);
    assert_eq!(serial_after(Some(u32::MAX), 1), 1, "1 is newer than the greatest number");
    assert_eq!(serial_after(Some(u32::MAX), u32::MAX - 5), 1, "0 is left out");
}

#[tokio::test]
async fn a_file_of_others_is_left_alone_and_so_is_one_without_a_serial() {
    let case = Case::new();
    let path = case.folder.path().join("example.org.zone");
    fs::write(&path, "@ 60 SOA a b 1 1 1 1 1\n").unwrap();
    let mut files = case.files(&zone(""));
    let error = files.read(&www_place()).await.unwrap_err();
    assert!(error.to_string().ends_with(
        "example.org.zone: was not written by an agent; move it away, or name another folder for this sink"
    ));
    fs::write(&path, MARK).unwrap();
    let error = files.read(&www_place()).await.unwrap_err();
    assert!(error.to_string().contains("has no serial number any more"), "{error}");
    assert_eq!(case.text(), MARK);
}

#[tokio::test]
async fn a_zone_that_is_configured_no_more_loses_its_file() {
    let case = Case::new();
    let mut files = case.files(&zone(""));
    files.read(&www_place()).await.unwrap();
    files.write(&www(&["192.0.2.1"])).await.unwrap();
    let mut files = ZoneFiles::new(case.folder.path().into(), Vec::new(), &[]);
    assert_eq!(files.read(&www_place()).await.unwrap().len(), 1);
    files.write(&www(&[])).await.unwrap();
    assert!(!case.folder.path().join("example.org.zone").exists());
}

#[tokio::test]
async fn a_reload_that_fails_is_an_error_until_it_succeeds() {
    let mut case = Case::new();
    let runs = case.folder.path().join("runs");
    let fails = case.folder.path().join("fails");
    let script = format!(
        "echo run >>{}; if [ -e {} ]; then echo not now >&2; exit 3; fi",
        runs.display(),
        fails.display()
    );
    case.reload = ["sh", "-c", &script].map(String::from).into();
    let mut files = case.files(&zone(""));
    let count = || fs::read_to_string(&runs).unwrap_or_default().lines().count();
    files.read(&www_place()).await.unwrap();
    files.settle().await.unwrap();
    files.settle().await.unwrap();
    assert_eq!(count(), 1, "nothing has changed since");
    fs::write(&fails, "").unwrap();
    files.write(&www(&["192.0.2.1"])).await.unwrap();
    let error = files.settle().await.unwrap_err();
    assert!(error.to_string().ends_with(": exit status: 3: not now"), "{error}");
    files.settle().await.unwrap_err();
    fs::remove_file(&fails).unwrap();
    files.settle().await.unwrap();
    assert_eq!((count(), case.serial()), (4, 2));
    // The agent before this one may have ended between the two.
    case.files(&zone("")).settle().await.unwrap();
    assert_eq!((count(), case.serial()), (5, 2));
}

#[test]
fn files_are_called_after_their_zones() {
    let name = |labels: &[&[u8]]| file_name(&LowerName::new(&Name::from_labels(labels.to_vec()).unwrap()));
    assert_eq!(name(&[b"Example", b"ORG"]), "example.org.zone");
    assert!(!name(&[b"../0/25", b"arpa"]).contains('/'));
    assert_eq!(name(&[]), "root.zone");
}
