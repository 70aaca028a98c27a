//! `cargo xtask dist`: what is in the archive, that its sums hold, and that the same content gives the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use serde_json::Value;

const AGENT: &str = env!("CARGO_BIN_EXE_mvp-agent");
/// Files that every archive has, at least.
const NEEDED: &[&str] = &[
    "bin/mvp",
    "lib/systemd/system/mvp.service",
    "deploy/daemonset.yaml",
    "deploy/static-pod.yaml",
    "deploy/rbac.yaml",
    "deploy/prometheus-rule.yaml",
    "deploy/dashboard.json",
    "deploy/recipes/k3s.yaml",
    "deploy/chart/Chart.yaml",
    "deploy/chart/values.schema.json",
    "deploy/chart/templates/daemonset.yaml",
    "share/bash-completion/completions/mvp",
    "share/zsh/site-functions/_mvp",
    "share/fish/vendor_completions.d/mvp.fish",
    "share/man/man1/mvp.1",
    "share/man/man1/mvp-status.1",
    "share/man/man1/mvp-config-test.1",
    "docs/operations.md",
    "LICENSE",
    "README.md",
    "sbom.cdx.json",
    "SHA256SUMS",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// `cargo xtask dist ARGS` into a folder.
fn dist(folder: &Path, args: &[&str]) -> Output {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut xtask = Command::new(cargo);
    xtask
        .current_dir(root())
        .args(["xtask", "dist", "--output"])
        .arg(folder)
        .args(args);
    xtask.env("SOURCE_DATE_EPOCH", "1700000000");
    xtask.output().unwrap()
}

/// An agent that the tests have built, with or without its kernel part.
fn pack(folder: &Path) -> PathBuf {
    let mut args = vec!["--binary", AGENT];
    if mvp::kernel::object().is_none() {
        args.push("--without-kernel-part");
    }
    let packed = dist(folder, &args);
    assert!(
        packed.status.success(),
        "{}",
        String::from_utf8_lossy(&packed.stderr)
    );
    let archives = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut archives = archives.filter(|path| path.to_str().unwrap().ends_with(".tar.gz"));
    archives.next().unwrap()
}

/// Packed once: with its symbols the agent is large.
pub(super) static PACKED: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("package");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    pack(&folder)
});

fn run(program: &str, args: &[&str], folder: &Path) -> String {
    let done = Command::new(program)
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(done.status.success(), "{program} {args:?}: {done:?}");
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn the_archive_has_everything_and_its_sums_hold() {
    let archive = &*PACKED;
    let folder = archive.parent().unwrap();
    let name = archive.file_name().unwrap().to_str().unwrap();
    run(
        "sha256sum",
        &["--check", "--strict", &format!("{name}.sha256")],
        folder,
    );
    let unpacked = tempfile::tempdir().unwrap();
    run("tar", &["-xzf", archive.to_str().unwrap()], unpacked.path());
    let version = env!("CARGO_PKG_VERSION");
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => panic!("{other}"),
    };
    let at = unpacked
        .path()
        .join(format!("mvp-{version}-linux-{machine}"));
    for path in NEEDED {
        let size = std::fs::metadata(at.join(path))
            .unwrap_or_else(|e| panic!("{path}: {e}"))
            .len();
        assert!(size > 0, "{path} is empty");
    }
    assert!(!at.join("deploy/Dockerfile").exists());

    let sums = std::fs::read_to_string(at.join("SHA256SUMS")).unwrap();
    run(
        "sha256sum",
        &["--check", "--strict", "--quiet", "SHA256SUMS"],
        &at,
    );
    let listed: BTreeSet<&str> = sums
        .lines()
        .map(|line| line.split_once("  ").unwrap().1)
        .collect();
    let there = run("find", &[".", "-type", "f", "-printf", "%P\n"], &at);
    let there: BTreeSet<&str> = there.lines().filter(|path| *path != "SHA256SUMS").collect();
    assert_eq!(listed, there);

    let agent = at.join("bin/mvp");
    assert_eq!(
        std::fs::metadata(&agent).unwrap().permissions().mode() & 0o777,
        0o755
    );
    // Stripped, and it runs.
    assert!(std::fs::metadata(&agent).unwrap().len() < std::fs::metadata(AGENT).unwrap().len());
    let told = run(agent.to_str().unwrap(), &["version", "-o", "json"], &at);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["version"], version);
    assert_eq!(told["kernelPart"], mvp::kernel::object().is_some());
    let page = std::fs::read_to_string(at.join("share/man/man1/mvp-status.1")).unwrap();
    assert!(
        page.contains("mvp status \\-\\-watch") || page.contains("mvp status --watch"),
        "{page}"
    );
    let script = std::fs::read_to_string(at.join("share/bash-completion/completions/mvp")).unwrap();
    assert!(script.contains("loglevel"));
}

#[test]
fn the_bill_of_materials_names_what_is_linked() {
    let folder = PACKED.parent().unwrap();
    let stage = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.is_dir());
    let text = std::fs::read_to_string(stage.unwrap().join("sbom.cdx.json")).unwrap();
    let sbom: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&sbom["bomFormat"], &sbom["specVersion"]),
        (&"CycloneDX".into(), &"1.5".into())
    );
    assert_eq!(sbom["metadata"]["timestamp"], "2023-11-14T22:13:20Z");
    let main = &sbom["metadata"]["component"];
    assert_eq!(
        (&main["name"], &main["type"]),
        (&"mvp".into(), &"application".into())
    );
    let components = sbom["components"].as_array().unwrap();
    let by_name: BTreeMap<&str, &Value> = components
        .iter()
        .map(|c| (c["name"].as_str().unwrap(), c))
        .collect();
    for linked in [
        "rustls",
        "hyper",
        "aws-lc-sys",
        "aya",
        "mvp-common",
        "mvp-ebpf",
        "aya-ebpf",
    ] {
        assert!(by_name.contains_key(linked), "{linked}");
    }
    // What only tests or builds it is not inside.
    for other in [
        "proptest",
        "criterion",
        "tempfile",
        "cc",
        "mvp-tests",
        "xtask",
    ] {
        assert!(!by_name.contains_key(other), "{other}");
    }
    let rustls = by_name["rustls"];
    assert_eq!(rustls["hashes"][0]["content"].as_str().unwrap().len(), 64);
    assert!(
        rustls["licenses"][0]["expression"]
            .as_str()
            .unwrap()
            .contains("Apache-2.0")
    );
    assert!(
        rustls["purl"]
            .as_str()
            .unwrap()
            .starts_with("pkg:cargo/rustls@0.")
    );
    // Every reference leads to a component, and every component is reached.
    let refs: BTreeSet<&str> = components
        .iter()
        .chain([main])
        .map(|c| c["bom-ref"].as_str().unwrap())
        .collect();
    assert_eq!(refs.len(), components.len() + 1);
    let mut reached = BTreeSet::from([main["bom-ref"].as_str().unwrap()]);
    for link in sbom["dependencies"].as_array().unwrap() {
        assert!(refs.contains(link["ref"].as_str().unwrap()), "{link}");
        for to in link["dependsOn"].as_array().unwrap() {
            assert!(refs.contains(to.as_str().unwrap()), "{to}");
            reached.insert(to.as_str().unwrap());
        }
    }
    assert_eq!(reached, refs);
}

#[test]
fn the_same_content_is_the_same_archive() {
    let dir = tempfile::tempdir().unwrap();
    let again = std::fs::read(pack(dir.path())).unwrap();
    assert!(again == std::fs::read(&*PACKED).unwrap());
}

#[test]
fn an_agent_without_its_kernel_part_is_not_packed_by_accident() {
    let dir = tempfile::tempdir().unwrap();
    let refused = dist(dir.path(), &["--binary", "/bin/true"]);
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("no kernel part"), "{said}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// The agent's build script by itself: `cargo build` shows what it warns of.
#[test]
fn a_build_without_a_kernel_part_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("build-script");
    let source = root().join("mvp-userspace/build.rs");
    run(
        "rustc",
        &[
            "--edition=2024",
            "-o",
            script.to_str().unwrap(),
            source.to_str().unwrap(),
        ],
        dir.path(),
    );
    let build = |object: Option<&[u8]>| {
        let tree = tempfile::tempdir().unwrap();
        let package = tree.path().join("mvp-userspace");
        let out = tree.path().join("out");
        std::fs::create_dir_all(tree.path().join("target/bpf")).unwrap();
        std::fs::create_dir_all(&package).unwrap();
        std::fs::create_dir_all(&out).unwrap();
        if let Some(object) = object {
            std::fs::write(tree.path().join("target/bpf/mvp.o"), object).unwrap();
        }
        let mut build = Command::new(&script);
        build
            .env("OUT_DIR", &out)
            .env("CARGO_MANIFEST_DIR", &package)
            .env_remove("MVP_EBPF_OBJECT");
        let said = String::from_utf8(build.output().unwrap().stdout).unwrap();
        (said, std::fs::read(out.join("mvp.o")).unwrap())
    };
    let (said, inside) = build(None);
    assert!(said.contains("cargo::warning=no BPF object"), "{said}");
    assert!(inside.is_empty());
    let (said, inside) = build(Some(b"object"));
    assert!(!said.contains("warning"), "{said}");
    assert_eq!(inside, b"object");
}
