//! A node with a file system and a host name of its own, on which shell commands do what they do on a real one: what they write below
//! `/etc`, `/usr`, `/var/lib`, `/run`, `/srv` and `/sys/fs/bpf` is seen by nobody else, and goes with it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Output, Stdio};

use super::Place;
use crate::netns::Namespace;

/// Layers over what the machine of the tests has, so that its programs are there, and empty folders.
const SETUP: &str = "\
mount -t tmpfs tmpfs /mnt
for folder in etc usr var/lib; do
    mkdir -p /mnt/$folder/upper /mnt/$folder/work
    mount -t overlay overlay -o lowerdir=/$folder,upperdir=/mnt/$folder/upper,workdir=/mnt/$folder/work /$folder
done
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /srv
mount -t bpf -o mode=0700 bpf /sys/fs/bpf
echo ready
exec cat >/dev/null
";

/// The namespaces live as long as a process in them. Ended when dropped, and with it whatever a file `/run/*.pid` there names.
pub struct Machine<'a> {
    holder: Child,
    network: &'a Namespace,
}

impl<'a> Machine<'a> {
    /// A machine of this name in the network of a place.
    ///
    /// # Panics
    /// Without root, or without overlayfs.
    pub fn new(place: &'a Place, name: &str) -> Self {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--uts", "--propagation", "private", "sh", "-euc"])
            .arg(format!("hostname {name}\n{SETUP}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let network = &place.namespace;
        let mut holder = network.run(|| command.spawn().unwrap()).unwrap();
        let mut line = String::new();
        let said = holder.stdout.take().unwrap();
        BufReader::new(said).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the machine {name}");
        Self { holder, network }
    }

    /// A shell there that runs `script`, ends at the first command that fails, and has a home of nobody's.
    pub fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.holder.id()))
            .args(["--mount", "--uts", "--wdns=/srv", "sh", "-euc", script])
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", "/srv")
            .env("LC_ALL", "C")
            .env("TERM", "xterm")
            .stdin(Stdio::null());
        command
    }

    /// What the script says, whatever becomes of it.
    ///
    /// # Panics
    /// The namespaces cannot be entered.
    pub fn output(&self, script: &str) -> Output {
        let mut command = self.shell(script);
        self.network.run(|| command.output().unwrap()).unwrap()
    }

    /// What the script says.
    ///
    /// # Panics
    /// It fails.
    pub fn run(&self, script: &str) -> String {
        let output = self.output(script);
        let (said, failed) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        assert!(output.status.success(), "{script}\n{said}{failed}");
        said
    }

    /// Writes a file there.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn write(&self, path: &str, mode: &str, content: &[u8]) {
        let mut command = self.shell(&format!(
            "mkdir -p \"$(dirname {path})\"; cat >{path}; chmod {mode} {path}"
        ));
        command.stdin(Stdio::piped());
        let mut child = self.network.run(|| command.spawn().unwrap()).unwrap();
        child.stdin.take().unwrap().write_all(content).unwrap();
        assert!(child.wait().unwrap().success(), "{path}");
    }

    /// Runs a program of one terminal, and ends it with `key` once it has shown every one of `parts`. Returns what it showed.
    ///
    /// # Panics
    /// It ends before, or with an error.
    pub fn terminal(&self, program: &str, parts: &[&str], key: &str) -> String {
        // script(1) gives a terminal to what it runs.
        let script = format!(
            "exec timeout --foreground 120 script --quiet --return --command 'stty rows 50 columns 160; exec {program}' /dev/null"
        );
        let mut command = self.shell(&script);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = self.network.run(|| command.spawn().unwrap()).unwrap();
        let mut output = child.stdout.take().unwrap();
        let (mut shown, mut buffer) = (String::new(), [0; 4096]);
        while !parts.iter().all(|part| shown.contains(part)) {
            let count = output.read(&mut buffer).unwrap();
            assert!(count > 0, "{program} ended:\n{shown}");
            shown += &String::from_utf8_lossy(&buffer[..count]);
        }
        let mut input = child.stdin.take().unwrap();
        input.write_all(key.as_bytes()).unwrap();
        output.read_to_string(&mut shown).unwrap();
        assert!(child.wait().unwrap().success(), "{shown}");
        shown
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        let mut kill =
            self.shell("for file in /run/*.pid; do kill -KILL $(cat $file) || true; done");
        let _ = kill.stderr(Stdio::null()).status();
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
