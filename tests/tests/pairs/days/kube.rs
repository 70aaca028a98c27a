//! The kube crate.

use std::path::Path;

use futures_util::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{
    ApiResource, AttachParams, DeleteParams, DynamicObject, ListParams, LogParams, Patch,
    PatchParams, PostParams, WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::discovery::Discovery;
use kube::{Api, Client, Config, Error};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Day, compare};

const LABEL: &str = r#"{"metadata":{"labels":{"a":"b"}}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_the_kube_crate_is_the_same() {
    compare("kube", async |kubeconfig, _| Some(day(kubeconfig).await)).await;
}

/// Steps as they are taken.
#[derive(Default)]
struct Steps(Day);

impl Steps {
    fn took(&mut self, name: &str, outcome: Result<impl Serialize, Error>) {
        let outcome = match outcome {
            Ok(value) => serde_json::to_value(value).unwrap(),
            Err(Error::Api(status)) => json!({"refused": status}),
            Err(error) => json!({"failed": error.to_string()}),
        };
        self.0.push((name.to_owned(), outcome));
    }
}

async fn day(kubeconfig: &Path) -> Day {
    let file = Kubeconfig::read_from(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(file, &options).await;
    let client = Client::try_from(config.unwrap()).unwrap();
    let mut steps = Steps::default();
    steps.took(
        "api-resources",
        resources(Discovery::new(client.clone()).run().await),
    );
    steps.took(
        "api-resources, aggregated",
        resources(Discovery::new(client.clone()).run_aggregated().await),
    );
    maps(&mut steps, &client).await;
    let policy = json!({"reinvocationPolicy": "Never", "failurePolicy": "Fail", "mutations": []});
    let claim = json!({"devices": {"requests": []}});
    for (group, kind, plural, spec) in [
        (
            "admissionregistration.k8s.io",
            "MutatingAdmissionPolicy",
            "mutatingadmissionpolicies",
            policy,
        ),
        ("resource.k8s.io", "ResourceClaim", "resourceclaims", claim),
    ] {
        let gvk = GroupVersionKind::gvk(group, "v1", kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
        let mut object = DynamicObject::new("o", &resource);
        object.data = json!({"spec": spec});
        let api = match kind {
            "ResourceClaim" => Api::default_namespaced_with(client.clone(), &resource),
            _ => Api::all_with(client.clone(), &resource),
        };
        dynamic(&mut steps, &api, &object, kind).await;
    }
    pod(&mut steps, &Api::default_namespaced(client.clone())).await;
    for (name, path) in [
        ("explain policies", "apis/admissionregistration.k8s.io/v1"),
        ("explain claims", "apis/resource.k8s.io/v1"),
    ] {
        let request = http::Request::get(format!("/openapi/v3/{path}"));
        let document = client.request::<Value>(request.body(Vec::new()).unwrap());
        steps.took(name, document.await);
    }
    steps.0
}

/// Everything that discovery found, in its order.
fn resources(found: Result<Discovery, Error>) -> Result<Value, Error> {
    let found = found?;
    let groups = found.groups_alphabetical().into_iter().map(|group| {
        let versions = group.versions().map(|version| {
            let resources = group.versioned_resources(version);
            let resources = resources
                .iter()
                .map(|(resource, capabilities)| json!([resource, format!("{capabilities:?}")]));
            json!([version, resources.collect::<Vec<_>>()])
        });
        json!([group.name(), versions.collect::<Vec<_>>()])
    });
    Ok(groups.collect::<Vec<_>>().into())
}

async fn maps(steps: &mut Steps, client: &Client) {
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let map = |value: &str| {
        let mut map = ConfigMap::default();
        map.metadata.name = Some("m".to_owned());
        map.data = Some([("k".to_owned(), value.to_owned())].into());
        map
    };
    let post = PostParams::default();
    steps.took("create", maps.create(&post, &map("one")).await);
    steps.took("create again", maps.create(&post, &map("one")).await);
    steps.took("get", maps.get("m").await);
    steps.took("list", maps.list(&ListParams::default()).await);
    let page = ListParams::default().limit(1);
    steps.took("list in pages", maps.list(&page).await);
    let label: Value = serde_json::from_str(LABEL).unwrap();
    let patched = maps
        .patch("m", &PatchParams::default(), &Patch::Strategic(&label))
        .await;
    steps.took("patch", patched);
    steps.took("replace", maps.replace("m", &post, &map("two")).await);
    steps.took("watch", first(&maps, "metadata.name=m").await);
    let deleted = maps.delete("m", &DeleteParams::default()).await;
    steps.took("delete", deleted.map(|gone| gone.either(told, told)));
    steps.took("get what is gone", maps.get("m").await);
}

async fn dynamic(steps: &mut Steps, api: &Api<DynamicObject>, object: &DynamicObject, kind: &str) {
    let name = |what: &str| format!("{what} {kind}");
    let post = PostParams::default();
    steps.took(&name("create"), api.create(&post, object).await);
    steps.took(
        &format!("create {kind} again"),
        api.create(&post, object).await,
    );
    steps.took(&name("get"), api.get("o").await);
    steps.took(&name("list"), api.list(&ListParams::default()).await);
    let apply = PatchParams::apply("day").force();
    let applied = api.patch("o", &apply, &Patch::Apply(object)).await;
    steps.took(&name("apply"), applied);
    let label: Value = serde_json::from_str(LABEL).unwrap();
    let patched = api
        .patch("o", &PatchParams::default(), &Patch::Merge(&label))
        .await;
    steps.took(&name("patch"), patched);
    let selected = api.list(&ListParams::default().labels("a=b")).await;
    steps.took(&name("select"), selected);
    steps.took(&name("watch"), first(api, "metadata.name=o").await);
    let deleted = api.delete("o", &DeleteParams::default()).await;
    steps.took(&name("delete"), deleted.map(|gone| gone.either(told, told)));
    steps.took(&format!("get {kind} that is gone"), api.get("o").await);
}

/// A deletion is answered with the object, or with a Status.
fn told(answer: impl Serialize) -> Value {
    json!(answer)
}

/// The first event of a watch.
async fn first<K>(api: &Api<K>, fields: &str) -> Result<Value, Error>
where
    K: Clone + std::fmt::Debug + Serialize + serde::de::DeserializeOwned,
{
    let params = WatchParams::default().fields(fields);
    let events = api.watch(&params, "0").await?;
    let event = events.boxed().try_next().await?;
    Ok(serde_json::to_value(event).unwrap())
}

async fn pod(steps: &mut Steps, pods: &Api<Pod>) {
    let last = LogParams {
        tail_lines: Some(2),
        ..LogParams::default()
    };
    steps.took("logs", pods.logs("p", &last).await);
    let other = LogParams {
        container: Some("other".to_owned()),
        ..LogParams::default()
    };
    steps.took("logs of another container", pods.logs("p", &other).await);
    steps.took("follow logs", followed(pods).await);
    let script = ["sh", "-c", "echo out; echo err >&2; exit 3"];
    steps.took("exec", run(pods, &script, None).await.map(texts));
    let input = "said ".repeat(10_000);
    let cat = run(pods, &["cat"], Some(input.as_bytes())).await;
    steps.took("exec with input", cat.map(texts));
    let missing = run(pods, &["nano"], None).await;
    steps.took("exec of nothing", missing.map(texts));
    steps.took("cp", copied(pods).await);
    let hello = "hello ".repeat(10_000);
    steps.took("port-forward", forwarded(pods, &hello).await);
    steps.took("port-forward to nothing", refused(pods).await);
}

async fn followed(pods: &Api<Pod>) -> Result<Vec<String>, Error> {
    let params = LogParams {
        follow: true,
        ..LogParams::default()
    };
    let lines = pods.log_stream("p", &params).await?.lines();
    Ok(lines.take(5).try_collect().await.unwrap())
}

/// What a command wrote, and how it ended.
struct Ran {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    status: Value,
}

fn texts(ran: Ran) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    json!([text(&ran.stdout), text(&ran.stderr), ran.status])
}

async fn run(pods: &Api<Pod>, command: &[&str], input: Option<&[u8]>) -> Result<Ran, Error> {
    let params = AttachParams::default().stdin(input.is_some()).stderr(true);
    let mut process = pods.exec("p", command.to_vec(), &params).await?;
    let status = process.take_status().unwrap();
    let (mut stdout, mut stderr) = (process.stdout().unwrap(), process.stderr().unwrap());
    let stdin = process.stdin();
    let mut ran = Ran {
        stdout: Vec::new(),
        stderr: Vec::new(),
        status: Value::Null,
    };
    let write = async {
        if let (Some(mut stdin), Some(input)) = (stdin, input) {
            stdin.write_all(input).await.unwrap();
            stdin.shutdown().await.unwrap();
        }
    };
    let (_, _, (), status) = tokio::join!(
        stdout.read_to_end(&mut ran.stdout),
        stderr.read_to_end(&mut ran.stderr),
        write,
        status,
    );
    ran.status = serde_json::to_value(status).unwrap();
    Ok(ran)
}

async fn copied(pods: &Api<Pod>) -> Result<Value, Error> {
    let content: Vec<u8> = (0..256_000u32).map(|at| at as u8).collect();
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    archive
        .append_data(&mut header, "copied", content.as_slice())
        .unwrap();
    let archive = archive.into_inner().unwrap();
    let there = run(pods, &["tar", "xf", "-", "-C", "/tmp"], Some(&archive)).await?;
    let back = run(pods, &["tar", "cf", "-", "/tmp/copied"], None).await?;
    let mut archive = tar::Archive::new(back.stdout.as_slice());
    let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
    let mut read = Vec::new();
    std::io::Read::read_to_end(&mut entry, &mut read).unwrap();
    let name = entry.path().unwrap().display().to_string();
    assert!(read == content, "{name} came back otherwise");
    Ok(json!([texts(there), name, back.status]))
}

/// What a port sends back, and that there is no error of it.
async fn forwarded(pods: &Api<Pod>, text: &str) -> Result<Value, Error> {
    let mut forward = pods.portforward("p", &[80]).await?;
    let mut stream = forward.take_stream(80).unwrap();
    let error = forward.take_error(80).unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut said = vec![0; text.len()];
    stream.read_exact(&mut said).await.unwrap();
    drop(stream);
    forward.join().await.unwrap();
    Ok(json!([String::from_utf8(said).unwrap(), error.await]))
}

async fn refused(pods: &Api<Pod>) -> Result<Option<String>, Error> {
    let mut forward = pods.portforward("p", &[81]).await?;
    let error = forward.take_error(81).unwrap();
    Ok(error.await)
}
