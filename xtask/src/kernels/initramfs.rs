//! The initramfs: an archive of what every guest has, and one of each kernel's modules behind it. The kernel takes archives in a row
//! as one.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::{
    Programs,
    packages::{Kernel, MODULES, cache},
};
use crate::run::find;

/// Modules that the tests need, where the kernel does not have them built in, by the list in which the guest finds them: what joins
/// namespaces, and what ends connections.
const NEEDED: [(&str, &[&str]); 2] = [
    ("first", &["veth"]),
    ("diagnosis", &["inet_diag", "tcp_diag"]),
];

/// Everything but the modules.
pub(super) struct Base {
    archive: PathBuf,
}

/// `script`: what the guest runs as its only process.
///
/// # Errors
/// If a tool is missing, or a file cannot be read.
pub(super) fn base(programs: &Programs, script: &str) -> Result<Base> {
    let staging = cache().join("base");
    renew(&staging)?;
    place(&staging, &tool("busybox")?, Path::new("/bin/busybox"))?;
    // Not busybox's own, which does not know what the tests ask for.
    let ip = fs::canonicalize(tool("ip")?)?;
    place(&staging, &ip, Path::new("/usr/sbin/ip"))?;
    let mut dynamic = vec![ip];
    for program in programs
        .tests
        .iter()
        .map(|(_, path)| path)
        .chain(&programs.started)
    {
        // At its own path: the tests have the paths of what they start compiled in.
        let target = place(&staging, program, program)?;
        let stripped = Command::new("strip").arg(&target).status();
        if !stripped.is_ok_and(|status| status.success()) {
            bail!("{} cannot be stripped", target.display());
        }
        dynamic.push(program.clone());
    }
    let mut libraries = BTreeSet::new();
    for program in &dynamic {
        libraries.extend(shared_libraries(program)?);
    }
    for library in &libraries {
        place(&staging, library, library)?;
    }
    write_executable(&staging.join("init"), script)?;
    let archive = cache().join("base.cpio");
    pack(&staging, &archive)?;
    Ok(Base { archive })
}

/// The whole of a kernel's initramfs, in a file of its own: several guests boot at a time.
///
/// # Errors
/// If a module's file cannot be read.
pub(super) fn with_modules(base: &Base, kernel: &Kernel) -> Result<PathBuf> {
    let staging = cache().join(of("modules", kernel));
    renew(&staging)?;
    let all = modules(kernel)?;
    let folder = staging.join("modules");
    fs::create_dir_all(&folder)?;
    let mut order = Vec::new();
    for (list, names) in NEEDED {
        let before = order.len();
        for name in names {
            load_order(&all, name, &mut order)?;
        }
        let more = order.iter().skip(before);
        let text: String = more.map(|name| format!("{name}\n")).collect();
        fs::write(folder.join(list), text)?;
    }
    for module in &order {
        let file = all.iter().find(|(name, _)| name == module);
        let (_, file) = file.context("a module that was found is gone")?;
        fs::write(folder.join(format!("{module}.ko")), bytes(file)?)?;
    }
    // As Debian has it: the agent tells by it what is not built and what is not loaded.
    place(
        &staging,
        &kernel.file("config")?,
        &Path::new("/boot").join(format!("config-{}", kernel.release)),
    )?;
    let archive = cache().join(of("modules.cpio", kernel));
    pack(&staging, &archive)?;
    let path = cache().join(of("initramfs.cpio", kernel));
    let mut whole = File::create(&path)?;
    for part in [&base.archive, &archive] {
        std::io::copy(&mut File::open(part)?, &mut whole)?;
    }
    Ok(path)
}

/// A name in the cache that is one kernel's alone.
fn of(what: &str, kernel: &Kernel) -> String {
    format!("{}-{what}", kernel.release)
}

/// Adds a module behind those that it depends on; nothing if it is built in.
fn load_order(all: &[(String, PathBuf)], name: &str, order: &mut Vec<String>) -> Result<()> {
    if order.iter().any(|there| there == name) {
        return Ok(());
    }
    let Some((_, file)) = all.iter().find(|(module, _)| module == name) else {
        // Built in, or not there at all; the tests tell the one from the other.
        return Ok(());
    };
    for needed in depends(&bytes(file)?) {
        load_order(all, &needed, order)?;
    }
    order.push(name.to_owned());
    Ok(())
}

/// Modules of the kernel's package by name, with their files.
fn modules(kernel: &Kernel) -> Result<Vec<(String, PathBuf)>> {
    let folders = MODULES.map(|folder| kernel.files.join(folder).join(&kernel.release));
    let mut left: Vec<_> = folders
        .into_iter()
        .filter(|folder| folder.is_dir())
        .collect();
    if left.is_empty() {
        bail!("the package of Linux {} has no modules", kernel.version);
    }
    let mut found = Vec::new();
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                left.push(path);
            } else if let Some((module, _)) = name.split_once(".ko") {
                found.push((module.replace('-', "_"), path));
            }
        }
    }
    Ok(found)
}

/// A module's bytes, unpacked.
fn bytes(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_none_or(|ending| ending == "ko") {
        return Ok(fs::read(file)?);
    }
    let output = Command::new("busybox")
        .args(["xz", "-dc"])
        .stdin(File::open(file)?)
        .stdout(Stdio::piped())
        .output()
        .context("busybox")?;
    if !output.status.success() {
        bail!("{} cannot be unpacked", file.display());
    }
    Ok(output.stdout)
}

/// What a module depends on: the entry `depends=` of its section `.modinfo`, whose entries end with a zero byte.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|bytes| bytes == KEY) else {
        return Vec::new();
    };
    let value = module.get(at + KEY.len()..).unwrap_or_default();
    let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

/// The files that the dynamic linker loads for a program, itself among them, by the paths under which it looks for them.
fn shared_libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("ldd")?;
    Ok(libraries_of(&String::from_utf8_lossy(&output.stdout)))
}

fn libraries_of(ldd: &str) -> BTreeSet<PathBuf> {
    ldd.split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

fn tool(name: &str) -> Result<PathBuf> {
    find(name).with_context(|| format!("{name} is not on PATH"))
}

/// Copies a file to a path of the guest.
fn place(staging: &Path, file: &Path, path: &Path) -> Result<PathBuf> {
    let target = staging.join(path.strip_prefix("/").unwrap_or(path));
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(file, &target).with_context(|| format!("copying {}", file.display()))?;
    Ok(target)
}

fn write_executable(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn renew(folder: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(folder);
    Ok(fs::create_dir_all(folder)?)
}

fn pack(folder: &Path, archive: &Path) -> Result<()> {
    let packed = Command::new("sh")
        .args([
            "-c",
            "find . -print0 | cpio --null --create --format=newc --quiet",
        ])
        .current_dir(folder)
        .stdout(File::create(archive)?)
        .status()?;
    if !packed.success() {
        bail!("cpio: {packed}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modules_dependencies_are_read_from_its_information() {
        assert_eq!(
            depends(b"x\0license=GPL\0depends=inet_diag,nf-tables\0intree=Y\0"),
            ["inet_diag", "nf_tables"]
        );
        assert_eq!(depends(b"\0depends=\0name=inet_diag\0"), [""; 0]);
        assert_eq!(depends(b"nothing"), [""; 0]);
    }

    #[test]
    fn every_kernel_has_files_of_its_own() {
        let kernel = |release: &str| Kernel {
            series: "6.1".into(),
            version: "6.1.192".into(),
            release: release.into(),
            files: PathBuf::new(),
        };
        let [one, other] = ["6.1.0-56-cloud-amd64", "5.10.0-46-cloud-amd64"].map(kernel);
        assert_ne!(of("initramfs.cpio", &one), of("initramfs.cpio", &other));
        assert_ne!(of("modules.cpio", &one), of("initramfs.cpio", &one));
    }

    #[test]
    fn libraries_are_those_with_a_path() {
        let ldd = "\tlinux-vdso.so.1 (0x7ffe)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        let found: Vec<_> = libraries_of(ldd).into_iter().collect();
        assert_eq!(
            found,
            [
                PathBuf::from("/lib/x86_64-linux-gnu/libc.so.6"),
                PathBuf::from("/lib64/ld-linux-x86-64.so.2")
            ]
        );
    }
}
