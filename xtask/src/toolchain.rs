//! What the BPF build needs: a compiler that builds `core` for bpfel-unknown-none, and bpf-linker.
//!
//! The compiler is a nightly with the component rust-src, or Debian's packaged Rust with its sources and
//! RUSTC_BOOTSTRAP=1. bpf-linker reads the compiler's LLVM bitcode, so its LLVM must not be older than the compiler's.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::run::{find, output, root};

/// Major version of the LLVM that bpf-linker is built with.
pub(crate) const LLVM: u32 = 22;

/// The target of the BPF programs.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// A compiler for the BPF programs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Compiler {
    /// A rustup toolchain, by its name.
    Nightly(String),
    /// Debian's packages rustc-web, cargo-web and rust-web-src.
    Debian,
}

/// The toolchain names that are looked for, in order. The dated one is what [`crate::setup`] brings: its LLVM is known
/// to fit.
pub(crate) const NIGHTLIES: &[&str] = &["nightly", "nightly-2026-05-20"];

/// Everything that `build-ebpf` needs.
pub(crate) struct Toolchain {
    pub compiler: Compiler,
    pub linker: PathBuf,
}

impl Toolchain {
    /// What is there now; `Err` says in one line what is missing.
    pub(crate) fn find() -> Result<Self, String> {
        let compiler = compiler()
            .ok_or("no nightly with rust-src, and no Debian rustc-web with rust-web-src")?;
        let linker = linker().ok_or("no bpf-linker")?;
        Ok(Self { compiler, linker })
    }

    /// The compiler's cargo, in the BPF programs' folder, set up for `verb`.
    pub(crate) fn cargo(&self, verb: &str) -> Command {
        let mut command = self.compiler.command("cargo");
        command.current_dir(root().join("mvp-ebpf")).arg(verb);
        command.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker);
        // --btf: type information, from which the kernel names maps and programs, and by which aya can relocate.
        command.env(
            "CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS",
            "-Cdebuginfo=2 -Clink-arg=--btf",
        );
        command
    }
}

impl Compiler {
    /// A program of this toolchain, freed from what rustup and cargo tell the processes that they start about theirs.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = match self {
            Self::Nightly(name) => {
                let mut command = Command::new("rustup");
                command.args(["run", name, program]);
                command
            }
            Self::Debian => {
                let mut command = Command::new(Path::new("/usr/bin").join(program));
                command.env("RUSTC_BOOTSTRAP", "1");
                command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
                command
            }
        };
        let inherited = [
            "CARGO",
            "RUSTC",
            "RUSTDOC",
            "RUSTUP_TOOLCHAIN",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
        ];
        for name in
            inherited
                .iter()
                .chain(&["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR"])
        {
            command.env_remove(name);
        }
        command
    }

    /// For messages.
    pub(crate) fn describe(&self) -> String {
        let version = output(self.command("rustc").arg("--version")).unwrap_or_default();
        match self {
            Self::Nightly(name) => format!("rustup's {name} ({version})"),
            Self::Debian => format!("Debian's rustc-web ({version})"),
        }
    }
}

/// A compiler that is ready: sources there, LLVM not newer than bpf-linker's.
pub(crate) fn compiler() -> Option<Compiler> {
    let nightlies = NIGHTLIES
        .iter()
        .map(|name| Compiler::Nightly((*name).to_owned()));
    nightlies
        .chain([Compiler::Debian])
        .find(|compiler| has_sources(compiler) && llvm_fits(compiler))
}

/// Whether the sources of `core` are beside the compiler.
pub(crate) fn has_sources(compiler: &Compiler) -> bool {
    output(compiler.command("rustc").args(["--print", "sysroot"])).is_some_and(|sysroot| {
        Path::new(&sysroot)
            .join("lib/rustlib/src/rust/library/core/Cargo.toml")
            .is_file()
    })
}

/// Whether bpf-linker can read the compiler's bitcode.
pub(crate) fn llvm_fits(compiler: &Compiler) -> bool {
    output(compiler.command("rustc").args(["--version", "--verbose"]))
        .and_then(|text| llvm_major(&text))
        .is_some_and(|major| major <= LLVM)
}

/// Where setup puts what it builds, so that nothing outside the repository changes.
pub(crate) fn tools() -> PathBuf {
    root().join(".cache/tools")
}

/// The bpf-linker that setup built, or the user's own.
pub(crate) fn linker() -> Option<PathBuf> {
    let own = tools().join("bin/bpf-linker");
    // Asked for its version: a linker whose LLVM library has gone does not start.
    let works = |path: &PathBuf| output(Command::new(path).arg("--version")).is_some();
    [Some(own), find("bpf-linker")]
        .into_iter()
        .flatten()
        .find(works)
}

/// The major version from the line "LLVM version: 22.1.4" of `rustc --version --verbose`.
pub(crate) fn llvm_major(text: &str) -> Option<u32> {
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_version_is_read_from_rustc() {
        let text = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nhost: x86_64-unknown-linux-gnu\nLLVM version: 22.1.4\n";
        assert_eq!(llvm_major(text), Some(22));
        assert_eq!(llvm_major("rustc 1.95.0\n"), None);
        assert_eq!(llvm_major("LLVM version: unknown\n"), None);
    }
}
