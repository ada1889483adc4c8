//! VIPs that leave in sequence, with no BGP daemon there: what is wanted of it is what counts.

use std::fs;

use super::TWO_VIPS;
use super::fake::{Fake, Node};
use crate::leave::sequence::Stage;

#[tokio::test]
async fn a_vip_leaves_when_resolvers_and_packets_have_gone_and_returns_with_its_line() {
    let text = format!("{TWO_VIPS}leave: {{ttl: 1s, hold: 1s}}\n");
    let mut node = Node::start(&text, Fake::default()).await;
    node.announces(&[1, 2]).await;
    fs::write(node.path("leave"), "198.51.100.1\n").unwrap();
    for stage in [Stage::Answers, Stage::Falling] {
        let status = node.status_when(|s| s.leaving.iter().any(|leaving| leaving.stage == stage)).await;
        assert_eq!(status.leaving.len(), 1);
        let routes = node.routes.borrow().clone().unwrap().routes;
        assert_eq!(routes.len(), 2, "still announced: {stage:?}");
    }
    node.announces(&[2]).await;
    let gone = node.status_when(|s| s.leaving.iter().any(|l| l.stage == Stage::Withdrawn)).await;
    assert_eq!(gone.services[0].reason.as_deref(), Some("has left by the operator's order"));
    assert!(gone.reasons.iter().all(|reason| !reason.contains("198.51.100.1")), "{:?}", gone.reasons);
    // The kernel serves what still comes.
    assert_eq!(node.fake.last().config.model.services.len(), 2);
    fs::remove_file(node.path("leave")).unwrap();
    node.announces(&[1, 2]).await;
    assert!(node.status_when(|status| status.leaving.is_empty()).await.warnings.is_empty());
}

#[tokio::test]
async fn an_agent_that_starts_does_not_announce_what_is_to_leave() {
    let order =
        |text: &'static str| move |folder: &std::path::Path| fs::write(folder.join("leave"), text).unwrap();
    let mut node = Node::start_with(TWO_VIPS, Fake::default(), order("198.51.100.1\n")).await;
    node.announces(&[2]).await;
    let mut node = Node::start_with(TWO_VIPS, Fake::default(), order("*\n")).await;
    node.announces(&[]).await;
}

#[tokio::test]
async fn while_the_daemon_is_not_heard_an_agent_that_goes_on_withdraws_nothing() {
    let order = |folder: &std::path::Path| fs::write(folder.join("leave"), "*\n").unwrap();
    let fake = Fake::default().adopting(&["a", "b"]);
    let mut node = Node::start_with(TWO_VIPS, fake, order).await;
    node.status_when(|status| {
        status.reasons.iter().any(|r| r.starts_with("bird: ") && !r.contains("starting"))
    })
    .await;
    assert_eq!(*node.routes.borrow(), None);
    // It may have announced them, or not; in the end it has to be decided.
    tokio::time::timeout(std::time::Duration::from_secs(15), node.routes.wait_for(Option::is_some))
        .await
        .expect("decided")
        .unwrap();
    node.announces(&[]).await;
}

#[tokio::test]
async fn a_wrong_line_is_told_and_the_last_good_order_stays() {
    let mut node = Node::start(TWO_VIPS, Fake::default()).await;
    node.announces(&[1, 2]).await;
    fs::write(node.path("leave"), "198.51.100.1 now\n").unwrap();
    node.announces(&[2]).await;
    fs::write(node.path("leave"), "198.51.100.1 now\n198.51.100.2 later\n").unwrap();
    let status = node.status_when(|status| !status.warnings.is_empty()).await;
    let expected =
        format!("{}:2:14: unknown: \"later\"; write force, now or nothing", node.path("leave").display());
    assert_eq!(status.warnings, [expected]);
    node.announces(&[2]).await;
    fs::write(node.path("leave"), "198.51.100.9 now\n").unwrap();
    node.announces(&[1, 2]).await;
    let status = node.status_when(|status| status.warnings.iter().any(|w| w.contains("is no VIP of"))).await;
    assert!(status.leaving.is_empty());
}

#[tokio::test]
async fn a_vip_that_does_not_leave_is_a_warning() {
    let text = format!("{TWO_VIPS}leave: {{name_servers: [\"http://127.0.0.1:1\"], wait: 1s}}\n");
    let mut node = Node::start(&text, Fake::default()).await;
    node.announces(&[1, 2]).await;
    fs::write(node.path("leave"), "198.51.100.1\n").unwrap();
    let status = node.status_when(|status| !status.warnings.is_empty()).await;
    let warning = &status.warnings[0];
    assert!(
        warning.starts_with(
            "198.51.100.1 was to leave and is still announced after 1s: http://127.0.0.1:1 is not heard: "
        ) && warning.ends_with(
            "; withdraw it by `lb leave 198.51.100.1 --now`, or keep it by `lb return 198.51.100.1`"
        ),
        "{warning}"
    );
    node.announces(&[1, 2]).await;
}
