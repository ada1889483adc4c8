//! `POST /v1/trace`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::TWO_VIPS;
use super::fake::{Fake, written};
use crate::agent;
use crate::cli::client::{self, ClientError};
use crate::model::Protocol;
use crate::trace::packet::{first_of, to_hex};
use crate::trace::{Ends, Question, Trace};

/// Asks an agent of this configuration, once it answers.
async fn asked(text: &str, frame: &str) -> Result<Trace, ClientError> {
    let folder = tempfile::tempdir().unwrap();
    let (file, config) = written(&folder, text);
    let socket = config.api.clone();
    let agent = tokio::spawn(agent::run(file, config, Arc::new(Fake::default())));
    let question = Question { frame: frame.into() };
    let answer = async {
        loop {
            match client::post(&socket, "/v1/trace", &question).await {
                // Until something has been applied, there is nothing to tell.
                Err(ClientError::NoAgent(_)) => {}
                Err(ClientError::Errors(errors))
                    if errors[0].contains("is no director") && text == TWO_VIPS => {}
                answer => return answer,
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    let answer = timeout(lb_test_support::PATIENCE, answer).await.unwrap();
    agent.abort();
    answer.map(|body| serde_json::from_slice(&body).unwrap())
}

fn frame() -> String {
    let source = "203.0.113.7:40000".parse().unwrap();
    let destination = "198.51.100.1:80".parse().unwrap();
    to_hex(&first_of(&Ends { source, destination, protocol: Protocol::Tcp }, 0).unwrap())
}

#[tokio::test]
async fn a_director_tells_where_a_packet_goes_and_what_its_kernel_holds() {
    let trace = asked(TWO_VIPS, &frame()).await.unwrap();
    assert_eq!((&*trace.verdict, &*trace.reason), ("tx", "forwarded"));
    let way = trace.way.unwrap();
    assert_eq!((&*way.pool, way.owners.len(), way.in_kernel), ("web", 2, Some(false)));
    assert_eq!(way.next_hop.unwrap().interface, "lo");
    // The fake kernel holds no real table.
    assert_eq!(trace.notes, ["the kernel still goes by generation 1, table 00000000000000ab"]);
}

#[tokio::test]
async fn what_is_no_frame_is_refused() {
    let error = asked(TWO_VIPS, "zz").await.unwrap_err().to_string();
    assert!(error.starts_with("'z' is no hexadecimal digit"), "{error}");
}

#[tokio::test]
async fn a_node_that_is_no_director_sends_elsewhere() {
    let error = asked("agent_check: {listen: \"127.0.0.1:0\"}\n", &frame()).await.unwrap_err();
    assert_eq!(error.to_string(), "this node is no director; ask one, or use --offline");
}
