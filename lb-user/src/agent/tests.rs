//! The agent against a kernel that records what it is asked for.

mod drain;
mod exchange;
mod fake;
mod leave;
mod manifest;
mod trace;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use self::fake::{Fake, Node, id, paths, written};
use super::runner::Command;
use super::status::Status;
use super::{Changes, SETTLE};
use crate::cli::client::{self, ClientError};
use crate::desired::{Path, Paths};

const TWO_VIPS: &str = "
director: {interfaces: [eth0]}
pools: {web: {hosts: {a: {address4: 192.0.2.1}, b: {address4: 192.0.2.2}}}}
services:
  - {vip: 198.51.100.1, port: 80, pool: web}
  - {vip: 198.51.100.2, port: 80, pool: web}
bgp: {driver: bird, bird: {include: DIR/lb.conf, control: DIR/bird.ctl}}
";

#[tokio::test]
async fn what_is_confirmed_and_healthy_is_announced() {
    let mut node = Node::start(TWO_VIPS, Fake::default()).await;
    node.announces(&[1, 2]).await;
    let status = node.status_when(|status| status.services.iter().all(|s| s.healthy == 2)).await;
    assert_eq!(status.services[0].digest.as_deref(), Some("00000000000000ab"));
    assert_eq!(status.interfaces[0].mode, "xdp-native");
    assert!(!status.adopted);
    assert!(!status.ready, "there is no BIRD");
    assert!(status.reasons[0].starts_with("bird: "), "{:?}", status.reasons);
}

#[tokio::test]
async fn a_node_without_bgp_is_ready_when_its_services_can_be_served() {
    let text = TWO_VIPS.split("bgp:").next().unwrap();
    let mut node = Node::start(text, Fake::default()).await;
    let status = node.status_when(|status| status.ready).await;
    assert!(status.services.iter().all(|service| !service.announced));
}

#[tokio::test]
async fn after_a_crash_announcements_stand_until_the_paths_are_known() {
    let fake = Fake::default().adopting(&["a", "b"]).without_paths();
    let mut node = Node::start(TWO_VIPS, fake).await;
    node.status_when(|status| status.adopted && status.services.iter().all(|s| s.healthy == 0)).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(*node.routes.borrow(), None, "nothing may be withdrawn yet");
    assert_eq!(node.fake.wants(), [], "adopted next hops must not be overwritten yet");
    node.fake.paths.send_replace(paths(&["a", "b"]));
    node.announces(&[1, 2]).await;
    // Health was adopted, so that no row ever moved.
    assert!(node.fake.wants().iter().all(|want| want.healthy.len() == 2));
}

#[tokio::test]
async fn paths_that_nobody_finds_are_not_waited_for_for_ever() {
    let fake = Fake::default().adopting(&["a", "b"]).without_paths();
    let node = Node::start(TWO_VIPS, fake).await;
    node.eventually(|fake| !fake.wants().is_empty()).await;
}

#[tokio::test]
async fn the_disable_file_withdraws_all_and_the_kernel_goes_on() {
    let mut node = Node::start(TWO_VIPS, Fake::default()).await;
    node.announces(&[1, 2]).await;
    node.status_when(|status| status.services.iter().all(|service| service.healthy == 2)).await;
    let before = node.fake.wants();
    fs::write(node.path("disable"), "").unwrap();
    node.announces(&[]).await;
    assert!(node.status_when(|status| status.disabled).await.services.iter().all(|s| !s.announced));
    assert_eq!(node.fake.wants(), before);
    fs::remove_file(node.path("disable")).unwrap();
    node.announces(&[1, 2]).await;
}

#[tokio::test]
async fn after_a_crash_the_disable_file_withdraws_at_once() {
    let fake = Fake::default().adopting(&["a", "b"]).without_paths();
    let mut node =
        Node::start_with(TWO_VIPS, fake, |folder| fs::write(folder.join("disable"), "").unwrap()).await;
    node.announces(&[]).await;
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_and_the_last_one_stays() {
    let mut node = Node::start(TWO_VIPS, Fake::default()).await;
    node.announces(&[1, 2]).await;
    node.write(&TWO_VIPS.replace("port: 80", "prt: 80"));
    let errors = node.reload().await.unwrap_err().lines();
    assert_eq!(errors.len(), 4);
    assert!(
        errors[0].ends_with(": services[0].port: missing; write the port that users connect to, or any"),
        "{errors:?}"
    );
    let status = node.status_when(|status| status.reload.failed == 1).await;
    assert_eq!(status.reload.errors, errors);
    assert_eq!(status.services.len(), 2);
    node.announces(&[1, 2]).await;
    node.write(TWO_VIPS);
    assert_eq!(node.reload().await.unwrap(), Changes::default());
    assert!(node.status_when(|status| status.reload.done == 1).await.reload.errors.is_empty());
}

#[tokio::test]
async fn a_vip_that_a_reload_removes_is_withdrawn_before_the_kernel_forgets_it() {
    let mut node = Node::start(TWO_VIPS, Fake::default()).await;
    node.announces(&[1, 2]).await;
    node.write(&TWO_VIPS.replace("  - {vip: 198.51.100.2, port: 80, pool: web}\n", ""));
    let started = tokio::time::Instant::now();
    assert_eq!(node.reload().await.unwrap().applied, ["services"]);
    node.announces(&[1]).await;
    assert_eq!(node.fake.last().config.model.services.len(), 2);
    node.eventually(|fake| fake.last().config.model.services.len() == 1).await;
    assert!(started.elapsed() >= SETTLE);
    assert_eq!(node.fake.last().healthy.len(), 2);
}

#[tokio::test]
async fn a_host_that_fails_leaves_the_kernel_and_below_quorum_the_vip_is_withdrawn() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let check = format!("    checks: [{{type: tcp, port: {port}, interval: 20ms, rise: 1, fall: 2}}]\n");
    let text = format!(
        "director: {{interfaces: [eth0]}}\npools:\n  web:\n    hosts: {{a: {{address4: 192.0.2.1}}}}\n{check}services: \
         [{{vip: 198.51.100.1, port: 80, pool: web}}]\nbgp: {{driver: bird, bird: {{include: DIR/c, control: DIR/s}}}}\n"
    );
    let mut node = Node::start(&text, Fake::default()).await;
    node.announces(&[1]).await;
    drop(listener);
    node.announces(&[]).await;
    node.eventually(|fake| fake.last().healthy.is_empty()).await;
    let status = node.status_when(|status| !status.hosts[0].healthy).await;
    assert_eq!(status.services[0].reason.as_deref(), Some("0 of 1 hosts work, 1 needed"));
    assert!(status.hosts[0].reason.is_some());
}

#[tokio::test]
async fn a_path_that_is_lost_counts_and_the_kernel_is_asked_again() {
    let mut node = Node::start(TWO_VIPS, Fake::default()).await;
    node.announces(&[1, 2]).await;
    let before = node.fake.wants().len();
    node.fake.paths.send_replace(Paths::from([(id("a"), Path::default()), (id("b"), Path::default())]));
    node.announces(&[]).await;
    node.eventually(|fake| fake.wants().len() > before).await;
}

#[tokio::test]
async fn next_hops_that_change_while_something_else_is_done_are_written() {
    let mut node = Node::start(TWO_VIPS, Fake::default()).await;
    node.announces(&[1, 2]).await;
    for _ in 0..30 {
        let before = node.fake.wants().len();
        // Both are there when the runner looks, and it takes either first. The address of a neighbour is another one, say, while
        // the paths are as they were.
        node.fake.paths.send_modify(|_| {});
        node.commands.try_send(Command::Reload(None)).unwrap();
        node.eventually(|fake| fake.wants().len() > before).await;
        // Nothing else is under way.
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_service_that_the_kernel_refuses_is_withheld_with_its_reason_and_tried_again() {
    let fake = Fake::default();
    *fake.refusal.lock().unwrap() = Some("map full".into());
    let mut node = Node::start(TWO_VIPS, fake).await;
    let status = node.status_when(|status| !status.services.is_empty()).await;
    let status = match status.services[0].reason.as_deref() {
        Some("not in the kernel: map full") => status,
        _ => {
            node.status_when(|s| s.services[0].reason.as_deref() == Some("not in the kernel: map full")).await
        }
    };
    assert!(!status.ready);
    *node.fake.refusal.lock().unwrap() = None;
    node.announces(&[1, 2]).await;
}

#[tokio::test]
async fn a_detach_that_cannot_withdraw_detaches_nothing() {
    let mut node = Node::start(TWO_VIPS, Fake::default()).await;
    node.announces(&[1, 2]).await;
    let (reply, answer) = oneshot::channel();
    node.commands.send(Command::Detach(reply)).await.unwrap();
    let error = answer.await.unwrap().unwrap_err();
    assert!(error.starts_with("cannot withdraw, so nothing was detached: "), "{error}");
    assert_eq!(*node.fake.detached.lock().unwrap(), 0);
    assert!(!node.task.is_finished());
}

#[tokio::test]
async fn an_agent_that_stops_leaves_all_as_it_is() {
    let mut node = Node::start(TWO_VIPS, Fake::default()).await;
    node.announces(&[1, 2]).await;
    node.commands.send(Command::Stop).await.unwrap();
    timeout(lb_test_support::PATIENCE, &mut node.task).await.unwrap().unwrap().unwrap();
    assert_eq!(*node.fake.detached.lock().unwrap(), 0);
    assert_eq!(node.routes.borrow().as_ref().map(|want| want.routes.len()), Some(2));
}

#[tokio::test]
async fn a_server_that_only_answers_agent_checks_touches_no_kernel() {
    let mut node = Node::start("agent_check: {listen: \"127.0.0.1:0\"}\n", Fake::default()).await;
    assert!(node.status_when(|status| status.ready).await.services.is_empty());
    assert_eq!(*node.fake.opened.lock().unwrap(), 0);
}

#[tokio::test]
async fn the_api_answers_on_its_socket_until_a_detach() {
    let text = TWO_VIPS.split("bgp:").next().unwrap().to_owned()
        + "agent_check: {listen: \"127.0.0.1:0\", file: DIR/up}\n";
    let folder = tempfile::tempdir().unwrap();
    let (file, config) = written(&folder, &text);
    let (socket, fake) = (config.api.clone(), Arc::new(Fake::default()));
    let missing = client::request(&socket, Method::GET, "/v1/status").await.unwrap_err();
    assert!(matches!(missing, ClientError::NoAgent(_)));
    assert!(
        missing.to_string().ends_with("; start it with `lb agent`, or name its socket with --api"),
        "{missing}"
    );

    let agent = tokio::spawn(super::run(file.clone(), config.clone(), fake.clone()));
    let status = loop {
        if let Ok(body) = client::request(&socket, Method::GET, "/v1/status").await {
            let status: Status = serde_json::from_slice(&body).unwrap();
            if status.ready {
                break status;
            }
        }
        sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(status.counters["director"]["forwarded"], 7);
    assert_eq!(status.agent_check.unwrap().answer, "up");
    let second = super::run(file.clone(), config, fake.clone()).await.unwrap_err().to_string();
    assert!(second.starts_with("another agent runs and answers at "), "{second}");

    fs::write(&file, "nonsense: 1\n").unwrap();
    let refused = client::request(&socket, Method::POST, "/v1/reload").await.unwrap_err().to_string();
    assert!(refused.contains("lb.yaml:1:1: nonsense: unknown key; known here: node, api"), "{refused}");
    let page = client::request(&socket, Method::GET, "/metrics").await.unwrap();
    let page = String::from_utf8(page.to_vec()).unwrap();
    for line in
        ["lb_ready 1", "lb_reload_failures_total 1", "lb_config_valid 0", "lb_director_forwarded_total 7"]
    {
        assert!(page.lines().any(|found| found == line), "{line} not in\n{page}");
    }
    let wrong = client::request(&socket, Method::GET, "/v1/x").await.unwrap_err().to_string();
    assert!(wrong.starts_with("no such path: /v1/x; there are GET /v1/status"), "{wrong}");

    client::request(&socket, Method::POST, "/v1/detach").await.unwrap();
    timeout(lb_test_support::PATIENCE, agent).await.unwrap().unwrap().unwrap();
    assert_eq!(*fake.detached.lock().unwrap(), 1);
    assert!(!socket.exists());
}
