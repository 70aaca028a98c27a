//! `docs/install.md`, word for word: every command of its blocks for units of systemd is run as it stands there, in the order in which
//! it stands, on three nodes whose control plane is upgraded meanwhile; and afterwards nothing of it is left. Blocks that cannot be run
//! here say so in the page. systemctl alone is not the real one, since no systemd runs where the tests do.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use mvp_tests::browser::Browser;
use mvp_tests::fixtures::ONLY_36;
use mvp_tests::kubectl::Kubectl;
use mvp_tests::netns::privileged;
use mvp_tests::nodes::{Binaries, Cluster, Machine, eventually, run_on_nodes};
use mvp_tests::sim::control::Command;
use mvp_tests::sim::pki::KubeconfigUser;

use super::dist::PACKED;

const PAGE: &str = include_str!("../../../docs/install.md");
const SYSTEMCTL: &str = include_str!("systemctl.sh");
/// What the page says of a block that is left out, in the paragraph before it.
const LEFT_OUT: &str = "project's tests";
/// What the archive unpacks to.
const FOLDER: &str = "/srv/mvp-*64";
/// All that an installation could leave behind, and who listens.
const STATE: &str = "\
find /etc /usr /var/lib /run /sys/fs/bpf ! -type d -printf '%p %s %T@\\n' | sort
ss -H -l -t -n
ss -H -l -x
";

/// A block of commands.
#[derive(Clone, Copy, Debug)]
struct Block {
    /// The heading above it.
    section: &'static str,
    /// The paragraph before it.
    before: &'static str,
    commands: &'static str,
}

fn blocks() -> Vec<Block> {
    let mut found = Vec::new();
    for section in PAGE.split("\n## ").skip(1) {
        let (heading, text) = section.split_once('\n').unwrap();
        let mut rest = text;
        while let Some((before, block)) = rest.split_once("```sh\n") {
            let (commands, after) = block.split_once("```\n").unwrap();
            let before = before.trim_end().rsplit("\n\n").next().unwrap();
            found.push(Block {
                section: heading,
                before,
                commands,
            });
            rest = after;
        }
    }
    found
}

impl Block {
    fn is_left_out(&self) -> bool {
        says_why_not(self.before)
    }
}

fn says_why_not(text: &str) -> bool {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.contains(LEFT_OUT) && text.contains("not run this, since it needs")
}

/// The blocks of a section, all of which are run.
fn run_in(section: &str) -> Vec<&'static str> {
    let all = blocks()
        .into_iter()
        .filter(|block| block.section == section);
    all.map(|block| block.commands).collect()
}

/// Whatever is not run says why, and everything else is run by the walk below.
#[test]
fn every_block_is_run_or_says_why_not() {
    let all = blocks();
    for block in &all {
        let walked = ["systemd", "Remove"].contains(&block.section);
        assert_ne!(walked, block.is_left_out(), "{block:#?}");
    }
    assert_eq!(all.len(), PAGE.matches("```sh\n").count());
    assert_eq!(PAGE.matches("```").count(), 2 * all.len());
    let readme = include_str!("../../../README.md");
    let install = readme.split("\n## ").find(|s| s.starts_with("Install\n"));
    let (before, _) = install.unwrap().split_once("```sh").unwrap();
    assert!(says_why_not(before));
}

#[test]
fn the_page_is_true_from_the_archive_to_the_removal() {
    if !privileged("the walk", true) {
        return;
    }
    let (Some(chromium), Some(_)) = (Browser::find(), Kubectl::find(Path::new("/nowhere"))) else {
        return;
    };
    let binaries = Binaries {
        agent: env!("CARGO_BIN_EXE_mvp-agent").into(),
        server: env!("CARGO_BIN_EXE_mvp-sim").into(),
    };
    run_on_nodes(
        binaries,
        &[35, 35, 35],
        |spec| spec,
        move |cluster| {
            let mut walk = Walk::new(&cluster);
            let [unpack, grant, start, status, check, top, after] = run_in("systemd")[..] else {
                panic!("{:#?}", run_in("systemd"));
            };
            let [remove, withdraw] = run_in("Remove")[..] else {
                panic!("{:#?}", run_in("Remove"));
            };
            for node in 0..3 {
                walk.run(node, "/srv", &here(unpack));
                if node == 0 {
                    assert!(walk.run(node, FOLDER, grant).contains("mvp created"));
                }
                walk.start(node, start, status);
            }
            walk.check(check);
            walk.upgrade(top, &chromium);
            walk.report(after);
            for node in 0..3 {
                if node == 2 {
                    walk.run(node, FOLDER, withdraw);
                }
                walk.remove(node, remove);
            }
        },
    );
}

struct Walk<'a> {
    cluster: &'a Cluster,
    machines: Vec<Machine<'a>>,
    /// Before anything was installed.
    states: Vec<String>,
}

impl<'a> Walk<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        let archive = std::fs::read(&*PACKED).unwrap();
        let machines = cluster.nodes.iter().map(|node| {
            let machine = Machine::new(&node.place, &node.name);
            let name = PACKED.file_name().unwrap().to_str().unwrap();
            machine.write(&format!("/srv/{name}"), "644", &archive);
            machine.write("/usr/bin/systemctl", "755", SYSTEMCTL.as_bytes());
            let url = "https://127.0.0.1:6443";
            let user = KubeconfigUser::Certificate(cluster.plane.pki().admin().unwrap());
            let file = format!("{}.conf", node.name);
            let kubeconfig = cluster.plane.kubeconfig(&file, url, &user).unwrap();
            let kubeconfig = std::fs::read(kubeconfig).unwrap();
            machine.write("/srv/.kube/config", "600", &kubeconfig);
            if let Some(kubectl) = std::env::var_os("KUBECTL") {
                let script = format!("#!/bin/sh\nexec {} \"$@\"\n", kubectl.display());
                machine.write("/usr/local/bin/kubectl", "755", script.as_bytes());
            }
            // Where the recipe has them.
            for (from, to, mode) in [
                ("apiserver.crt", "kube-apiserver.crt", "644"),
                ("apiserver.key", "kube-apiserver.key", "600"),
                ("ca.crt", "ca.crt", "644"),
                ("front-proxy-ca.crt", "front-proxy-ca.crt", "644"),
                ("front-proxy-client.crt", "front-proxy-client.crt", "644"),
                ("front-proxy-client.key", "front-proxy-client.key", "600"),
            ] {
                let content = cluster.plane.pki().read(from).unwrap();
                machine.write(
                    &format!("/var/lib/kubernetes/{to}"),
                    mode,
                    content.as_bytes(),
                );
            }
            machine
        });
        let machines: Vec<_> = machines.collect();
        let states = machines.iter().map(|machine| machine.run(STATE)).collect();
        Self {
            cluster,
            machines,
            states,
        }
    }

    /// What a node says to the commands of a block, in this folder.
    fn run(&self, node: usize, folder: &str, block: &str) -> String {
        self.machines[node].run(&format!("cd {folder}\n{block}"))
    }

    fn start(&self, node: usize, start: &str, status: &str) {
        let machine = &self.machines[node];
        // "Put this node's paths and addresses into it": the paths are the recipe's own here.
        let mut change = String::from("sed -i");
        let others = (0..3).filter(|other| *other != node);
        for (other, named) in others.zip([("cp-b", "10.0.0.12"), ("cp-c", "10.0.0.13")]) {
            let other = &self.cluster.nodes[other];
            let (name, address) = (&other.name, &other.place.address);
            change += &format!(
                " -e 's|name: {}, url: \"https://{}:|name: {name}, url: \"https://{address}:|'",
                named.0, named.1
            );
        }
        machine.run(&format!("{change} /etc/mvp/config.yaml"));
        let said = machine.run(start);
        assert!(said.contains("/etc/mvp/config.yaml"), "{said}");
        for part in ["cp-a", "cp-b", "cp-c", "days left", "ok"] {
            assert!(said.contains(part), "{part} is not in\n{said}");
        }
        eventually("the agent is ready", || {
            let output = machine.output(status);
            String::from_utf8_lossy(&output.stdout).contains("\nstate   ready")
        });
        let said = machine.run(status);
        assert!(said.starts_with("inspecting"), "{said}");
        assert!(
            machine
                .run("man -w mvp || ls /usr/share/man/man1/mvp.1")
                .contains("mvp.1")
        );
    }

    /// Of everything only the tests' certificates are worth a word: they are valid for a day.
    fn check(&self, check: &str) {
        let machine = &self.machines[0];
        let output = machine.output(check);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        for line in said.lines().filter(|line| line.contains("mend")) {
            assert!(
                line.contains("cert") || line.contains(".crt"),
                "{line}\n{said}"
            );
        }
        assert!(said.contains("mutatingadmissionpolicies"), "{said}");
    }

    /// One server after the other, while somebody watches and a client asks the old ones for what only the new one has.
    fn upgrade(&mut self, top: &str, chromium: &Path) {
        let [first, .., last] = &self.cluster.nodes[..] else {
            panic!("three nodes");
        };
        last.command(Command::Restart { minor: 36 });
        let clients = &self.cluster.clients;
        eventually(
            "the old server's agent takes the request to the new one",
            || {
                let answer = self.cluster.get(clients, first, ONLY_36);
                answer.is_ok_and(|answer| answer.status == 200)
            },
        );
        let parts = ["v1.35", "v1.36", "armed"];
        self.machines[0].terminal(top.trim_end(), &parts, "q");
        let url = PAGE
            .split('`')
            .find(|word| word.starts_with("http://127.0.0.1:9440"));
        let network = &first.place.namespace;
        network
            .run(|| {
                let mut page = Browser::open(chromium, url.unwrap()).unwrap();
                for shown in [
                    "document.documentElement.dataset.ready === 'yes'",
                    "document.body.innerText.includes('v1.36')",
                    "document.body.innerText.includes('v1.35')",
                ] {
                    page.until(shown, Duration::from_secs(60)).unwrap();
                }
                assert_eq!(page.complaints, [""; 0]);
            })
            .unwrap();
        for node in &self.cluster.nodes[..2] {
            node.command(Command::Restart { minor: 36 });
        }
    }

    fn report(&self, after: &str) {
        let machine = &self.machines[0];
        let mut said = String::new();
        eventually("nothing differs any more", || {
            said = machine.run(after);
            said.contains("no differences")
        });
        assert!(said.contains("mutatingadmissionpolicies"), "{said}");
    }

    fn remove(&self, node: usize, remove: &str) {
        let machine = &self.machines[node];
        let said = machine.run(remove);
        assert!(said.contains("nothing of the agent is left"), "{said}");
        // There are as many lines as files of the machine.
        let now = machine.run(STATE);
        let [before, now] = [&self.states[node], &now].map(|state| state.lines().collect());
        let (before, now): (BTreeSet<&str>, BTreeSet<&str>) = (before, now);
        let left: Vec<_> = now.difference(&before).collect();
        let taken: Vec<_> = before.difference(&now).collect();
        assert!(
            left.is_empty() && taken.is_empty(),
            "left behind: {left:#?}; taken away: {taken:#?}"
        );
        // And the server serves, by itself.
        let (clients, node) = (&self.cluster.clients, &self.cluster.nodes[node]);
        assert_eq!(
            self.cluster.get(clients, node, ONLY_36).unwrap().status,
            200
        );
    }
}

/// The archive's name has the processor of whoever reads the page.
fn here(commands: &str) -> String {
    match std::env::consts::ARCH {
        "aarch64" => commands.replace("linux-amd64", "linux-arm64"),
        _ => commands.to_owned(),
    }
}
