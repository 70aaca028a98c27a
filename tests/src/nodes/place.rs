//! One node, or the place of clients: a network namespace with an address, and a runtime in it.

use std::future::Future;
use std::process::Command;
use std::sync::Arc;

use tokio::runtime::Runtime;

use super::Binaries;
use crate::netns::Namespace;

/// A namespace with a runtime whose tasks, sockets and processes are in it.
pub struct Place {
    runtime: Option<Runtime>,
    /// The namespace itself, for commands that run in it.
    pub namespace: Namespace,
    /// Its IPv4 address.
    pub address: String,
    /// Its IPv6 address.
    pub address6: String,
    pub(super) binaries: Arc<Binaries>,
}

impl Place {
    /// `10.66.NUMBER.1` and `fd66:NUMBER::1`, reached by the router.
    pub fn new(router: &Namespace, number: u8, binaries: &Arc<Binaries>) -> Self {
        let namespace = Namespace::new().unwrap();
        let (own, far) = (
            format!("10.66.{number}.1/24"),
            format!("10.66.{number}.254/24"),
        );
        let name = format!("node{number}");
        namespace
            .connect(("eth0", &own), router, (&name, &far))
            .unwrap();
        let gateway = format!("10.66.{number}.254");
        namespace
            .ip(&["route", "add", "default", "via", &gateway])
            .unwrap();
        let (own6, far6) = (format!("fd66:{number}::1"), format!("fd66:{number}::254"));
        for (end, address, device) in [(&namespace, &own6, "eth0"), (router, &far6, name.as_str())]
        {
            let address = format!("{address}/64");
            end.ip(&["address", "add", &address, "dev", device, "nodad"])
                .unwrap();
        }
        namespace
            .ip(&["-6", "route", "add", "default", "via", &far6])
            .unwrap();
        // Its threads are born in the namespace.
        let runtime = namespace
            .run(|| {
                tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .enable_all()
                    .build()
            })
            .unwrap()
            .unwrap();
        Self {
            runtime: Some(runtime),
            namespace,
            address: format!("10.66.{number}.1"),
            address6: own6,
            binaries: Arc::clone(binaries),
        }
    }

    /// Runs a task in the namespace and waits for its result.
    pub fn on<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let runtime = self.runtime.as_ref().unwrap();
        let task = runtime.spawn(work);
        match runtime.handle().block_on(task) {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// What `mvp` says there, in the namespace.
    pub fn command(&self, arguments: &[&str]) -> String {
        let output = self.try_command(arguments);
        let text = String::from_utf8(output.stdout).unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {text}{error}");
        text
    }

    /// As [`Self::command`], whatever its exit code.
    pub fn try_command(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(&self.binaries.agent);
        command.args(arguments);
        self.on(async move { command.output().unwrap() })
    }

    /// Starts a task in the namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime.as_ref().unwrap().spawn(work)
    }

    /// Waits for a task of [`Self::spawn`].
    pub fn join<T>(&self, task: tokio::task::JoinHandle<T>) -> T {
        let handle = self.runtime.as_ref().unwrap().handle();
        handle
            .block_on(task)
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
