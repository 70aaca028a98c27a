//! What is pinned: who may use it, what outlives whom, and that it can be removed without a trace.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use crate::common::{tables::*, *};
use aya::programs::{ProgramInfo, loaded_links, loaded_programs};
use mvp::kernel::{Error, Reason, Start, Steering, enable_run_time, read_pinned, uninstall};
use mvp_tests::netns::{Namespace, privileged};
use mvp_tests::raw_bpf::*;
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

const SERVER: &str = "127.0.0.1:6443";

#[test]
fn a_second_agent_takes_over_from_the_first() {
    pinned("a_second_agent_takes_over_from_the_first", |path| {
        let _server = Greeter::everywhere(b'S', PORT);
        let first = Greeter::everywhere(b'A', 0);
        let (mut old, beating) = armed(path, &first);
        let mut old_routes = old.take_routes().unwrap();
        assert_eq!(*old.start(), Start::Fresh);
        assert!(old.take_pinned_table().is_none());
        assert_eq!(
            fs::metadata(path).unwrap().permissions().mode() & 0o7777,
            0o750
        );
        assert_eq!(ask(SERVER), 'A');
        old_routes.write(&table(7, 3)).unwrap();
        let (link, program) = (link_id(path), program_id(path));

        let second = Greeter::everywhere(b'B', 0);
        let mut new = Steering::install(path).unwrap();
        assert_eq!(*new.start(), Start::Reused);
        assert_eq!((link_id(path), program_id(path)), (link, program));
        let mut old_heartbeat = beating.stop();
        let _beating = Beating::start(&mut new);
        // As it was left: armed, with the first agent's listener, and its routes.
        assert!(new.guard().unwrap().armed);
        assert_eq!(ask(SERVER), 'A');
        assert_eq!(new.take_pinned_table().unwrap().generation, 7);

        // The first may not write any more.
        assert!(matches!(old_heartbeat.beat(ROOM), Err(Error::Replaced)));
        assert!(matches!(old.disarm(Reason::Draining), Err(Error::Replaced)));
        assert!(matches!(old.clear_listeners(), Err(Error::Replaced)));
        assert!(matches!(
            old_routes.write(&table(8, 0)),
            Err(Error::Replaced)
        ));
        drop((old, old_heartbeat, old_routes));

        new.set_listeners(&[second.fd()]).unwrap();
        assert_eq!(ask(SERVER), 'B');
        let view = read_pinned(path).unwrap();
        assert!(view.attached && view.guard.armed && view.guard.alive);
        assert_eq!(view.ports, [PORT]);
        assert_eq!(view.table.unwrap().generation, 7);
        assert_eq!(view.guard.reason, Reason::Operator);
    });
}

#[test]
fn an_agent_that_is_killed_is_passed_by_and_followed() {
    pinned(
        "an_agent_that_is_killed_is_passed_by_and_followed",
        |path| {
            let _server = Greeter::everywhere(b'S', PORT);
            let mut agent = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "pins::agent_process", "--nocapture"])
                .env("MVP_TEST_PINS", path)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let lines = BufReader::new(agent.stdout.take().unwrap()).lines();
            let mut lines = lines.map_while(Result::ok);
            assert!(lines.any(|line| line.ends_with("agent is up")));
            assert_eq!(ask(SERVER), 'A');
            agent.kill().unwrap();
            agent.wait().unwrap();

            // At once, without waiting for the heartbeat to grow old: its listener went with it.
            assert_eq!(ask(SERVER), 'S');
            let view = read_pinned(path).unwrap();
            assert!(view.attached && view.guard.armed);
            assert_eq!(view.table.as_ref().unwrap(), &pinned_form(&table(5, 40)));

            let next = Greeter::everywhere(b'B', 0);
            let mut steering = Steering::install(path).unwrap();
            assert_eq!(*steering.start(), Start::Reused);
            assert_eq!(steering.take_pinned_table(), view.table);
            steering.set_listeners(&[next.fd()]).unwrap();
            assert!(steering.guard().unwrap().armed);
            let _beating = Beating::start(&mut steering);
            assert_eq!(ask(SERVER), 'B');
        },
    );
}

/// Not a test of its own: the process that the test above kills.
#[test]
fn agent_process() {
    let Some(path) = std::env::var_os("MVP_TEST_PINS").map(PathBuf::from) else {
        return;
    };
    let agent = Greeter::everywhere(b'A', 0);
    let (mut steering, _beating) = armed(&path, &agent);
    steering
        .take_routes()
        .unwrap()
        .write(&table(5, 40))
        .unwrap();
    println!("agent is up");
    loop {
        thread::park();
    }
}

#[test]
fn pins_of_another_program_are_replaced_under_the_same_link() {
    pinned(
        "pins_of_another_program_are_replaced_under_the_same_link",
        |path| {
            let _server = Greeter::everywhere(b'S', PORT);
            let agent = Greeter::everywhere(b'A', 0);
            drop(armed(path, &agent));
            let link = link_id(path);
            // As another build left them: its program under the link.
            let other = trivial_program();
            fs::remove_file(path.join("program")).unwrap();
            bpf_pin(&other, &path.join("program"));
            bpf_link_update(&path.join("link"), &other);
            assert_eq!(ask(SERVER), 'S');
            let other_id = program_id(path);

            let (steering, _beating) = armed(path, &agent);
            let Start::Replaced(why) = steering.start() else {
                panic!("{:?}", steering.start());
            };
            assert!(why.contains("tag"), "{why}");
            assert!(!steering.start().to_string().contains('\n'));
            assert_eq!(link_id(path), link, "updated, not detached and attached");
            assert_ne!(program_id(path), other_id);
            assert_eq!(ask(SERVER), 'A');
            assert_eq!(names(path.parent().unwrap()), ["mvp"]);

            // Only the link's program is another.
            bpf_link_update(&path.join("link"), &other);
            let (steering, _beating) = armed(path, &agent);
            assert!(matches!(steering.start(), Start::Replaced(why) if why.contains("link")));
            assert_eq!(ask(SERVER), 'A');
        },
    );
}

#[test]
fn pins_of_another_abi_are_refused_by_readers_and_replaced_by_agents() {
    pinned(
        "pins_of_another_abi_are_refused_by_readers_and_replaced_by_agents",
        |path| {
            let _server = Greeter::everywhere(b'S', PORT);
            let agent = Greeter::everywhere(b'A', 0);
            drop(armed(path, &agent));
            let link = link_id(path);
            let mut abi = aya::maps::Array::<_, u32>::try_from(aya::maps::Map::Array(
                aya::maps::MapData::from_pin(path.join("ABI")).unwrap(),
            ))
            .unwrap();
            // The agent's own is frozen.
            assert!(abi.set(0, 99, 0).is_err());
            of_another_release(path, 99);
            // Later releases may have other maps.
            fs::rename(path.join("NOTED"), path.join("FUTURE")).unwrap();

            let error = read_pinned(path).unwrap_err();
            assert!(
                matches!(error, Error::PinnedAbi { found: 99, .. }),
                "{error}"
            );
            let (steering, _beating) = armed(path, &agent);
            let Start::Replaced(why) = steering.start() else {
                panic!("{:?}", steering.start());
            };
            assert!(why.contains("99"), "{why}");
            assert_eq!(link_id(path), link);
            assert_eq!(ask(SERVER), 'A');
            assert!(!path.join("FUTURE").exists());

            // A map that is missing or has another size.
            fs::remove_file(path.join("ROUTES")).unwrap();
            let (steering, _beating) = armed(path, &agent);
            assert!(matches!(steering.start(), Start::Replaced(why) if why.contains("ROUTES")));
            fs::remove_file(path.join("PULSE")).unwrap();
            bpf_pin(&bpf_array_of_one(0), &path.join("PULSE"));
            let (steering, _beating) = armed(path, &agent);
            assert!(matches!(steering.start(), Start::Replaced(why) if why.contains("PULSE")));
            assert_eq!(ask(SERVER), 'A');
        },
    );
}

#[test]
fn stale_pins_are_attached_anew() {
    if !privileged("stale_pins_are_attached_anew", true) {
        return;
    }
    with_bpffs(|bpffs| {
        let path = bpffs.join("mvp");
        // Its namespace goes with its last user; the pins stay.
        Namespace::new()
            .unwrap()
            .run(|| drop(Steering::install(&path).unwrap()))
            .unwrap();
        eventually("the namespace to go", || {
            !read_pinned(&path).unwrap().attached
        });
        let namespace = Namespace::new().unwrap();
        let attach = || {
            let _server = Greeter::everywhere(b'S', PORT);
            let agent = Greeter::everywhere(b'A', 0);
            let (steering, _beating) = armed(&path, &agent);
            assert_eq!(*steering.start(), Start::Reused);
            assert_eq!(ask(SERVER), 'A');
            // A link that somebody removed is made again.
            fs::remove_file(path.join("link")).unwrap();
            // The kernel frees it a little later.
            eventually("the link to go", || ask(SERVER) == 'S');
            let (steering, _beating) = armed(&path, &agent);
            assert_eq!(*steering.start(), Start::Reused);
            assert_eq!(ask(SERVER), 'A');
        };
        namespace.run(attach).unwrap();

        // Another node that was given the same folder by mistake gets an error, and disturbs nothing.
        let other = Namespace::new().unwrap();
        let error = other
            .run(|| Steering::install(&path).err().unwrap())
            .unwrap();
        assert!(matches!(error, Error::OtherNamespace { .. }), "{error}");
        assert!(read_pinned(&path).unwrap().attached);
        assert_eq!(names(bpffs), ["mvp"]);

        // What an agent that died while it installed itself left behind goes with the next.
        fs::create_dir(bpffs.join("mvp-new")).unwrap();
        namespace
            .run(|| drop(Steering::install(&path).unwrap()))
            .unwrap();
        assert_eq!(names(bpffs), ["mvp"]);
    });
}

#[test]
fn folders_that_are_not_ours_are_left_alone() {
    pinned("folders_that_are_not_ours_are_left_alone", |path| {
        let plain = tempfile::tempdir().unwrap();
        for folder in [
            plain.path().join("mvp"),
            PathBuf::from("/nowhere/mvp"),
            path.with_extension("d"),
        ] {
            for error in [
                Steering::install(&folder).err().unwrap(),
                uninstall(&folder).unwrap_err(),
            ] {
                assert!(matches!(error, Error::NoBpffs { .. }), "{error:?}");
                assert!(error.to_string().contains("kernel.pinPath"), "{error}");
            }
            assert!(read_pinned(&folder).is_err());
        }
        assert!(matches!(read_pinned(path), Err(Error::NotPinned { .. })));
        fs::create_dir(path).unwrap();
        bpf_pin(&trivial_program(), &path.join("theirs"));
        for error in [
            Steering::install(path).err().unwrap(),
            uninstall(path).unwrap_err(),
        ] {
            assert!(matches!(error, Error::NotOurs { .. }), "{error:?}");
        }
        assert_eq!(names(path), ["theirs"]);
        fs::remove_file(path.join("theirs")).unwrap();
        // An empty folder holds nothing of anybody.
        assert_eq!(*Steering::install(path).unwrap().start(), Start::Fresh);

        // One change at a time: while somebody holds the lock, the error says so.
        let lock = fs::File::open(path.parent().unwrap()).unwrap();
        lock.lock().unwrap();
        assert!(matches!(uninstall(path), Err(Error::Busy { .. })));
        assert!(path.join("link").exists());
    });
}

#[test]
fn three_capabilities_are_enough_and_needed() {
    pinned("three_capabilities_are_enough_and_needed", |path| {
        let few = CapabilitySet::BPF | CapabilitySet::NET_ADMIN | CapabilitySet::PERFMON;
        let _server = Greeter::everywhere(b'S', PORT);
        let agent = Greeter::everywhere(b'A', 0);
        // Capabilities are a thread's, so a thread may lay them down.
        let with = |set: CapabilitySet, work: &(dyn Fn() + Sync)| {
            thread::scope(|scope| {
                let run = scope.spawn(|| {
                    let sets = CapabilitySets {
                        effective: set,
                        permitted: set,
                        inheritable: CapabilitySet::empty(),
                    };
                    set_capabilities(None, sets).unwrap();
                    work();
                });
                if let Err(panic) = run.join() {
                    std::panic::resume_unwind(panic);
                }
            });
        };
        let refused = |without: &str| {
            let error = Steering::install(path).err().expect(without);
            assert!(matches!(error, Error::Permission { .. }), "{error:?}");
            let left = names(path.parent().unwrap());
            assert_eq!(left, [""; 0], "of the attempt");
        };
        with(CapabilitySet::empty(), &|| refused("without any"));
        for one in [CapabilitySet::BPF, CapabilitySet::NET_ADMIN] {
            with(few - one, &|| refused("without one"));
        }
        // Linux 7.2 loads the program without it; older ones do not.
        with(few - CapabilitySet::PERFMON, &|| {
            let Ok(steering) = Steering::install(path) else {
                return refused("without CAP_PERFMON");
            };
            println!("note: CAP_PERFMON is not asked for here");
            drop(steering);
            uninstall(path).unwrap();
        });
        with(few, &|| {
            let (mut steering, beating) = armed(path, &agent);
            assert_eq!(ask(SERVER), 'A');
            steering.take_routes().unwrap().write(&table(1, 9)).unwrap();
            assert!(steering.take_log().is_some());
            // Again, over pins that are there, and over pins of another program.
            assert_eq!(*Steering::install(path).unwrap().start(), Start::Reused);
            assert!(matches!(beating.stop().beat(1), Err(Error::Replaced)));
            fs::remove_file(path.join("program")).unwrap();
            let (steering, _beating) = armed(path, &agent);
            assert!(matches!(steering.start(), Start::Replaced(_)));
            assert_eq!(ask(SERVER), 'A');
            assert!(read_pinned(path).unwrap().guard.armed);
            assert!(matches!(enable_run_time(), Err(Error::Permission { .. })));
            uninstall(path).unwrap();
            assert_eq!(ask(SERVER), 'S');
        });
    });
}

#[test]
fn nothing_is_left_after_uninstall() {
    pinned("nothing_is_left_after_uninstall", |path| {
        let _server = Greeter::everywhere(b'S', PORT);
        let agent = Greeter::everywhere(b'A', 0);
        uninstall(path).unwrap();
        let (mut steering, beating) = armed(path, &agent);
        assert_eq!(ask(SERVER), 'A');
        let (link, program) = (link_id(path), program_id(path));
        let linked = || {
            loaded_links()
                .filter_map(Result::ok)
                .any(|l| l.id() == link)
        };
        let loaded = || {
            loaded_programs()
                .filter_map(Result::ok)
                .any(|p| p.id() == program)
        };
        assert!(linked() && loaded());

        // The agent may still run: it finds out by its heartbeats having no effect, and no connection comes.
        uninstall(path).unwrap();
        assert_eq!(ask(SERVER), 'S');
        assert_eq!(names(path.parent().unwrap()), [""; 0]);
        assert!(matches!(read_pinned(path), Err(Error::NotPinned { .. })));
        eventually("the link to go", || !linked());
        eventually("the program to go", || !loaded());
        steering.disarm(Reason::Draining).unwrap();
        drop((steering, beating));
        uninstall(path).unwrap();

        // By hand, as the documentation says.
        drop(armed(path, &agent));
        let (link, program) = (link_id(path), program_id(path));
        assert!(
            Command::new("rm")
                .arg("-r")
                .arg(path)
                .status()
                .unwrap()
                .success()
        );
        eventually("the link to go", || {
            !loaded_links()
                .filter_map(Result::ok)
                .any(|l| l.id() == link)
        });
        eventually("the program to go", || {
            !loaded_programs()
                .filter_map(Result::ok)
                .any(|p| p.id() == program)
        });
        assert_eq!(ask(SERVER), 'S');
    });
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    // A BPF file system has them from its birth (kernel/bpf/preload).
    names.retain(|name| !name.ends_with(".debug"));
    names.sort();
    names
}

fn program_id(path: &Path) -> u32 {
    ProgramInfo::from_pin(path.join("program")).unwrap().id()
}

fn link_id(path: &Path) -> u32 {
    let link = aya::programs::links::PinnedLink::from_pin(path.join("link")).unwrap();
    aya::programs::links::FdLink::from(link)
        .info()
        .unwrap()
        .id()
}

/// On a BPF file system that everybody may write to, which is what a plain `mount -t bpf` makes, anybody could squat the agent's names
/// or hold its lock.
#[test]
fn what_others_could_tamper_with_is_refused_with_words() {
    pinned("what_others_could_tamper_with", |path| {
        let parent = path.parent().unwrap();
        let refused = |what: &str| {
            let error = Steering::install(path).err().unwrap();
            assert!(matches!(error, Error::Foreign { .. }), "{what}: {error}");
            let line = error.to_string();
            assert!(line.contains("not root's alone"), "{what}: {line}");
            line
        };
        for mode in [0o1777, 0o755, 0o770] {
            fs::set_permissions(parent, fs::Permissions::from_mode(mode)).unwrap();
            let line = refused("the folder above");
            assert!(line.contains(&format!("mode {mode:04o}")), "{line}");
        }
        fs::set_permissions(parent, fs::Permissions::from_mode(0o700)).unwrap();
        let name = |suffix: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        // Squatted before the first start.
        for squatted in [name("-new"), name("")] {
            fs::create_dir(&squatted).unwrap();
            std::os::unix::fs::chown(&squatted, Some(1000), Some(1000)).unwrap();
            let line = refused("a name");
            let named = format!("{} is not", squatted.display());
            assert!(
                line.starts_with(&named) && line.contains("owner 1000"),
                "{line}"
            );
            assert!(squatted.exists(), "it is not ours to remove");
            fs::remove_dir(&squatted).unwrap();
        }
        assert!(mvp::kernel::try_pins(path).is_ok());
        drop(Steering::install(path).unwrap());
        uninstall(path).unwrap();
    });
}

#[test]
fn a_trial_leaves_nothing_and_disturbs_nobody() {
    pinned("a_trial_leaves_nothing_and_disturbs_nobody", |path| {
        let _server = Greeter::everywhere(b'S', PORT);
        mvp::kernel::try_pins(path).unwrap();
        // The file system has files of its own in it.
        let left = fs::read_dir(path.parent().unwrap()).unwrap();
        let mut left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert_eq!(left.find(|name| name.starts_with("mvp")), None);
        let agent = Greeter::everywhere(b'A', 0);
        let (_steering, _beating) = armed(path, &agent);
        mvp::kernel::try_pins(path).unwrap();
        assert_eq!(ask(SERVER), 'A');
        assert_eq!(read_pinned(path).unwrap().ports, [PORT]);
    });
}
