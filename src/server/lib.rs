//! Runs a broker on Linux: a shard on each CPU, each with a glommio executor and a ring of its own.
//!
//! The only user of glommio. Owns threads, sockets, clocks and the mesh between shards; what is done with the bytes is
//! core's business. The poking thread is a safety net for two ways in which a wake-up can be lost: glommio 0.9 can park
//! with a runnable task, and a bell could be missed. Start at [`Server::start`], then `shard`.

mod conn;
pub mod cpus;
mod dial;
mod listen;
mod mesh;
mod pace;
mod page;
mod park;
mod poker;
pub mod preflight;
pub mod ring;
mod shard;
pub mod state;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod vitals;

use crate::cpus::{Machine, PlanError};
use crate::mesh::{Doors, Mesh};
use crate::park::WakeCell;
use crate::poker::{PokingThread, Sleeper};
use crate::preflight::{Needs, Refusal};
use crate::ring::{Ring, RingConfig};
use crate::shard::{Front, Listener, ShardLoop};
use crate::state::OpenError;
use crate::state::plane::Plane;
pub use crate::state::plane::StateSettings;
use glommio::{CpuSet, ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use rustix::rand::GetRandomFlags;
pub use sapwood_core::PAYLOAD_BYTES_MAX;
pub use sapwood_core::Policy;
pub use sapwood_core::WebSettings;
use sapwood_core::command::ShardId;
pub use sapwood_core::limits::{Limits, SHARDS_MAX, WORKERS_MAX};
use sapwood_core::tree::TreeConfig;
use sapwood_core::tree::place::{PlaceConfig, Timings};
pub use sapwood_core::tree::{NodeId, SecretError, SecretKey};
use sapwood_core::{BodyGauge, Capacity, Protocol, Shard};
pub use sapwood_state::limits::PARTITIONS_MAX;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Memory that glommio registers for files: its minimum, since no shard reads files.
const GLOMMIO_IO_BYTES: usize = 64 * 1024;

/// Entries of glommio's own rings: they carry only the wait for the shard's ring.
const GLOMMIO_RING_ENTRIES: usize = 256;

/// glommio's preempt timer can make it park with a runnable task. A shard bounds its own turns, so the timer is set to
/// never.
const GLOMMIO_PREEMPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// The broker does not start with room for fewer connections than this: such limits of the process are a mistake.
const CONNECTIONS_WANTED: u64 = 64;

/// Default time in which a lame duck disconnects its clients: as in nats-server.
pub const LAME_DUCK: Duration = Duration::from_secs(120);

/// The server's configuration. By default it listens nowhere.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Number of shards; `None` is one for each CPU that the process may use.
    pub shards: Option<usize>,
    /// The CPUs to run on; `None` is all that the process may use.
    pub cpus: Option<Vec<usize>>,
    /// Whether the kernel may move shards among these CPUs; if not, each stays on its own.
    pub is_unpinned: bool,
    /// Address for the Redis protocol; `None` does not listen.
    pub redis: Option<SocketAddr>,
    /// Slow consumer policy for Redis clients.
    pub redis_policy: Policy,
    /// Address for the native protocol; `None` does not listen.
    pub native: Option<SocketAddr>,
    /// Slow consumer policy for native clients that do not choose one.
    pub native_policy: Policy,
    /// Address for the NATS protocol; `None` does not listen.
    pub nats: Option<SocketAddr>,
    /// Slow consumer policy for NATS clients.
    pub nats_policy: Policy,
    /// Address for HTTP and WebSocket; `None` does not listen.
    pub http: Option<SocketAddr>,
    /// Slow consumer policy for HTTP and WebSocket clients that do not choose one.
    pub http_policy: Policy,
    /// Address for other nodes; `None` does not listen.
    pub node: Option<SocketAddr>,
    /// Where NATS clients of other nodes are told that they can connect; `None` is where it listens, if that is of use
    /// there.
    pub nats_advertise: Option<SocketAddr>,
    /// The node's identity, and where it looks for other nodes.
    pub tree: TreeSettings,
    /// Settings of the web protocols.
    pub web: WebSettings,
    /// Whether clients are forbidden to broadcast.
    pub no_broadcast: bool,
    /// Maximum payload that NATS clients may publish, in bytes; `None` is the broker's maximum.
    pub nats_payload_max: Option<usize>,
    /// How shards wait for input.
    pub latency: Latency,
    /// How long a lame duck takes to disconnect its clients; in the first twelfth of it they may leave by themselves.
    /// `None` is [`LAME_DUCK`].
    pub lame_duck: Option<Duration>,
    /// The user name that goes with the password; `None` is `default`.
    pub user: Option<Vec<u8>>,
    /// The password of clients; `None` lets everybody in.
    pub password: Option<Vec<u8>>,
    /// Where streams are kept; `None` keeps nothing.
    pub state: Option<StateSettings>,
    /// The caps in force.
    pub limits: Limits,
    /// Fault injection for tests.
    pub faults: Faults,
}

/// The node's identity, and where it looks for other nodes.
#[derive(Clone, Debug, Default)]
pub struct TreeSettings {
    /// The node's name, for people; may be empty.
    pub name: String,
    /// Tags of the node: events can be sent to all nodes with a tag.
    pub tags: Vec<String>,
    /// Groups of nodes that it belongs to: events can be sent to one node of a group.
    pub groups: Vec<String>,
    /// The advertised address, which other nodes dial; `None` is the address where it listens for nodes.
    pub advertise: Option<SocketAddr>,
    /// Addresses of nodes to ask for a place; without any, and without a parent, the node is a root.
    pub join: Vec<SocketAddr>,
    /// The only allowed parent.
    pub parent: Option<SocketAddr>,
    /// Maximum number of children; `None` is the default.
    pub children_max: Option<u8>,
    /// How often it looks whether its neighbours live; `None` is the default.
    pub heartbeat: Option<Duration>,
    /// The secret shared by all nodes of the tree; `None` leaves links unencrypted.
    pub key: Option<SecretKey>,
    /// The node id and the incarnation; `None` draws both at random.
    pub identity: Option<(NodeId, u64)>,
    /// Whether a file describes the tree: there is no root election.
    pub is_static: bool,
    /// Names of the allowed children; `None` allows any.
    pub allowed_children: Option<Vec<String>>,
}

/// How a shard waits for input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Latency {
    /// Sleeps at once: no CPU time is spent waiting.
    #[default]
    Park,
    /// Polls for a millisecond before it sleeps: input in that time finds it awake, at the cost of a busy CPU.
    Spin,
}

/// Faults that tests can inject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Run without the poking thread.
    pub no_poking: bool,
}

/// Why the server did not start. Nothing is left running.
#[derive(Debug)]
pub enum StartError {
    /// The CPUs of this machine could not be read.
    Machine(io::Error),
    /// The requested shards do not fit the machine.
    Plan(PlanError),
    /// An address could not be listened on.
    Listen {
        /// The flag that sets it.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// The system's error.
        error: io::Error,
    },
    /// The kernel does not let the shards have what they need.
    Refused(Refusal),
    /// The system refused a thread, a descriptor or random bytes.
    System(io::Error),
    /// glommio did not start; holds its error text.
    Executor(String),
    /// The data directory cannot be used.
    State(OpenError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Machine(error) => {
                write!(
                    f,
                    "cannot find out which CPUs may be used ({error}); name them with --cpus."
                )
            }
            StartError::Plan(error) => error.fmt(f),
            StartError::Listen {
                flag,
                address,
                error,
            } => write!(
                f,
                "cannot listen on {address} ({error}); stop what listens there, or choose another address with {flag}."
            ),
            StartError::Refused(refusal) => refusal.fmt(f),
            StartError::System(error) => {
                write!(
                    f,
                    "the system refused what a shard needs ({error}); look at its limits of threads and open files."
                )
            }
            StartError::Executor(text) => write!(f, "a shard's executor did not start: {text}"),
            StartError::State(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

/// Why the server ended before it was asked to.
#[derive(Debug)]
pub enum ServeError {
    /// A shard's ring failed.
    Ring(io::Error),
    /// A shard panicked or failed; holds its message.
    Shard(String),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::Ring(error) => write!(f, "a shard's ring failed: {error}."),
            ServeError::Shard(text) => write!(f, "a shard ended by a bug: {text}."),
        }
    }
}

impl std::error::Error for ServeError {}

/// A handle that ends the server gracefully: no more connections, replies are written, then all are closed.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<Doors>);

impl Stopper {
    /// Starts to drain. Idempotent; returns at once.
    pub fn drain(&self) {
        self.0.drain();
    }

    /// Starts the lame duck phase: accepts no more connections, tells clients whose protocol can say it, disconnects
    /// all of them bit by bit over [`Config::lame_duck`], then drains. Idempotent; returns at once.
    pub fn lame_duck(&self) {
        self.0.lame_duck();
    }
}

/// A running broker.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<(&'static str, SocketAddr)>,
    cpus: Vec<usize>,
    doors: Arc<Doors>,
    room: Room,
    executors: Vec<ExecutorJoinHandle<io::Result<()>>>,
    poker: Option<PokingThread>,
    state: Option<Arc<Plane>>,
    /// The state workers' threads.
    workers: Vec<std::thread::JoinHandle<()>>,
}

impl Server {
    /// Starts all shards, and listens once they run.
    ///
    /// Errors say what was wrong and what to do about it.
    pub fn start(config: Config) -> Result<Server, StartError> {
        let machine = Machine::read().map_err(StartError::Machine)?;
        let plan = cpus::plan(config.shards, config.cpus.as_deref(), &machine)
            .map_err(StartError::Plan)?;
        let room = match (config.is_unpinned, &config.cpus) {
            (false, _) => Room::Own,
            (true, None) => Room::Any,
            (true, Some(cpus)) => Room::Among(cpus.clone()),
        };
        for warning in &plan.warnings {
            tracing::warn!("{warning}");
        }
        let needs = Needs {
            shards: plan.cpus.len(),
            connections: CONNECTIONS_WANTED,
        };
        let granted = preflight::check(&needs).map_err(StartError::Refused)?;
        tracing::info!("{granted}");
        let shards = plan.cpus.len();
        let (listeners, by_shard) = open_listeners(&config, shards)?;
        let workers_of = |state: &StateSettings| state.workers_of(shards as u16);
        let workers = config.state.as_ref().map_or(0, workers_of);
        let woven = mesh::weave(shards as u16, workers).map_err(StartError::System)?;
        let doors = woven.doors;
        let state = config.state.clone();
        let plane = |settings| Arc::new(Plane::new(settings, workers, Arc::clone(&doors)));
        let state = state.map(plane);
        let of = |wanted| listeners.iter().find(|(name, _)| *name == wanted);
        let [node, nats] = ["node", "nats"].map(|name| of(name).map(|&(_, address)| address));
        let mut identity = identity(&config, node, nats).map_err(StartError::System)?;
        identity.capacity = Arc::new(Capacity::of(granted.connections));
        let mut server = Server {
            listeners,
            cpus: plan.cpus,
            room,
            doors: Arc::clone(&doors),
            executors: Vec::new(),
            poker: None,
            state,
            workers: Vec::new(),
        };
        // Before the shards, so that each of them knows the filters of streams before it takes anybody in.
        if let Err(error) = server.start_workers(shards as u16, woven.workers, &config.limits) {
            server.end_state();
            return Err(error);
        }
        let ways = Ways {
            latency: config.latency,
            lame_duck: config.lame_duck.unwrap_or(LAME_DUCK),
        };
        let sleepers = match server.start_shards(&identity, ways, woven.shards, by_shard) {
            Ok(sleepers) => sleepers,
            Err(error) => {
                // Ends the shards that run already, so that nothing is left.
                server.doors.drain();
                let _ = server.join();
                return Err(error);
            }
        };
        if !config.faults.no_poking {
            let vitals = Arc::clone(&identity.vitals);
            let poker = poker::start(doors, sleepers, vitals);
            server.poker = Some(poker.map_err(StartError::System)?);
        }
        Ok(server)
    }

    /// Opens the state plane if there is data, and starts its workers; they have announced what is kept when this returns.
    fn start_workers(
        &mut self,
        shards: u16,
        ends: Vec<Mesh>,
        limits: &Limits,
    ) -> Result<(), StartError> {
        let Some(plane) = &self.state else {
            return Ok(());
        };
        if plane.has_data() {
            plane.open().map_err(StartError::State)?;
        }
        let (ready, are_ready) = flume::bounded::<()>(0);
        for (mesh, number) in ends.into_iter().zip(0..) {
            let place = (number, shards);
            let started = state::worker::start(plane, place, mesh, limits, ready.clone());
            self.workers.push(started.map_err(StartError::System)?);
        }
        drop(ready);
        // Ends: each says so once, or is gone.
        while are_ready.recv().is_ok() {}
        Ok(())
    }

    /// Ends the state plane, behind the shards.
    fn end_state(&mut self) {
        let Some(plane) = &self.state else {
            return;
        };
        plane.end_workers();
        for worker in self.workers.drain(..) {
            // A panic was said by the thread itself.
            let _ = worker.join();
        }
        plane.close();
    }

    /// Starts every shard on its place and waits until all run. Returns the poking thread's handles of them.
    fn start_shards(
        &mut self,
        identity: &sapwood_core::Config,
        ways: Ways,
        ends: Vec<Mesh>,
        by_shard: Vec<Vec<Listener>>,
    ) -> Result<Vec<Sleeper>, StartError> {
        let clients = Arc::new(AtomicU64::new(1));
        let mut pokes = Vec::new();
        let mut readies = Vec::new();
        let places = self.cpus.iter().zip(ends).zip(by_shard);
        for (number, ((&cpu, mesh), listeners)) in places.enumerate() {
            let (poke, poked) = flume::bounded(1);
            pokes.push(poke);
            let (ready, is_ready) = flume::bounded(1);
            readies.push(is_ready);
            let config = sapwood_core::Config {
                shard: ShardId(number as u16),
                shards: self.cpus.len() as u16,
                ..identity.clone()
            };
            let config = with_own_entropy(config).map_err(StartError::System)?;
            let parts = ShardParts {
                config,
                mesh,
                listeners,
                clients: Arc::clone(&clients),
                ways,
                state: self.state.as_ref().map_or((0, 1), |plane| plane.place()),
                poked,
                ready,
            };
            let placement = self.room.placement(cpu)?;
            self.executors.push(start_shard(placement, parts)?);
        }
        let rings = self.await_shards(&readies)?;
        let sleepers = pokes.into_iter().zip(rings);
        Ok(sleepers
            .map(|(poke, ring)| Sleeper { poke, ring })
            .collect())
    }

    /// Waits until every shard runs. Returns their rings' descriptors, or the error of the first shard that failed.
    fn await_shards(
        &mut self,
        readies: &[flume::Receiver<OwnedFd>],
    ) -> Result<Vec<OwnedFd>, StartError> {
        let mut rings = Vec::new();
        for (place, ready) in readies.iter().enumerate() {
            if let Ok(ring) = ready.recv() {
                rings.push(ring);
                continue;
            }
            // The thread has ended or is about to; joining it gives the reason.
            let text = match self.executors.remove(place).join() {
                Ok(Ok(())) => "it ended at once".to_string(),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            return Err(StartError::Executor(text));
        }
        Ok(rings)
    }

    /// The addresses listened on: each protocol's name and its address, with the actual port.
    pub fn listeners(&self) -> Vec<(&'static str, SocketAddr)> {
        self.listeners.clone()
    }

    /// Whether each shard stays on its CPU.
    pub fn is_pinned(&self) -> bool {
        matches!(self.room, Room::Own)
    }

    /// The CPU of each shard, if each stays on one.
    pub fn cpus(&self) -> Vec<usize> {
        self.cpus.clone()
    }

    /// A handle that ends the server, for another thread.
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.doors))
    }

    /// Waits until the server has ended, by a [`Stopper`] or by a fault.
    pub fn join(mut self) -> Result<(), ServeError> {
        let mut outcome = Ok(());
        for executor in std::mem::take(&mut self.executors) {
            let ended = match executor.join() {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(ServeError::Ring(error)),
                Err(error) => Err(ServeError::Shard(error.to_string())),
            };
            outcome = outcome.and(ended);
        }
        if let Some(poker) = self.poker.take() {
            poker.end();
        }
        self.end_state();
        outcome
    }
}

/// The addresses listened on by protocol, and each shard's sockets for them.
type Listeners = (Vec<(&'static str, SocketAddr)>, Vec<Vec<Listener>>);

/// Opens the listeners of every configured address, one for each shard.
fn open_listeners(config: &Config, shards: usize) -> Result<Listeners, StartError> {
    let mut listeners = Vec::new();
    let mut by_shard: Vec<Vec<Listener>> = (0..shards).map(|_| Vec::new()).collect();
    let front = |protocol, policy| Front { protocol, policy };
    let redis = front(Protocol::Redis, config.redis_policy);
    let native = front(Protocol::Native, config.native_policy);
    let nats = front(Protocol::Nats, config.nats_policy);
    let http = front(Protocol::Web, config.http_policy);
    let node = front(Protocol::Node, Policy::Close);
    let wanted = [
        ("redis", "--redis", redis, config.redis),
        ("native", "--native", native, config.native),
        ("nats", "--nats", nats, config.nats),
        ("http", "--http", http, config.http),
        ("node", "--node", node, config.node),
    ];
    for (name, flag, front, address) in wanted {
        let Some(address) = address else { continue };
        let (actual, sockets) =
            listen::open(address, shards).map_err(|error| StartError::Listen {
                flag,
                address,
                error,
            })?;
        listeners.push((name, actual));
        for (of_shard, socket) in by_shard.iter_mut().zip(sockets) {
            of_shard.push(Listener {
                front,
                socket: Some(socket),
            });
        }
    }
    Ok((listeners, by_shard))
}

/// Settings of a shard's loop that core need not know.
#[derive(Clone, Copy, Debug)]
struct Ways {
    latency: Latency,
    lame_duck: Duration,
}

/// What a shard's thread is started with.
struct ShardParts {
    config: sapwood_core::Config,
    mesh: Mesh,
    listeners: Vec<Listener>,
    clients: Arc<AtomicU64>,
    ways: Ways,
    /// Number of state workers and of partitions.
    state: (u16, u16),
    poked: flume::Receiver<()>,
    /// Receives a duplicate of the ring's descriptor once the shard runs; dropped if the shard could not start.
    ready: flume::Sender<OwnedFd>,
}

/// The part of the configuration that all shards share.
fn identity(
    config: &Config,
    node: Option<SocketAddr>,
    nats: Option<SocketAddr>,
) -> io::Result<sapwood_core::Config> {
    let mut random = [0u8; 28];
    // 28 bytes are below the size up to which the kernel never gives fewer than asked for.
    rustix::rand::getrandom(&mut random, GetRandomFlags::empty())?;
    let (name, seed) = random.split_at(20);
    // invariant: eight bytes are left behind twenty of twenty-eight.
    let seed = u64::from_le_bytes(seed.try_into().expect("eight bytes"));
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok(sapwood_core::Config {
        shard: ShardId(0),
        shards: 1,
        user: config.user.clone(),
        password: config.password.clone(),
        nats_payload_max: config.nats_payload_max.unwrap_or(PAYLOAD_BYTES_MAX),
        web: WebSettings {
            page: page::PAGE,
            ..config.web.clone()
        },
        may_broadcast: !config.no_broadcast,
        tree: tree_config(config, node, nats)?,
        vitals: Arc::default(),
        capacity: Arc::default(),
        limits: config.limits.clone(),
        hash_seed: seed,
        body_gauge: BodyGauge::default(),
        run_id: name.iter().map(|byte| format!("{byte:02x}")).collect(),
        process_id: std::process::id(),
        started_wall_ms: wall.as_millis() as u64,
    })
}

/// The start-up settings of the tree; `None` if this node has nothing to do with other nodes.
fn tree_config(
    config: &Config,
    node: Option<SocketAddr>,
    nats: Option<SocketAddr>,
) -> io::Result<Option<TreeConfig>> {
    let settings = &config.tree;
    if node.is_none() && settings.join.is_empty() && settings.parent.is_none() {
        return Ok(None);
    }
    let mut random = [0u8; 48];
    // Fewer bytes than the kernel ever gives in parts.
    rustix::rand::getrandom(&mut random, GetRandomFlags::empty())?;
    let number = |at: usize| {
        // invariant: eight bytes of forty-eight.
        u64::from_le_bytes(random[at..at + 8].try_into().expect("eight bytes"))
    };
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let drawn = (NodeId(number(0)), wall.as_millis() as u64);
    let (id, incarnation) = settings.identity.unwrap_or(drawn);
    let advertise = settings.advertise.or(node);
    // An unspecified address is meaningful only to a node that sees this one's IP.
    let known = advertise.filter(|address| !address.ip().is_unspecified());
    let mut place = PlaceConfig::new(id, incarnation, known);
    place.name.clone_from(&settings.name);
    place.seeds.clone_from(&settings.join);
    place.parent = settings.parent;
    place.is_static = settings.is_static;
    place.is_local = settings.key.is_none();
    place
        .allowed_children
        .clone_from(&settings.allowed_children);
    place.entropy = number(8);
    if let Some(heartbeat) = settings.heartbeat {
        place.timings = Timings::with_heartbeat(heartbeat.as_nanos() as u64);
    }
    if let Some(children_max) = settings.children_max {
        place.children_max = children_max;
    }
    Ok(Some(TreeConfig {
        place,
        tags: settings.tags.clone(),
        groups: settings.groups.clone(),
        advertise,
        nats: config
            .nats_advertise
            .or_else(|| nats_elsewhere(nats?, known)),
        key: settings.key.clone(),
        entropy: [0; 32],
    }))
}

/// Where NATS clients of other nodes can connect, as far as the listener's address says it: an unspecified one is that
/// where other nodes reach this one, and one of loopback is of use to nodes on this machine alone.
fn nats_elsewhere(listens: SocketAddr, node: Option<SocketAddr>) -> Option<SocketAddr> {
    let ip = listens.ip();
    let node = node.map(|address| address.ip());
    match ip.is_unspecified() {
        true => node.map(|node| SocketAddr::new(node, listens.port())),
        false if ip.is_loopback() && !node.is_some_and(|node| node.is_loopback()) => None,
        false => Some(listens),
    }
}

/// The CPUs that the threads of shards may run on.
#[derive(Clone, Debug)]
enum Room {
    /// Each on its own.
    Own,
    /// All on any that the process may use.
    Any,
    /// All on any of these.
    Among(Vec<usize>),
}

impl Room {
    /// Where the shard goes that has this CPU in the plan.
    fn placement(&self, cpu: usize) -> Result<Placement, StartError> {
        Ok(match self {
            Room::Own => Placement::Fixed(cpu),
            Room::Any => Placement::Unbound,
            Room::Among(cpus) => {
                let online = CpuSet::online();
                let online = online.map_err(|error| StartError::Executor(error.to_string()))?;
                Placement::Fenced(online.filter(|place| cpus.contains(&place.cpu)))
            }
        })
    }
}

/// Gives a shard its own seed for the keys of its connections.
fn with_own_entropy(mut config: sapwood_core::Config) -> io::Result<sapwood_core::Config> {
    if let Some(tree) = &mut config.tree {
        rustix::rand::getrandom(&mut tree.entropy, GetRandomFlags::empty())?;
    }
    Ok(config)
}

fn start_shard(
    placement: Placement,
    parts: ShardParts,
) -> Result<ExecutorJoinHandle<io::Result<()>>, StartError> {
    let name = format!("sapwood-{}", parts.config.shard.0);
    LocalExecutorBuilder::new(placement)
        .name(&name)
        .io_memory(GLOMMIO_IO_BYTES)
        .ring_depth(GLOMMIO_RING_ENTRIES)
        .preempt_timer(GLOMMIO_PREEMPT)
        .spawn(move || run_shard(parts))
        .map_err(|error| StartError::Executor(error.to_string()))
}

async fn run_shard(parts: ShardParts) -> io::Result<()> {
    let ShardParts {
        config,
        mesh,
        listeners,
        clients,
        ways,
        state: (workers, partitions),
        poked,
        ready,
    } = parts;
    let _ends_node = EndsNode(mesh.doors());
    let ring = Ring::new(RingConfig::default()).map_err(io::Error::other)?;
    // Fails only if the receiver is gone.
    let _ = ready.send(ring.as_fd().try_clone_to_owned()?);
    let wake = WakeCell::new();
    let cell = wake.clone();
    // Ends with the poking thread, or with the executor.
    let poking = glommio::spawn_local(async move {
        while poked.recv_async().await.is_ok() {
            cell.poke();
        }
    });
    let core = Shard::with_workers(config, workers, partitions);
    let outcome = ShardLoop::new(core, ring, mesh, listeners, clients, ways.lame_duck)
        .run(&wake, ways.latency)
        .await;
    poking.cancel().await;
    if let Err(error) = &outcome {
        tracing::error!(%error, "a shard's ring failed; the node ends");
    }
    outcome
}

/// Ends the whole node when one shard ends by a fault or a panic: with a shard missing, the node would give wrong
/// answers.
struct EndsNode(Arc<Doors>);

impl Drop for EndsNode {
    fn drop(&mut self) {
        self.0.drain();
    }
}
