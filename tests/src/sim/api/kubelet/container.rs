//! What runs in a container: a few commands over files in memory, and programs of this machine that a test puts into an image.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::archive::{self, Files};

/// A node has one kubelet, whichever server asks it; a pod's uid is never used again.
static CONTAINERS: LazyLock<Mutex<HashMap<String, Arc<Mutex<Files>>>>> =
    LazyLock::new(Mutex::default);

/// By the pod's uid and the program's path in its image.
static PROGRAMS: LazyLock<Mutex<HashMap<(String, String), Program>>> =
    LazyLock::new(Mutex::default);

/// A program of this machine, which runs in a container as if it were in the image.
#[derive(Clone, Debug)]
pub struct Program {
    /// The file that is run.
    pub path: PathBuf,
    /// What it finds in its environment, and nothing else.
    pub environment: Vec<(String, String)>,
}

/// Puts a program into the containers of the pod with this uid.
pub fn provide(uid: &str, path: &str, program: Program) {
    let mut programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    programs.insert((uid.to_owned(), path.to_owned()), program);
}

/// What a container needs to start a command, or to say that nothing listens on a port. Clients rely on it: client-go 1.32 throws away what
/// comes before it has made its streams, and the Python client overlooks what comes together with the head of the answer. The server
/// cannot know when they are ready; a real container is never that fast.
pub(super) const STARTS: Duration = Duration::from_millis(100);

/// A command that runs.
pub(super) struct Process {
    /// Dropped at the end of the input. It has no limit: a test writes little.
    pub stdin: Option<mpsc::UnboundedSender<Bytes>>,
    pub output: mpsc::Receiver<Output>,
}

#[derive(Debug)]
pub(super) enum Output {
    Stdout(Bytes),
    Stderr(Bytes),
    /// A `Status` of Kubernetes, which comes last.
    Ended(Value),
}

/// `Err`: nothing of this name can be run.
type Ended = Result<u8, String>;

/// Runs a command in the container of a pod.
pub(super) fn start(uid: &str, container: &str, command: Vec<String>) -> Process {
    let key = format!("{uid}/{container}");
    let mut containers = CONTAINERS.lock().unwrap_or_else(PoisonError::into_inner);
    let files = containers.entry(key).or_default().clone();
    let programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    let path = command.first().cloned().unwrap_or_default();
    let program = programs.get(&(uid.to_owned(), path)).cloned();
    run(
        async move |mut shell: Shell| {
            let ended = match program {
                Some(program) => shell.program(&program, &command[1..]).await,
                None => shell.words(&command).await,
            };
            (shell, ended)
        },
        files,
    )
}

/// The container's main process: it has written `lines`, and then says what it hears.
pub(super) fn main_process(lines: String) -> Process {
    run(
        async move |mut shell: Shell| {
            shell.say(lines).await;
            shell.repeat().await;
            (shell, Ok(0))
        },
        Arc::default(),
    )
}

struct Shell {
    files: Arc<Mutex<Files>>,
    stdin: mpsc::UnboundedReceiver<Bytes>,
    output: mpsc::Sender<Output>,
}

fn run<F>(program: impl FnOnce(Shell) -> F, files: Arc<Mutex<Files>>) -> Process
where
    F: Future<Output = (Shell, Ended)> + Send + 'static,
{
    let (stdin, input) = mpsc::unbounded_channel();
    let (sender, output) = mpsc::channel(16);
    let program = program(Shell {
        files,
        stdin: input,
        output: sender,
    });
    tokio::spawn(async move {
        tokio::time::sleep(STARTS).await;
        let (shell, ended) = program.await;
        // Whoever wanted to know may have gone.
        let _ = shell.output.send(Output::Ended(status(ended))).await;
    });
    Process {
        stdin: Some(stdin),
        output,
    }
}

impl Shell {
    async fn words(&mut self, command: &[String]) -> Ended {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["sh", "-c", script] => Ok(self.script(script).await),
            words => self.one(words).await,
        }
    }

    /// Without input.
    async fn program(&mut self, program: &Program, arguments: &[String]) -> Ended {
        let mut command = std::process::Command::new(&program.path);
        command
            .args(arguments)
            .env_clear()
            .envs(program.environment.iter().cloned())
            .stdin(Stdio::null());
        let ended = tokio::task::spawn_blocking(move || command.output()).await;
        let Ok(Ok(output)) = ended else {
            return Err(program.path.display().to_string());
        };
        self.say(output.stdout).await;
        self.complain(String::from_utf8_lossy(&output.stderr).into_owned())
            .await;
        // Of one that a signal ended, a shell says so.
        let code = output.status.code().unwrap_or(137);
        Ok(u8::try_from(code).unwrap_or(u8::MAX))
    }

    /// Commands one after the other, `>&2` behind a command, and `exit`.
    async fn script(&mut self, script: &str) -> u8 {
        let mut code = 0;
        for command in script.split(';') {
            let words: Vec<&str> = command.split_whitespace().collect();
            code = match words.as_slice() {
                [] => code,
                ["exit", code] => return code.parse().unwrap_or(2),
                ["echo", words @ .., ">&2"] => {
                    self.complain(format!("{}\n", words.join(" "))).await;
                    0
                }
                words => match self.one(words).await {
                    Ok(code) => code,
                    Err(name) => {
                        self.complain(format!("sh: {name}: not found\n")).await;
                        127
                    }
                },
            };
        }
        code
    }

    async fn one(&mut self, words: &[&str]) -> Ended {
        match words {
            ["echo", words @ ..] => self.say(format!("{}\n", words.join(" "))).await,
            ["cat"] => self.repeat().await,
            ["cat", path] => {
                let content = self.files().get(&archive::join("", path)).cloned();
                let Some(Some(content)) = content else {
                    self.complain(format!("cat: {path}: No such file or directory\n"))
                        .await;
                    return Ok(1);
                };
                self.say(content).await;
            }
            ["test", "-d", path] => return Ok(u8::from(!self.is_folder(path))),
            ["tar", flags, words @ ..] if flags.contains('c') => return Ok(self.pack(words).await),
            ["tar", flags, words @ ..] if flags.contains('x') => {
                return Ok(self.unpack(words).await);
            }
            [name, ..] => return Err((*name).to_owned()),
            [] => return Err(String::new()),
        }
        Ok(0)
    }

    /// `tar cf - [-C FOLDER] PATH`.
    async fn pack(&mut self, words: &[&str]) -> u8 {
        let (folder, paths) = folder(words);
        let [path] = paths.as_slice() else {
            return 2;
        };
        if path.starts_with('/') {
            let told = "tar: Removing leading `/' from member names\n";
            self.complain(told.to_owned()).await;
        }
        let packed = archive::pack(&self.files(), folder, path);
        match packed {
            Ok(Some(archive)) => {
                self.say(archive).await;
                0
            }
            Ok(None) => {
                let told = format!(
                    "tar: {path}: Cannot stat: No such file or directory\n\
                     tar: Exiting with failure status due to previous errors\n"
                );
                self.complain(told).await;
                2
            }
            Err(error) => {
                self.complain(format!("tar: {error}\n")).await;
                2
            }
        }
    }

    /// `tar xf - [-C FOLDER]`.
    async fn unpack(&mut self, words: &[&str]) -> u8 {
        let mut archive = Vec::new();
        while !archive::is_complete(&archive)
            && let Some(bytes) = self.stdin.recv().await
        {
            archive.extend_from_slice(&bytes);
        }
        let unpacked = archive::unpack(&mut self.files(), folder(words).0, &archive);
        match unpacked {
            Ok(()) => 0,
            Err(error) => {
                self.complain(format!("tar: {error}\n")).await;
                2
            }
        }
    }

    /// Folders need not be made: one is there if something is in it.
    fn is_folder(&self, path: &str) -> bool {
        let path = archive::join("", path);
        let below = format!("{path}/");
        let files = self.files();
        ["", "/tmp"].contains(&path.as_str())
            || files.get(&path).is_some_and(Option::is_none)
            || files.keys().any(|name| name.starts_with(&below))
    }

    async fn repeat(&mut self) {
        while let Some(bytes) = self.stdin.recv().await {
            self.say(bytes).await;
        }
    }

    async fn say(&mut self, bytes: impl Into<Bytes>) {
        // Whoever listened may have gone.
        let _ = self.output.send(Output::Stdout(bytes.into())).await;
    }

    async fn complain(&mut self, text: String) {
        let _ = self.output.send(Output::Stderr(text.into())).await;
    }

    fn files(&self) -> std::sync::MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What `-C` says, and the words that are no options.
fn folder<'a>(words: &[&'a str]) -> (&'a str, Vec<&'a str>) {
    let mut folder = "";
    let mut paths = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "-C" => folder = words.next().copied().unwrap_or_default(),
            "-" => {}
            option if option.starts_with("--") => {}
            path => paths.push(path),
        }
    }
    (folder, paths)
}

/// What a kubelet says of an end (kubelet `pkg/cri/streaming/remotecommand/exec.go`).
fn status(ended: Ended) -> Value {
    match ended {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with exit code {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(name) => {
            let cause = format!(
                "error executing command in container: failed to exec in container: failed to start exec: OCI runtime exec failed: \
                 exec failed: unable to start container process: exec: {name:?}: executable file not found in $PATH: unknown"
            );
            json!({
                "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
                "message": format!("Internal error occurred: {cause}"),
                "details": {"causes": [{"message": cause}]},
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said(uid: &str, command: &[&str], input: &[&[u8]]) -> (String, String, Value) {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let mut process = start(uid, "c", command);
        for bytes in input {
            let _ = process
                .stdin
                .as_ref()
                .map(|stdin| stdin.send(Bytes::copy_from_slice(bytes)));
        }
        process.stdin = None;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match process.output.recv().await.unwrap() {
                Output::Stdout(bytes) => stdout.extend(bytes),
                Output::Stderr(bytes) => stderr.extend(bytes),
                Output::Ended(status) => {
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    return (text(&stdout), text(&stderr), status);
                }
            }
        }
    }

    #[tokio::test]
    async fn commands_write_fail_and_are_missing() {
        let (out, err, status) =
            said("1", &["sh", "-c", "echo a b; echo no >&2; exit 3"], &[]).await;
        assert_eq!((out.as_str(), err.as_str()), ("a b\n", "no\n"));
        assert_eq!(status["details"]["causes"][0]["message"], "3");
        let (out, _, status) = said("1", &["cat"], &[b"one", b"two"]).await;
        assert_eq!(
            (out.as_str(), &status["status"]),
            ("onetwo", &json!("Success"))
        );
        assert_eq!(said("1", &["nano"], &[]).await.2["code"], 500);
        assert_eq!(
            said("1", &["cat", "/none"], &[]).await.2["reason"],
            "NonZeroExitCode"
        );
        assert_eq!(
            said("1", &["test", "-d", "/tmp"], &[]).await.2["status"],
            "Success"
        );
        assert_eq!(
            said("1", &["test", "-d", "/none"], &[]).await.2["status"],
            "Failure"
        );
    }

    #[tokio::test]
    async fn files_stay_in_their_container() {
        let files = [("/x/f".to_owned(), Some(b"content".to_vec()))].into();
        let archive = archive::pack(&files, "/x", "f").unwrap().unwrap();
        let (first, second) = archive.split_at(700);
        let unpack = ["tar", "-xmf", "-", "-C", "/tmp"];
        assert_eq!(
            said("2", &unpack, &[first, second]).await.2["status"],
            "Success"
        );
        assert_eq!(said("2", &["cat", "/tmp/f"], &[]).await.0, "content");
        let (out, err, _) = said("2", &["tar", "cf", "-", "/tmp/f"], &[]).await;
        assert!(out.contains("tmp/f") && err.contains("leading"), "{err}");
        assert_eq!(said("3", &["cat", "/tmp/f"], &[]).await.0, "");
    }
}
