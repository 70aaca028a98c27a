//! Building for another machine with Debian's cross compilers.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};

use crate::{
    run::{find, output, run_within, say},
    setup,
};

/// rustup brings some 30 MB.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(240);

/// Has `build` compile and link for `target`: the standard library and a C compiler are brought here if need be.
///
/// # Errors
/// One of them cannot be had.
pub(super) fn prepare(build: &mut Command, target: &str) -> Result<()> {
    let prefix = prefix(target);
    let compiler = format!("{prefix}-gcc");
    // Debian's compiler only recommends the C library's headers, without which it compiles nothing.
    let headers = Path::new("/usr").join(&prefix).join("include/stdlib.h");
    if find(&compiler).is_none() || !headers.exists() {
        let headers = format!("libc6-dev-{}-cross", super::machine(target)?);
        setup::apt_install(&[&format!("gcc-{prefix}"), &headers])?;
    }
    if !has_std(target) {
        say(&format!("adding the standard library for {target}"));
        let mut add = Command::new("rustup");
        run_within(add.args(["target", "add", target]), LIMIT)?;
        if !has_std(target) {
            bail!("no standard library for {target}");
        }
    }
    let variable = target.replace('-', "_");
    build.args(["--target", target]);
    build.env(
        format!("CARGO_TARGET_{}_LINKER", variable.to_uppercase()),
        &compiler,
    );
    // aws-lc is C and assembly; its build script asks for these.
    build.env(format!("CC_{variable}"), &compiler);
    build.env(format!("AR_{variable}"), format!("{prefix}-ar"));
    Ok(())
}

/// A program of binutils that reads `target`'s files.
pub(super) fn tool(target: &str, name: &str) -> String {
    let cross = format!("{}-{name}", prefix(target));
    // This machine's own has both names in Debian, and elsewhere the short one only.
    match find(&cross) {
        Some(_) => cross,
        None => name.to_owned(),
    }
}

/// `aarch64-unknown-linux-gnu` -> `aarch64-linux-gnu`, Debian's and GNU's name. Debian's packages write `x86-64`.
fn prefix(target: &str) -> String {
    target.replace("-unknown-", "-")
}

fn has_std(target: &str) -> bool {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", target]);
    output(&mut rustc).is_some_and(|folder| Path::new(&folder).is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_tools() {
        assert_eq!(prefix("aarch64-unknown-linux-gnu"), "aarch64-linux-gnu");
        assert_eq!(
            tool("riscv64-unknown-linux-gnu", "no-such-tool"),
            "no-such-tool"
        );
    }
}
