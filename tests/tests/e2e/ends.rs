//! What clients make of a connection that is ended under them, as retirement ends those of before: what docs/kernel.md says of
//! client-go, hyper and Python is seen here.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use mvp_tests::cutter::{Cutter, End};
use mvp_tests::fixtures::{CONFIG_MAPS, plane};
use mvp_tests::kubectl::Kubectl;
use mvp_tests::python::Python;
use mvp_tests::sim::ControlPlane;
use mvp_tests::sim::pki::KubeconfigUser;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// One request on the connection that the client keeps, or on a new one if it has none.
#[derive(Clone, Copy, Debug)]
enum Ask<'a> {
    List,
    Create(&'a str),
}

trait Asks {
    /// Whether the client's user gets an answer.
    async fn ask(&mut self, ask: Ask<'_>) -> bool;
}

/// What a client does when its answer does not come.
struct Does {
    /// A read is sent again, so that its user notices nothing.
    repeats_reads: bool,
}

/// `how`: for messages.
async fn check(
    how: &str,
    client: &mut impl Asks,
    (plane, cutter): (&ControlPlane, &Cutter),
    does: Does,
) {
    let received = |method: &str| {
        let requests = plane.server(0).requests();
        let of = requests
            .iter()
            .filter(|r| r.method == method && r.path() == CONFIG_MAPS);
        of.count()
    };
    for end in [End::Fin, End::Rst] {
        let how = format!("{how}, {end:?}");
        assert!(client.ask(Ask::List).await, "{how}: at first");
        cutter.end(end).await.unwrap();
        assert!(
            client.ask(Ask::List).await,
            "{how}: after an end in silence"
        );

        let before = received("GET");
        cutter.end_at_the_answer(end);
        let (answered, _) = tokio::join!(client.ask(Ask::List), cutter.withheld());
        assert_eq!(answered, does.repeats_reads, "{how}: a read under way");
        let times = if does.repeats_reads { 2 } else { 1 };
        assert_eq!(received("GET") - before, times, "{how}: a read under way");

        assert!(client.ask(Ask::List).await, "{how}: afterwards");
        let before = received("POST");
        cutter.end_at_the_answer(end);
        let name = format!("made-{end:?}").to_lowercase();
        let (answered, _) = tokio::join!(client.ask(Ask::Create(&name)), cutter.withheld());
        assert!(
            !answered,
            "{how}: nobody knows what became of a write under way"
        );
        assert_eq!(
            received("POST") - before,
            1,
            "{how}: and nobody sends it again"
        );
    }
}

async fn setup() -> (ControlPlane, Cutter) {
    let plane = plane(&[36]).await;
    let cutter = Cutter::start(plane.server(0).addr()).await.unwrap();
    (plane, cutter)
}

fn kubeconfig(plane: &ControlPlane, cutter: &Cutter) -> PathBuf {
    let user = KubeconfigUser::Certificate(plane.pki().admin().unwrap());
    let url = format!("https://{}", cutter.address);
    plane.kubeconfig("cut.kubeconfig", &url, &user).unwrap()
}

/// The kube crate, and so hyper.
struct Hyper(Api<ConfigMap>);

impl Asks for Hyper {
    async fn ask(&mut self, ask: Ask<'_>) -> bool {
        match ask {
            Ask::List => self.0.list(&ListParams::default()).await.is_ok(),
            Ask::Create(name) => {
                let mut object = ConfigMap::default();
                object.metadata.name = Some(name.to_owned());
                self.0.create(&PostParams::default(), &object).await.is_ok()
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kube_crate_survives_an_end_in_silence_and_repeats_nothing() {
    let (plane, cutter) = setup().await;
    let file = Kubeconfig::read_from(kubeconfig(&plane, &cutter)).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(file, &options).await;
    let client = Client::try_from(config.unwrap()).unwrap();
    let mut client = Hyper(Api::namespaced(client, "default"));
    let does = Does {
        repeats_reads: false,
    };
    check("kube", &mut client, (&plane, &cutter), does).await;
}

impl Asks for Python {
    async fn ask(&mut self, ask: Ask<'_>) -> bool {
        let line = match ask {
            Ask::List => "GET".to_owned(),
            Ask::Create(name) => format!("POST {name}"),
        };
        tokio::task::block_in_place(|| self.answer(&line)).unwrap() == "answered"
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_client_survives_an_end_in_silence_and_repeats_reads() {
    let (plane, cutter) = setup().await;
    let Some(mut client) = Python::start("ask.py", &kubeconfig(&plane, &cutter)) else {
        return;
    };
    let does = Does {
        repeats_reads: true,
    };
    check("Python", &mut client, (&plane, &cutter), does).await;
}

/// `kubectl proxy`: a client-go that stays.
struct ClientGo {
    proxy: Child,
    address: String,
}

impl ClientGo {
    fn start(kubectl: &Kubectl) -> Self {
        let mut command = kubectl.command(&["proxy", "--port=0"]);
        let mut proxy = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let said = proxy.stdout.take().unwrap();
        BufReader::new(said).read_line(&mut line).unwrap();
        let address = line.trim().rsplit(' ').next().unwrap().to_owned();
        Self { proxy, address }
    }
}

impl Drop for ClientGo {
    fn drop(&mut self) {
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
    }
}

impl Asks for ClientGo {
    async fn ask(&mut self, ask: Ask<'_>) -> bool {
        let (method, body) = match ask {
            Ask::List => ("GET", String::new()),
            Ask::Create(name) => (
                "POST",
                format!(
                    r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"{name}"}}}}"#
                ),
            ),
        };
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let request = format!(
            "{method} {CONFIG_MAPS} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.address,
            body.len(),
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.starts_with("HTTP/1.1 20")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_go_survives_an_end_in_silence_and_repeats_nothing() {
    let (plane, cutter) = setup().await;
    let Some(kubectl) = Kubectl::find(&kubeconfig(&plane, &cutter)) else {
        return;
    };
    let mut client = ClientGo::start(&kubectl);
    let does = Does {
        repeats_reads: false,
    };
    check("client-go", &mut client, (&plane, &cutter), does).await;
}
