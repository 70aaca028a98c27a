//! Start and stop order of an agent. Wiring only: every decision is made in the module it concerns.

use std::net::SocketAddr;
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::sync::{Notify, watch};

use super::admin_port::AdminPort;
use super::canary::Canary;
use super::history;
use super::learning::{
    Asking, await_first_round, membership_dialer, share_signs, start_discovery, tell_guard,
};
use super::manifest::{ManifestFollower, ManifestLine};
use super::pass_through;
use super::running::Running;
use super::threads::{DataThread, PoolSettings};
use super::views::{SetLogLevel, Sources, views};
use super::{descriptors, proof, sources};
use crate::admin::{Admin, is_ready};
use crate::config::Config;
use crate::discovery::SyncCounters;
use crate::drain::{Drain, DrainSignal, DrainTrigger};
use crate::history::{History, unix_millis};
use crate::identity::{Hasher, TrustCell};
use crate::kernel;
use crate::membership::Membership;
use crate::metrics::Metrics;
use crate::net::{AcceptLoop, Admission, AdmissionLimits, Turns};
use crate::proxy::{
    Cancels, ConnectSettings, HeaderBudget, Load, ResponseTimeout, Shared, Tunnels, Unknowns,
};
use crate::readiness::Readiness;
use crate::readiness::{PassingBy, PassingReasons};
use crate::splice::ShortcutPart;
use crate::steering::{self, GuardHandle, Kernel, SteeringStats};
use crate::tls::{ClientTls, Reload, Reloader, ServerTls};

/// For another server to answer a probe through the admin port.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A running agent. Dropping it does not stop it: call [`Agent::drain`] or [`Agent::stop`].
pub struct Agent {
    listen: SocketAddr,
    admin: SocketAddr,
    drain: DrainTrigger,
    deadline: Duration,
    reload: Arc<Notify>,
    control: JoinHandle<()>,
}

/// What is loaded and bound before anything runs, so that every mistake in the configuration ends the start.
struct Prepared {
    config: Config,
    server_tls: Arc<ServerTls>,
    client_tls: Arc<ClientTls>,
    trust: Arc<TrustCell>,
    drain: (DrainTrigger, DrainSignal),
    relay: super::relay::Prepared,
    set_log_level: SetLogLevel,
}

impl Agent {
    /// Loads every file, binds the ports, starts all threads. Returns once clients can connect; `/readyz` says when the agent
    /// knows its servers.
    pub fn start(mut config: Config, set_log_level: SetLogLevel) -> anyhow::Result<Self> {
        kernel::map_large_blocks();
        descriptors::fit(&mut config.limits);
        let prepared = Prepared {
            server_tls: Arc::new(ServerTls::load(&config)?),
            client_tls: Arc::new(ClientTls::load(&config)?),
            trust: Arc::new(TrustCell::open(&config)?),
            drain: Drain::new(),
            relay: super::relay::prepare(&config)?,
            set_log_level,
            config,
        };
        let drain = prepared.drain.0.clone();
        let deadline = prepared.config.drain.deadline;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("control runtime")?;
        let (started, start) = std_mpsc::channel();
        let control = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || runtime.block_on(control(prepared, started)))
            .context("control thread")?;
        let (listen, admin, reload) = start
            .recv()
            .context("the control thread ended during its start")??;
        Ok(Self {
            listen,
            admin,
            drain,
            deadline,
            reload,
            control,
        })
    }

    /// Where clients connect.
    pub fn listen_address(&self) -> SocketAddr {
        self.listen
    }

    /// Where the read-only port listens.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Begins to drain: no new connections, GOAWAY on open ones, watches end at their next event, all is cut at the deadline.
    pub fn drain(&self) {
        self.drain.drain(self.deadline);
    }

    /// Ends everything at once.
    pub fn stop(self) {
        self.drain.drain(Duration::ZERO);
        self.drain.force();
        self.wait();
    }

    /// Waits until the agent has ended.
    pub fn wait(self) {
        if self.control.join().is_err() {
            tracing::error!("the control thread panicked");
        }
    }

    /// Has every file of certificates, keys and CAs looked at now when it is notified; other files are watched by their readers.
    pub fn reload_trigger(&self) -> Arc<Notify> {
        Arc::clone(&self.reload)
    }

    /// The trigger and the deadline, for a signal handler that outlives the borrow.
    pub fn drain_trigger(&self) -> (DrainTrigger, Duration) {
        (self.drain.clone(), self.deadline)
    }
}

async fn control(prepared: Prepared, started: std_mpsc::Sender<anyhow::Result<Started>>) {
    match start(prepared).await {
        Ok(running) => {
            // The caller may have gone; then nobody needs the addresses.
            let reload = Arc::clone(&running.reload);
            let _ = started.send(Ok((running.listen, running.admin, reload)));
            running.run().await;
        }
        Err(error) => {
            let _ = started.send(Err(error));
        }
    }
}

/// Where it listens for clients and for reading, and what reloads its files.
type Started = (SocketAddr, SocketAddr, Arc<Notify>);

async fn start(prepared: Prepared) -> anyhow::Result<Running> {
    let Prepared {
        config,
        server_tls,
        client_tls,
        trust,
        drain: (trigger, drain),
        relay,
        set_log_level,
    } = prepared;
    let origin = Instant::now();
    if kernel::object().is_none() {
        tracing::warn!("this build has no kernel part: {}", kernel::Error::NoObject);
    }
    relay.try_out(&config).await?;
    let (listener, elsewhere) = steering::client_listener(&config)
        .with_context(|| format!("listen: cannot bind {}", config.listen))?;
    let admin_port = AdminPort::bind(&config)?;
    let (listen, admin) = (listener.local_addr()?, admin_port.address()?);

    let readiness = Readiness::new();
    let standing = PassingReasons::new();
    standing.set(PassingBy::Starting, "no server has been asked yet");
    let metrics = Arc::new(Metrics::new());
    let counters = Arc::new(SyncCounters::default());
    let stats = Arc::new(SteeringStats::default());
    let guard = GuardHandle::new(&config, Arc::clone(&stats));
    let (prover, own) = proof::prover(&config, &client_tls, &trust)?;
    let dialer = membership_dialer(&config, &client_tls, &own)?;
    let canary = Canary {
        dialer: dialer.clone(),
        listen,
    };
    let Membership {
        members,
        restarts,
        read_by,
        line: membership_line,
        reader,
    } = Membership::start(
        &config.peers,
        &config.local,
        config.advertise,
        dialer,
        Arc::clone(&counters),
    )
    .await?;
    let listed = || Arc::clone(&members.borrow());
    // An agent that steers here goes on until this one can serve: what the kernel passed by meanwhile would meet the server as it is.
    // Its heartbeat may be good for a moment after its end: then its ports are free.
    let another = elsewhere || admin_port.is_taken();
    let (early, from) = match another && steering::replaces(&config) {
        true => (None, steering::way_to_servers(&config)),
        false => {
            let kernel = Kernel::install(&config, &listener, &listed()).await?;
            let from = kernel.dial_from(&config);
            (Some(kernel), from)
        }
    };
    let steers = early.as_ref().is_none_or(Kernel::is_on);
    let (retirable, retired) = (stats.retirable().clone(), stats.retired.clone());
    if steers {
        let tried = retirable.clone();
        tokio::task::spawn_blocking(move || tried.probe()).await?;
    }
    // Before the first connection of the agent's own, so that `on` means all of them.
    let shortcut = ShortcutPart::start(&config, steers).await?;
    stats.set_shortcut(&shortcut);
    relay.relays.dial_from(from.clone());
    let restarts = tell_guard(restarts, guard.clone());
    let node_events = reader.as_ref().map(|reader| {
        let client = reader.apart().client();
        history::NodeEvents::start(client, &config.node)
    });
    let cluster = reader.map(|reader| share_signs(&config, reader, guard.clone()));
    // Nothing is proved yet, and so nothing may come.
    let local = &config.local.name;
    let detail = format!("kube-apiserver {local} is not proved: it has not been asked yet");
    standing.set(PassingBy::LocalUnproved, detail);
    let prove = Asking {
        client_tls: &client_tls,
        prover,
        own: own.clone(),
    };
    let discovery = start_discovery(
        &config,
        prove,
        &counters,
        from.clone(),
        (members.clone(), restarts),
    )?;
    let (leave, leaving) = watch::channel(false);
    tokio::spawn(proof::keep(
        discovery.clone(),
        Arc::clone(&client_tls),
        standing.clone(),
        leave,
        steers,
    ));
    tokio::spawn(proof::after_reloads(
        discovery.clone(),
        Arc::clone(&client_tls),
        Arc::clone(&trust),
        own.clone(),
    ));
    let known = await_first_round(&readiness, &standing, &discovery);
    let mut reloaded: Vec<Arc<dyn Reload>> = vec![
        Arc::clone(&server_tls) as _,
        Arc::clone(&client_tls) as _,
        Arc::clone(&trust) as _,
    ];
    reloaded.extend(relay.reload.clone());
    let response_timeout = Arc::new(ResponseTimeout::new(config.limits.response_timeout));
    let manifest_line = ManifestLine::default();
    let manifest = ManifestFollower::new(
        &config,
        reloaded.clone(),
        Arc::clone(&response_timeout),
        steers.then(|| (trigger.clone(), config.drain.deadline)),
        manifest_line.clone(),
    );
    if let Some(manifest) = manifest {
        // Before the files that it names.
        reloaded.insert(0, Arc::new(manifest));
    }
    let reloader = Reloader::new(reloaded);
    let (reload, reload_now) = (reloader.stats(), reloader.now());
    tokio::spawn(reloader.run(Reloader::POLL));

    let (data_trigger, data_drain) = match steers {
        true => Drain::new(),
        false => (trigger.clone(), drain.clone()),
    };
    let shared = Arc::new(Shared {
        table: discovery.table_cell(),
        view: discovery.view_cell(),
        discovery: discovery.clone(),
        server_tls,
        trust,
        metrics: Arc::clone(&metrics),
        limits: config.limits.clone(),
        serving_http2: config.serving_http2,
        response_timeout,
        interoperability: config.interoperability_proxy,
        drain: data_drain,
        leave: leaving,
        load: Load::default(),
        header_budget: HeaderBudget::new(
            config.limits.header_bytes_per_connection,
            config.limits.header_bytes_total,
        ),
        standing: standing.clone(),
        relays: Arc::clone(&relay.relays),
        cancels: Cancels::new(config.limits.cancellations),
        tunnels: Tunnels::new(
            config.limits.tunnels_per_client,
            from.is_reserved().then(|| config.kernel.peer_ports.len()),
        ),
        hasher: Hasher::default(),
        unknowns: Unknowns::new(config.discovery.interval),
        open_since: Instant::now(),
        no_server: Arc::from(""),
        tally: Arc::default(),
    });
    let ready = {
        let (readiness, standing, drain) = (readiness.clone(), standing.clone(), trigger.clone());
        move || is_ready(&readiness, &standing, &drain)
    };
    sources::register(
        &metrics,
        ready,
        &shared,
        Arc::clone(&reload),
        manifest_line.clone(),
    );
    relay.spawn(&shared);
    tokio::spawn(sources::mirror(
        Arc::clone(&metrics),
        discovery.clone(),
        counters,
        Arc::clone(&reload),
    ));
    let pool = PoolSettings {
        tls: Arc::clone(&client_tls),
        connect: ConnectSettings {
            from: from.clone(),
            turns: Turns::unlimited(),
            timeout: config.upstream.connect_timeout,
            ping_interval: config.upstream.ping_interval,
            ping_timeout: config.upstream.ping_timeout,
            header_bytes: config.limits.header_bytes,
            engine: config.upstream.http2,
        },
        connections: config.upstream.connections,
        counts: shared.load.pools.clone(),
    };
    let pass_through = pass_through::start(&config, steers, &guard, &shared.relays);
    let threads = (0..config.threads)
        .map(|index| {
            DataThread::spawn(
                index,
                Arc::clone(&shared),
                pool.clone(),
                steering::tick(steers),
            )
        })
        .collect::<Result<Vec<_>, _>>()
        .context("data thread")?;
    let kernel = match early {
        Some(kernel) => kernel,
        None => {
            proof::awaited(&discovery, &client_tls, &standing).await;
            Kernel::install(&config, &listener, &listed()).await?
        }
    };
    match &kernel {
        // What was started meanwhile counts on steering; the agent before goes on.
        Kernel::Off(why) if steers => {
            bail!("kernel.steering: the agent that runs here cannot be replaced: {why}")
        }
        Kernel::Off(_) if another => bail!(
            "listen or admin.listen: another process has the port, and without steering it cannot be replaced"
        ),
        _ => {}
    }
    let steered = steering::run(steering::Wiring {
        config: &config,
        kernel,
        guard: guard.clone(),
        cluster: cluster.clone(),
        discovery: discovery.clone(),
        members,
        known,
        stats,
        metrics: &metrics,
        threads: threads.iter().map(DataThread::heartbeat).collect(),
        drain: (trigger.clone(), drain),
        data: data_trigger,
        readiness: &readiness,
        standing: standing.clone(),
        relays: Arc::clone(&shared.relays),
    });
    let kernel_line = steered.line;
    tracing::info!(%listen, %admin, node = config.node, threads = config.threads, kernel = kernel_line, "mvp is up");
    let drain_deadline = config.drain.deadline;
    let accept = AcceptLoop {
        listener,
        sinks: threads.iter().map(|thread| thread.sink.clone()).collect(),
        total: Arc::clone(&shared.load.connections),
        limit: config.limits.connections,
        admission: Admission::new(AdmissionLimits {
            connections: config.limits.connections,
            handshakes: config.limits.pending_handshakes,
            patience: config.limits.handshake_timeout / 2,
        }),
    };
    tokio::spawn(super::memory::run());
    let sources = Arc::new(Sources {
        history: History::new(unix_millis()),
        canary,
        retirable,
        retired,
        shortcut,
        pass_through,
        listen: listen.to_string(),
        kernel: kernel_line,
        guard,
        cluster,
        watch: steered.watch,
        read_by,
        origin,
        shared: Arc::clone(&shared),
        discovery,
        membership: membership_line,
        manifest: manifest_line,
        threads: threads.iter().map(DataThread::source).collect(),
        reload,
        pool: pool.pool(Turns::unlimited()),
        own,
        config_digest: config.digest(),
        config,
    });
    let keeper = history::Keeper::start(&sources, node_events, trigger.clone(), another);
    let port = Admin {
        views: views(sources, set_log_level),
        readiness,
        standing,
        drain: trigger,
        drain_deadline,
        answer_timeout: ADMIN_TIMEOUT,
    };
    admin_port.spawn(port)?;
    Ok(Running {
        on_tick: steered.on_tick,
        keeper,
        listen,
        admin,
        reload: reload_now,
        accept,
        shared,
        threads,
    })
}
