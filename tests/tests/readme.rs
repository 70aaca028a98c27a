//! README.md's "Try it", word for word: every command is run and says what the README says. Other are only the ports and the
//! folder, so that the test disturbs nobody and nobody disturbs it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mvp_tests::bench::process::find;
use mvp_tests::client::Client;
use mvp_tests::ports::free_port;
use mvp_tests::sim::pki::{ClientAuth, Pki};

const README: &str = include_str!("../../README.md");
const LIMIT: Duration = Duration::from_secs(60);
/// Not run: cargo has built everything, and the PATH is set below.
const PREPARED: [&str; 2] = [
    "cargo build --release",
    "export PATH=\"$PWD/target/release:$PATH\"",
];

/// A command of the README with the lines it prints.
#[derive(Debug)]
struct Step {
    command: String,
    output: Vec<String>,
}

/// The console blocks of "Try it".
fn steps() -> Vec<Step> {
    let section = README.split("\n## ").find(|s| s.starts_with("Try it\n"));
    let mut steps: Vec<Step> = Vec::new();
    for block in section.unwrap().split("```console\n").skip(1) {
        let mut lines = block.split("```").next().unwrap().lines();
        while let Some(line) = lines.next() {
            let Some(command) = line.strip_prefix("$ ") else {
                steps.last_mut().unwrap().output.push(line.to_owned());
                continue;
            };
            let mut command = command.to_owned();
            if command.ends_with("<<'YAML'") {
                for line in lines.by_ref() {
                    command += "\n";
                    command += line;
                    if line == "YAML" {
                        break;
                    }
                }
            }
            steps.push(Step {
                command,
                output: Vec::new(),
            });
        }
    }
    steps
}

/// The width of columns, ages and resource versions may differ.
fn same(expected: &[String], actual: &str) -> bool {
    let expected: Vec<String> = expected.iter().map(|line| plain(line)).collect();
    let actual: Vec<String> = actual.lines().map(plain).collect();
    expected == actual
}

fn plain(line: &str) -> String {
    // Leases are renewed meanwhile, and every write counts.
    let version = "\"resourceVersion\":";
    if line.trim_start().starts_with(version) {
        return version.to_owned();
    }
    let words = line.split_whitespace().map(|word| {
        let number = word.trim_end_matches("ms").trim_end_matches('s');
        let age = number.len() < word.len() && number.bytes().all(|b| b.is_ascii_digit());
        if age { "AGE" } else { word }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Walk {
    dir: tempfile::TempDir,
    path: String,
    first: u16,
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Walk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        for (name, binary) in [
            ("mvp", env!("CARGO_BIN_EXE_mvp-agent")),
            ("mvp-sim", env!("CARGO_BIN_EXE_mvp-sim")),
        ] {
            std::os::unix::fs::symlink(binary, bin.join(name)).unwrap();
        }
        Self {
            path: format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()),
            dir,
            first: two_free_ports(),
            listen: free_port("127.0.0.1").unwrap(),
            admin: free_port("127.0.0.1").unwrap(),
        }
    }

    fn plane(&self) -> String {
        self.dir.path().join("plane").display().to_string()
    }

    /// Where the agent is told what to do.
    fn socket(&self) -> String {
        self.dir.path().join("admin.sock").display().to_string()
    }

    /// With this test's ports and folder.
    fn here(&self, text: &str) -> String {
        text.replace("127.0.0.1:7443", &format!("127.0.0.1:{}", self.first))
            .replace("127.0.0.1:7444", &format!("127.0.0.1:{}", self.first + 1))
            .replace("127.0.0.1:8443", &self.listen.to_string())
            .replace("/tmp/plane", &self.plane())
    }

    fn shell(&self, command: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).env("PATH", &self.path);
        shell.env_remove("RUST_LOG").stdin(Stdio::null());
        if Path::new(&self.plane()).is_dir() {
            shell.current_dir(self.plane());
        }
        shell
    }

    /// In the background, with this output; the process is the command's own, so that it can be ended by its id.
    fn start(&self, command: &str, log: &Path) -> Running {
        let log = std::fs::File::create(log).unwrap();
        let mut shell = self.shell(&format!("exec {command}"));
        shell
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        Running(shell.spawn().unwrap())
    }

    fn output(&self, command: &str) -> String {
        let output = self.shell(command).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success(),
            "{command}\n{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// "Type `kill cp-b` in the first terminal", and a second later everybody knows it.
    fn kill_peer(&self, plane: &mut Running) {
        let terminal = plane.0.stdin.as_mut().unwrap();
        terminal.write_all(b"kill cp-b\n").unwrap();
        let servers = format!("mvp servers --admin http://{}", self.admin);
        until("the agent knows that cp-b is down", || {
            let table = self.output(&servers);
            let peer = table.lines().find(|l| l.starts_with("cp-b")).unwrap();
            peer.split_whitespace().nth(5) == Some("no")
        });
    }

    /// What curl prints, also where there is no curl.
    fn curl(&self, command: &str) -> String {
        if find("curl").is_some() {
            return self.output(command);
        }
        let url = command.split(' ').next_back().unwrap();
        let (address, path) = url
            .strip_prefix("https://")
            .and_then(|rest| rest.split_once('/'))
            .unwrap();
        let pki = Pki::load(Path::new(&self.plane())).unwrap();
        let admin = ClientAuth::Certificate(pki.admin().unwrap());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let tls = pki.client_config(admin, &[]).unwrap().into();
            let client = Client::http2(address.parse().unwrap(), &tls).await.unwrap();
            let headers = [("user-agent", "curl/8.0")];
            let answer = client.get(&format!("/{path}"), &headers).await.unwrap();
            answer.text()
        })
    }
}

/// A port that is free, with a free one behind it.
fn two_free_ports() -> u16 {
    loop {
        let [first, second] = [(); 2].map(|()| free_port("127.0.0.1").unwrap().port());
        if second == first + 1 {
            return first;
        }
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn try_it_is_true_word_for_word() {
    let walk = Walk::new();
    let (mut plane, mut agent) = (None, None);
    let mut answers = 0;
    for step in steps() {
        let command = walk.here(&step.command);
        let expected: Vec<String> = step.output.iter().map(|line| walk.here(line)).collect();
        if PREPARED.contains(&step.command.as_str()) || command.starts_with("cd ") {
            continue;
        } else if command.starts_with("mvp-sim plane ") {
            let log = walk.dir.path().join("plane.log");
            plane = Some(walk.start(&format!("{command} --port {}", walk.first), &log));
            let said = || std::fs::read_to_string(&log).unwrap();
            until(&format!("{expected:?}"), || same(&expected, &said()));
        } else if let Some(command) = command.strip_suffix(" &") {
            let log = walk.dir.path().join("agent.log");
            let places = format!(
                "--admin-listen {} --set admin.socket={}",
                walk.admin,
                walk.socket()
            );
            agent = Some(walk.start(&format!("{command} {places}"), &log));
            let admin = format!(
                "mvp status --admin http://{} | grep -q '^state   ready'",
                walk.admin
            );
            until("the agent is ready", || {
                walk.shell(&admin).output().unwrap().status.success()
            });
            assert_eq!(std::fs::read_to_string(&log).unwrap(), "");
        } else if command.starts_with("curl ") {
            answers += 1;
            if answers == 3 {
                walk.kill_peer(plane.as_mut().unwrap());
            }
            let said = walk.curl(&command);
            assert!(same(&expected, &said), "{command}\n{said}");
        } else if command.starts_with("mvp ") {
            let said = walk.output(&format!("{command} --admin unix:{}", walk.socket()));
            assert!(same(&expected, &said), "{command}\n{said}");
        } else {
            assert_eq!(walk.output(&command), "", "{command}");
        }
    }
    assert_eq!(answers, 3);
    // "mvp drain" was the last: it ends by itself.
    let mut agent: Running = agent.unwrap();
    until("the agent has ended", || {
        agent.0.try_wait().unwrap().is_some()
    });
    assert!(agent.0.wait().unwrap().success());
}
