//! Clients that are programs: curl, also before `kubectl proxy`, and nghttp2's own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use mvp_tests::kubectl::Kubectl;
use mvp_tests::sim::pki::KubeconfigUser;

use super::{Answer, Foreign, HALF, Stage};

/// Some of an answer that does not end.
const SOME: usize = 100_000;

/// curl, one process for each step.
pub(super) struct Curl {
    arguments: Vec<String>,
    url: String,
    /// As curl says it.
    version: &'static str,
    folder: PathBuf,
    upload: Option<Child>,
    /// What it talks to, if that is not the agent.
    proxy: Option<Child>,
}

impl Curl {
    /// Straight to the agent, over HTTP/2.
    pub(super) fn new(stage: &Stage) -> Self {
        let path = |file: &str| stage.plane.pki().path(file).to_str().unwrap().to_owned();
        let arguments = [
            ["--http2", "--silent"].map(str::to_owned),
            ["--cacert".to_owned(), path("ca.crt")],
            ["--cert".to_owned(), path("admin.crt")],
            ["--key".to_owned(), path("admin.key")],
        ];
        Self {
            arguments: arguments.concat(),
            url: format!("https://{}", stage.address),
            version: "2",
            folder: stage.plane.pki().dir().to_owned(),
            upload: None,
            proxy: None,
        }
    }

    /// To a `kubectl proxy`, which asks the agent.
    pub(super) fn before_kubectl(stage: &Stage) -> Option<Self> {
        let user = KubeconfigUser::Certificate(stage.plane.pki().admin().unwrap());
        let url = format!("https://{}", stage.address);
        let file = stage.plane.kubeconfig("proxy.kubeconfig", &url, &user);
        let kubectl = Kubectl::find(&file.unwrap())?;
        let mut command = kubectl.command(&["proxy", "--port", "0"]);
        let mut proxy = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(proxy.stdout.as_mut().unwrap())
            .read_line(&mut said)
            .unwrap();
        let address = said.trim().rsplit(' ').next().unwrap();
        Some(Self {
            arguments: ["--http1.1", "--silent"].map(str::to_owned).to_vec(),
            url: format!("http://{address}"),
            version: "1.1",
            folder: stage.plane.pki().dir().to_owned(),
            upload: None,
            proxy: Some(proxy),
        })
    }

    fn command(&self, more: &[&str], path: &str) -> Command {
        let mut command = Command::new("curl");
        command
            .args(&self.arguments)
            .args(["--show-error", "--noproxy", "*", "--max-time", "120"])
            .args(more)
            .arg(format!("{}{path}", self.url))
            .stdout(Stdio::piped());
        command
    }

    fn fields(&self) -> PathBuf {
        self.folder.join("fields-of-curl")
    }

    /// One request. `more`: what it is.
    fn ask(&self, more: &[&str], path: &str) -> Answer {
        let fields = self.fields();
        let shown = ["--dump-header", fields.to_str().unwrap()];
        let mut command = self.command(&[&shown[..], &SHOWN, more].concat(), path);
        self.answer(command.spawn().unwrap())
    }

    fn answer(&self, child: Child) -> Answer {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (text, shown) = text.rsplit_once('\n').unwrap();
        assert!(output.status.success(), "curl: {}: {shown}", output.status);
        let (status, version) = shown.split_once(' ').unwrap();
        assert_eq!(version, self.version);
        Answer {
            status: status.parse().unwrap(),
            text: text.to_owned(),
            trailers: std::fs::read_to_string(self.fields()).ok(),
        }
    }
}

/// What curl says behind the body.
const SHOWN: [&str; 2] = ["--write-out", "\n%{http_code} %{http_version}"];

impl Foreign for Curl {
    fn get(&mut self, path: &str) -> Answer {
        self.ask(&[], path)
    }

    fn post(&mut self, path: &str, size: usize) -> Answer {
        let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        let file = self.folder.join("upload-of-curl");
        std::fs::write(&file, bytes).unwrap();
        let data = format!("@{}", file.to_str().unwrap());
        self.ask(&["--data-binary", &data], path)
    }

    fn many(&mut self, count: usize, path: &str) -> Vec<u16> {
        let all = format!("{path}?n=[1-{count}]");
        let output = self
            .command(
                &[
                    "--parallel",
                    "--parallel-max",
                    &count.to_string(),
                    "--output",
                    "/dev/null",
                    "--write-out",
                    "%{http_code}\n",
                ],
                &all,
            )
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// The process ends, and with it its connection: to the agent, or to kubectl, which resets its stream.
    fn cancel(&mut self, path: &str) {
        let mut child = self.command(&["--no-buffer"], path).spawn().unwrap();
        let mut some = vec![0; SOME];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut some)
            .unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn begin(&mut self, path: &str) {
        let more = [&SHOWN[..], &["--request", "POST", "--upload-file", "."]].concat();
        let mut child = self.command(&more, path);
        let mut child = child.stdin(Stdio::piped()).spawn().unwrap();
        child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(&[b'x'; HALF])
            .unwrap();
        self.upload = Some(child);
    }

    fn finish(&mut self) -> Answer {
        let mut child = self.upload.take().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(&[b'x'; HALF]).unwrap();
        drop(input);
        self.answer(child)
    }
}

impl Drop for Curl {
    fn drop(&mut self) {
        for child in [&mut self.upload, &mut self.proxy].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What nghttp says of every frame.
pub(super) fn nghttp(stage: &Stage, more: &[&str], urls: &[String]) -> String {
    let path = |file: &str| stage.plane.pki().path(file);
    let output = Command::new("nghttp")
        .args([
            "--verbose",
            "--null-out",
            "--no-verify-peer",
            "--timeout",
            "60",
        ])
        .arg(format!("--cert={}", path("admin.crt").display()))
        .arg(format!("--key={}", path("admin.key").display()))
        .args(more)
        .args(urls)
        .output()
        .expect("nghttp, of Debian's nghttp2-client");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "nghttp: {}: {said}", output.status);
    said
}

/// What h2load says.
pub(super) fn h2load(arguments: &[&str]) -> String {
    let output = Command::new("h2load").args(arguments).output();
    let output = output.expect("h2load, of Debian's nghttp2-client");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "h2load: {}: {said}", output.status);
    said
}
