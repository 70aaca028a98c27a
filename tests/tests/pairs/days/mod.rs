//! The usual day of each client that people use: at the newest server itself, and through the agent of the oldest. Whatever a client says
//! of a step is compared whole.

mod kube;
mod kubectl;
mod scripts;

use std::path::{Path, PathBuf};

use http::Method;
use mvp_tests::agent::TestAgent;
use mvp_tests::client::{Client, empty, full};
use mvp_tests::fixtures::{direct, patient, plane};
use mvp_tests::sim::ControlPlane;
use mvp_tests::sim::pki::KubeconfigUser;
use serde_json::{Value, json};

/// Fields whose values differ between two days at the same server, wherever they are: their values are not compared.
const DIFFERS: [(&str, &str); 7] = [
    (
        "uid",
        "an object gets another one each time that it is made",
    ),
    ("resourceVersion", "every write in the plane takes the next"),
    ("creationTimestamp", "the time of day"),
    ("time", "the time of day, of managed fields"),
    ("continue", "it has a resource version inside"),
    ("date", "the time of day, as a field of an answer"),
    ("audit-id", "each request has its own"),
];
/// Fields that are left out of the comparison. There are no others.
const LEFT_OUT: [(&str, &str); 1] = [(
    "storageVersionHash",
    "each server tells how it stores a type itself; the agent passes the local server's on (docs/merge.md)",
)];

/// Lines that a client may write or not, whatever the server does, with the reason. There are no others.
const BY_CHANCE: [(&str, &str); 1] = [(
    "Unknown stream id 1, discarding message",
    "kubectl complains if the empty message with which a server opens its channels (wsstream) comes before client-go has made the stream",
)];

/// Steps that a healthy server refuses have one of these words.
const REFUSED: [&str; 3] = ["again", "gone", "another container"];
/// And what comes of a program or a port that is not there is told by each client in its own way.
const OPEN: &str = "nothing";

/// The steps of a day with what the client said of each.
type Day = Vec<(String, Value)>;

/// A way to the control plane.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// The newest server, without an agent.
    Direct,
    /// The agent in front of the oldest server.
    Through,
    /// The oldest server, without an agent.
    Without,
}

/// Servers of three versions, and an agent of the oldest.
struct Stage {
    plane: ControlPlane,
    agent: TestAgent,
    admin: Client,
}

impl Stage {
    async fn new() -> Self {
        let plane = plane(&[33, 35, 36]).await;
        let agent = TestAgent::start_with(&plane, "cp-a", patient)
            .await
            .unwrap();
        let admin = direct(&plane, plane.server(2)).await;
        Self {
            plane,
            agent,
            admin,
        }
    }

    /// A new pod `p` that runs, with a container that listens on port 80. There is one pod of this name at a time.
    async fn pod(&self) {
        const PODS: &str = "/api/v1/namespaces/default/pods";
        let one = format!("{PODS}/p");
        let old = format!("{one}?gracePeriodSeconds=0");
        let admin = &self.admin;
        admin
            .call(Method::DELETE, &old, &[], empty())
            .await
            .unwrap();
        let container = json!({"name": "c", "image": "i", "ports": [{"containerPort": 80}]});
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p"}, "spec": {"containers": [container]},
        });
        let made = admin.post_json(PODS, &[], &pod).await.unwrap();
        assert_eq!(made.status, 201, "{}", made.text());
        pod["status"] = json!({"phase": "Running"});
        let headers = [("content-type", "application/merge-patch+json")];
        let status = format!("{one}/status");
        let runs = admin.call(Method::PATCH, &status, &headers, full(pod.to_string()));
        let runs = runs.await.unwrap();
        assert_eq!(runs.status, 200, "{}", runs.text());
    }

    fn kubeconfig(&self, way: Way) -> PathBuf {
        let url = match way {
            Way::Direct => self.plane.server(2).url(),
            Way::Through => format!("https://{}", self.agent.address),
            Way::Without => self.plane.server(0).url(),
        };
        let user = KubeconfigUser::Certificate(self.plane.pki().admin().unwrap());
        let file = format!("{way:?}.kubeconfig");
        self.plane.kubeconfig(&file, &url, &user).unwrap()
    }
}

/// Lives a client's day in each of the ways.
///
/// # Panics
/// If the day through the agent is not the direct one, if the direct one is no good day, or if an agent is not needed for one.
async fn compare(client: &str, day: impl AsyncFn(&Path, Way) -> Option<Day>) {
    let stage = Stage::new().await;
    let mut days = Vec::new();
    for way in [Way::Direct, Way::Through, Way::Without] {
        stage.pod().await;
        let Some(mut day) = day(&stage.kubeconfig(way), way).await else {
            return;
        };
        day.iter_mut().for_each(|(_, outcome)| normal(outcome));
        days.push(day);
    }
    let [direct, through, without] = &days[..] else {
        return;
    };
    for (name, outcome) in direct {
        let refused = outcome.get("refused").is_some() || outcome.get("failed").is_some();
        let expected = REFUSED.iter().any(|word| name.contains(word));
        let right = refused == expected || name.contains(OPEN);
        assert!(right, "{client}: {name}, direct: {outcome:#}");
    }
    for ((name, direct), (_, through)) in direct.iter().zip(through) {
        let other = difference(direct, through, String::new());
        assert_eq!(
            other, None,
            "{client}: {name}: direct and through the agent"
        );
    }
    assert_eq!(through, direct, "{client}: the steps");
    let worse = direct.iter().zip(without).filter(|(a, b)| a != b);
    let worse: Vec<&str> = worse.map(|((name, _), _)| name.as_str()).collect();
    println!("{client}: at the oldest server itself differ: {worse:?}");
    // What no step can hide: these types are of later versions.
    for word in ["create Mut", "create Res", "api-resources", "explain pol"] {
        assert!(
            worse.iter().any(|name| name.starts_with(word)),
            "{client}: {word}: {worse:?}"
        );
    }
}

/// Where two outcomes begin to differ, and what stands there in each.
fn difference(one: &Value, other: &Value, at: String) -> Option<String> {
    match (one, other) {
        (Value::Object(fields), Value::Object(others)) if fields.keys().eq(others.keys()) => {
            let mut pairs = fields.iter().zip(others.values());
            pairs.find_map(|((name, one), other)| difference(one, other, format!("{at}.{name}")))
        }
        (Value::Array(values), Value::Array(others)) if values.len() == others.len() => {
            let mut pairs = values.iter().zip(others).enumerate();
            pairs.find_map(|(index, (one, other))| difference(one, other, format!("{at}[{index}]")))
        }
        _ => (one != other).then(|| format!("{at}: {one} and {other}")),
    }
}

/// Puts the field's name in the place of what differs.
fn normal(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !LEFT_OUT.iter().any(|(left_out, _)| left_out == name));
            for (name, value) in fields {
                match DIFFERS.iter().find(|(differs, _)| differs == name) {
                    Some((differs, _)) if value.is_string() => *value = json!(differs),
                    _ => normal(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(normal),
        Value::String(text) => {
            let by_chance = |line: &&str| BY_CHANCE.iter().any(|(words, _)| line.contains(words));
            if text.lines().any(|line| by_chance(&line)) {
                let lines = text.split_inclusive('\n');
                *text = lines.filter(|line| !by_chance(line)).collect();
            }
        }
        _ => {}
    }
}

#[test]
fn only_what_differs_by_nature_is_made_the_same() {
    let mut value = json!({"items": [{"metadata": {"uid": "1", "name": "n"}, "uid": {"time": 3}}]});
    normal(&mut value);
    let expected =
        json!({"items": [{"metadata": {"uid": "uid", "name": "n"}, "uid": {"time": 3}}]});
    assert_eq!(value, expected);
    let mut said =
        json!({"stderr": "E1 websocket.go:1] Unknown stream id 1, discarding message\nerr\n"});
    normal(&mut said);
    assert_eq!(said, json!({"stderr": "err\n"}));
}

#[test]
fn the_first_difference_is_found_wherever_it_is() {
    let one = json!({"a": [1, {"b": "x"}], "c": null});
    let other = json!({"a": [1, {"b": "y"}], "c": 1});
    assert_eq!(difference(&one, &one, String::new()), None);
    let found = difference(&one, &other, String::new());
    assert_eq!(found.as_deref(), Some(r#".a[1].b: "x" and "y""#));
    let fewer = difference(&one, &json!({"a": []}), String::new());
    assert!(fewer.is_some());
}
