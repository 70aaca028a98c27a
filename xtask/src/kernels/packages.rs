//! Debian's kernels: which packages, fetched through a private apt configuration, so that the system's own sources stay as they are.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::run::{output, root, run, say};

/// A kernel that can be booted.
pub(super) struct Kernel {
    /// As asked for: `5.10`, `newest`.
    pub series: String,
    /// Debian's version, without its revision: `5.10.262`.
    pub version: String,
    /// `uname -r`: the name of the folder of modules.
    pub release: String,
    /// The package's unpacked files that matter here.
    pub files: PathBuf,
}

/// What is known to be there at the time of writing. A package that Debian has replaced since is not there any more: then the
/// newest of the series is taken.
const PINS: [(&str, &str, &str); 4] = [
    ("5.10", "linux-image-5.10.0-46-cloud-amd64", "5.10.262-1"),
    ("6.1", "linux-image-6.1.0-56-cloud-amd64", "6.1.192-2"),
    (
        "6.12",
        "linux-image-6.12.117+deb12-cloud-amd64",
        "6.12.117-1~deb12u1",
    ),
    ("newest", "linux-image-7.2.13+deb14-cloud-amd64", "7.2.13-1"),
];

/// Suites that have them, and whether they are in the archive of security updates.
const SUITES: [(&str, bool); 6] = [
    ("bullseye", false),
    ("bullseye-security", true),
    ("bookworm", false),
    ("bookworm-security", true),
    ("bookworm-backports", false),
    ("sid", false),
];

/// The kernel of a series, from the cache or from Debian's archive.
///
/// # Errors
/// If there is none, or the archive cannot be reached.
pub(super) fn kernel(series: &str) -> Result<Kernel> {
    let pin = PINS.iter().find(|(name, ..)| *name == series);
    if let Some((_, package, version)) = pin {
        let found = Found {
            package: (*package).to_owned(),
            version: (*version).to_owned(),
        };
        if folder(&found).join(DONE).exists() {
            return found.kernel(series);
        }
    }
    let apt = Apt::open()?;
    if let Some((_, package, version)) = pin {
        let found = Found {
            package: (*package).to_owned(),
            version: (*version).to_owned(),
        };
        match apt.fetch(&found) {
            Ok(()) => return found.kernel(series),
            Err(error) => say(&format!(
                "{package} {version} cannot be had ({error:#}): taking the newest of the series"
            )),
        }
    }
    let found = apt.newest(series)?;
    if !folder(&found).join(DONE).exists() {
        apt.fetch(&found)?;
    }
    found.kernel(series)
}

/// A package of a kernel image.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Found {
    package: String,
    version: String,
}

impl Found {
    /// `uname -r`.
    fn release(&self) -> &str {
        self.package
            .strip_prefix("linux-image-")
            .unwrap_or(&self.package)
    }

    fn kernel(&self, series: &str) -> Result<Kernel> {
        let version = self.version.split('-').next().unwrap_or(&self.version);
        Ok(Kernel {
            series: series.to_owned(),
            version: version.to_owned(),
            release: self.release().to_owned(),
            files: folder(self),
        })
    }
}

impl Kernel {
    /// A file of the package that is `boot/NAME-RELEASE`, or `NAME` among the modules (in Debian from Linux 7 on).
    ///
    /// # Errors
    /// If it is neither.
    pub(super) fn file(&self, name: &str) -> Result<PathBuf> {
        let boot = self
            .files
            .join("boot")
            .join(format!("{name}-{}", self.release));
        let beside = MODULES.map(|folder| self.files.join(folder).join(&self.release).join(name));
        std::iter::once(boot)
            .chain(beside)
            .find(|file| file.is_file())
            .with_context(|| format!("the package of Linux {} has no {name}", self.version))
    }
}

/// Where packages have modules, each in a folder named by its release.
pub(super) const MODULES: [&str; 2] = ["lib/modules", "usr/lib/modules"];

/// Written last, when all is unpacked.
const DONE: &str = "complete";

fn folder(found: &Found) -> PathBuf {
    cache().join(format!("{}_{}", found.package, found.version))
}

pub(super) fn cache() -> PathBuf {
    root().join(".cache/kernels")
}

/// apt with sources, lists and archives of its own.
struct Apt {
    options: Vec<String>,
    folder: PathBuf,
}

impl Apt {
    fn open() -> Result<Self> {
        let folder = cache().join("apt");
        for below in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(below))?;
        }
        let sources = folder.join("sources.list");
        fs::write(&sources, sources_list(&machines_sources()))?;
        let option = |key: &str, value: &Path| format!("{key}={}", value.display());
        let options = vec![
            option("Dir::Etc::SourceList", &sources),
            option("Dir::Etc::SourceParts", Path::new("/dev/null")),
            option("Dir::State::Lists", &folder.join("lists")),
            option("Dir::Cache", &folder.join("cache")),
            // The files belong to whoever runs this.
            "APT::Sandbox::User=".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
        ];
        let apt = Self { options, folder };
        say("reading the lists of Debian's kernels");
        run(apt.command("apt-get").args(["-qq", "update"]))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }

    /// The newest package of a series, or of all.
    fn newest(&self, series: &str) -> Result<Found> {
        let names = output(self.command("apt-cache").args(["pkgnames", "linux-image-"]))
            .context("apt-cache pkgnames")?;
        let names: Vec<_> = names
            .lines()
            .filter(|name| is_image_of(name, series))
            .collect();
        if names.is_empty() {
            bail!("Debian has no cloud kernel of the series {series}");
        }
        let shown = output(
            self.command("apt-cache")
                .args(["show", "--no-all-versions"])
                .args(names),
        )
        .context("apt-cache show")?;
        newest_of(&shown).with_context(|| format!("no version of the series {series}"))
    }

    /// Downloads and unpacks the image and, where Debian packs them apart, its kernel and its modules.
    fn fetch(&self, found: &Found) -> Result<()> {
        let debs = self.folder.join("debs");
        let _ = fs::remove_dir_all(&debs);
        fs::create_dir_all(&debs)?;
        let named = |package: &str| format!("{package}={}", found.version);
        let download = |packages: &[String]| {
            run(self
                .command("apt-get")
                .current_dir(&debs)
                .args(["-qq", "download"])
                .args(packages))
        };
        download(&[named(&found.package)])?;
        let image = only_deb(&debs)?;
        let depends = output(
            Command::new("dpkg-deb")
                .arg("-f")
                .arg(&image)
                .arg("Depends"),
        );
        let parts: Vec<_> = parts_of(&depends.unwrap_or_default())
            .iter()
            .map(|package| named(package))
            .collect();
        if !parts.is_empty() {
            download(&parts)?;
        }
        let target = folder(found);
        let _ = fs::remove_dir_all(&target);
        fs::create_dir_all(&target)?;
        for deb in fs::read_dir(&debs)? {
            unpack(&deb?.path(), &target)?;
        }
        fs::remove_dir_all(&debs)?;
        fs::write(target.join(DONE), "")?;
        Ok(())
    }
}

/// The kernel, its configuration, and the modules among which those are that a guest needs.
fn unpack(deb: &Path, target: &Path) -> Result<()> {
    const WANTED: [&str; 6] = [
        "*/boot/vmlinuz-*",
        "*/boot/config-*",
        "*/lib/modules/*/vmlinuz",
        "*/lib/modules/*/config",
        "*/kernel/net/*",
        "*/kernel/drivers/net/veth*",
    ];
    let mut unpacking = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .context("dpkg-deb")?;
    let tar = unpacking.stdout.take().context("dpkg-deb has no output")?;
    let unpacked = Command::new("tar")
        .args(["-x", "--wildcards", "-C"])
        .arg(target)
        .args(WANTED)
        .stdin(tar)
        // A pattern that matches nothing in one of the packages is no failure.
        .stderr(std::process::Stdio::null())
        .status()
        .context("tar")?;
    let read = unpacking.wait()?;
    // tar says 2 for such a pattern too; whether all is there is seen when it is used.
    if !read.success() || unpacked.code().is_none() {
        bail!("{} cannot be unpacked", deb.display());
    }
    Ok(())
}

fn only_deb(folder: &Path) -> Result<PathBuf> {
    let deb = fs::read_dir(folder)?.next().context("nothing downloaded")?;
    Ok(deb?.path())
}

/// Packages that a kernel image consists of beside itself (from Linux 7 on in Debian).
fn parts_of(depends: &str) -> Vec<&str> {
    depends
        .split([',', '|'])
        .filter_map(|one| one.split_whitespace().next())
        .filter(|name| {
            ["linux-base-", "linux-binary-", "linux-modules-"]
                .iter()
                .any(|part| {
                    name.strip_prefix(part)
                        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
                })
        })
        .collect()
}

/// Whether this is the name of a cloud kernel's image of the series: `linux-image-6.1.0-56-cloud-amd64`, and not the package
/// `linux-image-6.1-cloud-amd64` that depends on the latest.
fn is_image_of(name: &str, series: &str) -> bool {
    let Some(release) = name
        .strip_prefix("linux-image-")
        .and_then(|rest| rest.strip_suffix("-cloud-amd64"))
    else {
        return false;
    };
    let numbers = release.split(['-', '+']).next().unwrap_or_default();
    let whole =
        numbers.split('.').count() == 3 && numbers.starts_with(|c: char| c.is_ascii_digit());
    let of_series = series == "newest" || release.starts_with(&format!("{series}."));
    whole && of_series
}

/// The newest of the paragraphs that `apt-cache show` prints.
fn newest_of(shown: &str) -> Option<Found> {
    let field = |paragraph: &str, name: &str| {
        let line = paragraph.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim().to_owned())
    };
    shown
        .split("\n\n")
        .filter_map(|paragraph| {
            Some(Found {
                package: field(paragraph, "Package:")?,
                version: field(paragraph, "Version:")?,
            })
        })
        .max_by_key(|found| numbers(&found.version))
}

/// The numbers in a version, in their order.
fn numbers(version: &str) -> Vec<u64> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

fn sources_list(machine: &str) -> String {
    let (archive, security) = mirrors(machine);
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let line = |(suite, is_security): &(&str, bool)| {
        let from = if *is_security { &security } else { &archive };
        format!("deb [arch=amd64 signed-by={keyring}] {from} {suite} main\n")
    };
    SUITES.iter().map(line).collect()
}

/// Where this machine's apt finds Debian and its security updates; Debian's own addresses if its sources name neither.
fn mirrors(machine: &str) -> (String, String) {
    let find = |ending: &str| {
        let words = machine
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .flat_map(str::split_whitespace);
        words
            .filter(|word| word.starts_with("http"))
            .find(|word| word.trim_end_matches('/').ends_with(ending))
            .map(str::to_owned)
    };
    (
        find("/debian").unwrap_or_else(|| "http://deb.debian.org/debian".to_owned()),
        find("/debian-security")
            .unwrap_or_else(|| "http://deb.debian.org/debian-security".to_owned()),
    )
}

/// The text of all sources of this machine.
fn machines_sources() -> String {
    let folder = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten();
    let files = folder.flatten().map(|file| file.path());
    let files = std::iter::once(PathBuf::from("/etc/apt/sources.list")).chain(files);
    files
        .filter_map(|file| fs::read_to_string(file).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_newest_image_is_chosen_by_its_numbers() {
        for (name, series, is) in [
            ("linux-image-5.10.0-46-cloud-amd64", "5.10", true),
            ("linux-image-5.10.0-46-cloud-amd64", "5.1", false),
            ("linux-image-6.12.117+deb12-cloud-amd64", "6.12", true),
            ("linux-image-6.12.117+deb12-cloud-amd64", "6.1", false),
            ("linux-image-6.12-cloud-amd64", "6.12", false),
            ("linux-image-cloud-amd64", "newest", false),
            ("linux-image-7.2.13+deb14-cloud-amd64", "newest", true),
            ("linux-image-7.2.13+deb14-amd64", "newest", false),
        ] {
            assert_eq!(is_image_of(name, series), is, "{name} of {series}");
        }
        let shown = "Package: a\nVersion: 6.12.95-1~bpo\n\nPackage: b\nVersion: 6.12.117-1\n\nPackage: c\nVersion: 6.12.9-1";
        let newest = newest_of(shown).map(|found| found.package);
        assert_eq!(newest.as_deref(), Some("b"));
    }

    #[test]
    fn a_kernel_in_parts_is_seen_by_its_dependencies() {
        let depends = "dracut | initramfs-tools (>= 0.120), linux-base (>= 4.17~), linux-base-7.2.13+deb14-cloud-amd64 (= 7.2.13-1), \
                       linux-binary-7.2.13+deb14-cloud-amd64 (= 7.2.13-1), linux-modules-7.2.13+deb14-cloud-amd64 (= 7.2.13-1)";
        assert_eq!(
            parts_of(depends),
            [
                "linux-base-7.2.13+deb14-cloud-amd64",
                "linux-binary-7.2.13+deb14-cloud-amd64",
                "linux-modules-7.2.13+deb14-cloud-amd64"
            ]
        );
    }

    #[test]
    fn the_machines_mirror_is_used() {
        let sources = "# http://snapshot.example/archive/debian/1\nTypes: deb\nURIs: http://mirror.example/debian\n\nURIs: \
                       http://mirror.example/debian-security/\n";
        assert_eq!(
            mirrors(sources),
            (
                "http://mirror.example/debian".to_owned(),
                "http://mirror.example/debian-security/".to_owned()
            )
        );
        assert_eq!(mirrors("").0, "http://deb.debian.org/debian");
    }
}
