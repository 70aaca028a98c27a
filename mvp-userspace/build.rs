//! Embeds the BPF object when there is one, else an empty slice, so that the agent compiles with no BPF toolchain.

use std::{env, error::Error, fs, path::PathBuf};

/// Names another object than the one that `cargo xtask build-ebpf` leaves in `target/bpf/mvp.o`.
const OBJECT_VAR: &str = "MVP_EBPF_OBJECT";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={OBJECT_VAR}");
    let embedded = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?).join("mvp.o");

    if let Some(object) = env::var_os(OBJECT_VAR)
        .filter(|v| !v.is_empty())
        .map(PathBuf::from)
    {
        // Named by hand: its absence is a mistake.
        println!("cargo::rerun-if-changed={}", object.display());
        fs::copy(&object, &embedded)
            .map_err(|e| format!("{OBJECT_VAR}={}: {e}", object.display()))?;
        return Ok(());
    }

    // The folder is watched and not the file: cargo takes a missing file for one that changed, and would build the
    // agent anew each time; a file that appears, changes or goes touches its folder.
    let manifest =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?);
    let folder = manifest.join("../target/bpf");
    fs::create_dir_all(&folder)?;
    println!("cargo::rerun-if-changed={}", folder.display());
    let object = folder.join("mvp.o");
    if object.exists() {
        fs::copy(&object, &embedded)?;
    } else {
        println!(
            "cargo::warning=no BPF object: this mvp has no kernel part and steers nothing (`cargo xtask build` builds it)"
        );
        fs::write(&embedded, [])?;
    }
    Ok(())
}
