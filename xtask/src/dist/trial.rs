//! The agent of another processor, tried in an emulator: that it is linked to its end, starts, and reads keys and certificates with its own
//! cryptography.

use std::{env, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    run::{find, output, run, say},
    setup::apt_install,
};

/// A configuration with one pair for everything: what is tried is that it is read, not that it is sensible.
const CONFIG: &str = "\
apiVersion: mvp/v1
listen: 127.0.0.1:16443
serving: {certFile: server.crt, keyFile: server.key}
clientCAFile: server.crt
upstream: {caFile: server.crt}
local: {url: 'https://127.0.0.1:6443'}
";

/// Runs `mvp version` and `mvp config test` as a machine of `target` would.
///
/// # Errors
/// There is no emulator, or the agent does not say what it should.
pub(super) fn run_emulated(target: &str, agent: &Path, kernel_part: bool) -> Result<()> {
    let architecture = target.split('-').next().unwrap_or_default();
    let emulator = format!("qemu-{architecture}-static");
    if find(&emulator).is_none() {
        apt_install(&["qemu-user-static"])?;
    }
    let mvp = |args: &[&str]| {
        let mut command = Command::new(&emulator);
        // Where Debian's cross compiler has the C library of that processor.
        command
            .arg("-L")
            .arg(format!("/usr/{}", target.replace("-unknown-", "-")));
        command.arg(agent).args(args);
        command
    };
    let told = output(&mut mvp(&["version", "-o", "json"]));
    let told = told.with_context(|| format!("{} does not run in {emulator}", agent.display()))?;
    let version: serde_json::Value = serde_json::from_str(&told)?;
    ensure!(
        version["version"] == env!("CARGO_PKG_VERSION")
            && version["architecture"] == architecture
            && version["kernelPart"] == kernel_part,
        "mvp version says {version}"
    );

    let folder = env::temp_dir().join(format!("mvp-trial-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let tried = config_test(&folder, &mvp);
    fs::remove_dir_all(&folder)?;
    tried?;
    say(&format!("the agent for {target} runs in {emulator}"));
    Ok(())
}

fn config_test(folder: &Path, mvp: &dyn Fn(&[&str]) -> Command) -> Result<()> {
    let config = folder.join("config.yaml");
    fs::write(&config, CONFIG)?;
    run(Command::new("openssl")
        .current_dir(folder)
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args([
            "-keyout",
            "server.key",
            "-out",
            "server.crt",
            "-days",
            "1",
            "-subj",
            "/CN=kubernetes",
        ])
        .args([
            "-addext",
            "subjectAltName=DNS:kubernetes.default.svc,IP:127.0.0.1",
        ]))?;
    let path = config.display().to_string();
    run(&mut mvp(&["config", "test", "--config", &path]))?;
    // It reads the key, and does not only find the file.
    fs::write(folder.join("server.key"), "nothing")?;
    let refused = mvp(&["config", "test", "--config", &path]).output()?;
    if refused.status.code() != Some(64) {
        bail!("mvp config test with a broken key: {}", refused.status);
    }
    Ok(())
}
