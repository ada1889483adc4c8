//! The part of `lb status` that says who holds which connections, and what became of packets.

use super::table;
use crate::agent::dataplane::Account;
use crate::agent::status::Status;
use crate::connections::{Explanation, HostConnections, Other};

/// What is said of hosts that do not answer, and of connections and packets; nothing where there is nothing.
pub(super) fn text(status: &Status) -> String {
    let doubts =
        status.doubts.iter().map(|(host, doubt)| vec![host.clone(), format!("{doubt:?}").to_lowercase()]);
    let connections = status.connections.iter().flatten();
    let draining = connections.clone().filter(|count| count.draining && count.problem.is_none());
    let by_generation = draining.flat_map(|count| {
        count.by_generation.iter().map(|by| {
            let host = format!("{}/{}", count.pool, count.host);
            vec![host, by.vip.to_string(), explained(by.generation), by.established.to_string()]
        })
    });
    let mut page = table(["DOUBTED HOST", "VERDICT"], doubts.collect());
    page += &table(
        ["CONNECTIONS OF", "STATE", "ESTABLISHED", "HALF OPEN", "NEEDS GENERATION", "SAFE TO REMOVE"],
        connections.map(host).collect(),
    );
    page += &table(["DRAINING", "VIP", "GENERATION", "ESTABLISHED"], by_generation.collect());
    page += &table(
        ["PACKETS TO", "GENERATION", "LOCAL", "RESCUED 1/2/3/4+", "PASSED ON", "LAST RESORT", "OVER BUDGET"],
        status.accounts.iter().map(account).collect(),
    );
    page
}

fn host(count: &HostConnections) -> Vec<String> {
    let name = format!("{}/{}", count.pool, count.host);
    let state = if count.draining { "drain" } else { "active" };
    if let Some(problem) = &count.problem {
        let unknown = || "?".to_owned();
        return vec![name, state.into(), unknown(), unknown(), unknown(), format!("no: {problem}")];
    }
    let needs: Vec<String> =
        count.needs.iter().map(|(number, connections)| format!("{number} ({connections})")).collect();
    let needs = if needs.is_empty() { "-".into() } else { needs.join(", ") };
    let safe = match (count.draining, count.safe) {
        (false, _) => "-",
        (true, true) => "yes",
        (true, false) => "no",
    };
    vec![name, state.into(), count.established.to_string(), count.half_open.to_string(), needs, safe.into()]
}

fn explained(explanation: Explanation) -> String {
    match explanation {
        Explanation::Generation(number) => number.to_string(),
        Explanation::Other(Other::Backup) => "backup".into(),
        Explanation::Other(Other::Unexplained) => "unexplained".into(),
    }
}

fn account(account: &Account) -> Vec<String> {
    vec![
        account.service.to_string(),
        account.generation.map_or("unknown".into(), |number| number.to_string()),
        account.local.to_string(),
        account.rescued.map(|count| count.to_string()).join("/"),
        account.passed_on.to_string(),
        account.last_resort.to_string(),
        account.over_budget.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connections::ByGeneration;
    use crate::model::Doubt;

    #[test]
    fn a_draining_host_is_shown_with_what_it_holds_and_whether_it_is_safe() {
        let count = |host: &str, draining, established| HostConnections {
            pool: "web".into(),
            host: host.into(),
            draining,
            established,
            safe: draining && established == 0,
            ..HostConnections::default()
        };
        let by_generation = vec![ByGeneration {
            vip: [198, 51, 100, 1].into(),
            generation: Explanation::Generation(1),
            established: 3,
        }];
        let connections = vec![
            count("a", false, 9),
            HostConnections { by_generation, needs: [(1, 3)].into(), ..count("b", true, 3) },
            count("c", true, 0),
            HostConnections { problem: Some("it does not answer".into()), ..count("d", true, 0) },
        ];
        let status = Status {
            doubts: [("web/d".to_owned(), Doubt::Dead)].into(),
            connections: Some(connections),
            accounts: vec![Account::example()],
            ..Status::default()
        };
        let expected = "
DOUBTED HOST  VERDICT
web/d         dead

CONNECTIONS OF  STATE   ESTABLISHED  HALF OPEN  NEEDS GENERATION  SAFE TO REMOVE
web/a           active  9            0          -                 -
web/b           drain   3            0          1 (3)             no
web/c           drain   0            0          -                 yes
web/d           drain   ?            ?          ?                 no: it does not answer

DRAINING  VIP           GENERATION  ESTABLISHED
web/b     198.51.100.1  1           3

PACKETS TO           GENERATION  LOCAL  RESCUED 1/2/3/4+  PASSED ON  LAST RESORT  OVER BUDGET
198.51.100.1:80/tcp  2           9      4/3/2/1           6          7            8
";
        assert_eq!(text(&status), expected);
    }
}
