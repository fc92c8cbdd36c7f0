//! A manager in one value: opens the data folder, starts the threads, listens, and ends in order.
//! Used by the program and by tests that want a manager in their own process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use deputy_proto::v1::agent_server::AgentServer;
use deputy_proto::v1::enrollment_server::EnrollmentServer;
use deputy_proto::v1::fleet_server::FleetServer;
use deputy_proto::v1::tasks_server::TasksServer;
use deputy_proto::version::{MAX_BLOB_FRAME_BYTES, MAX_SESSION_FRAME_BYTES};
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::gate::{Asking, GateLayer};
use crate::blob_store::BlobStore;
use crate::data_folder::{self, DataFolderError};
use crate::dispatcher::inbound::Inbound;
use crate::dispatcher::timing::Timing;
use crate::dispatcher::{Dispatcher, DispatcherHandle};
use crate::fetch::Fetcher;
use crate::join::aws_identity::AwsVerifier;
use crate::join::kubernetes::KubernetesVerifier;
use crate::log_store::{LogStore, SegmentReader};
use crate::oidc::config::OidcConfig;
use crate::oidc::issuer::{Issuer, IssuerError};
use crate::oidc::listener::{ListenError, OidcListener, TlsFiles};
use crate::registry::{NewGrant, Registry, Scope};
use crate::service::{
    AgentService, Context, EnrollmentService, FleetService, Proofs, TasksService, Trust, UploadLimits, Uploads,
};
use crate::store::clock::{BootClock, KernelBootClock};
use crate::store::contract::{Reads, Store, StoreError};
use crate::store::sqlite::SqliteStore;
use crate::trust::acceptor::{self, Accepted, Security};
use crate::trust::authority::{Authority, AuthorityError, millis, unix_now, write_whole};
use crate::trust::doors::{ConnectionLimits, Doors};
use crate::trust::server_tls::{self, CertificateSource, TlsError};
use crate::vital::{Death, Pulse, VitalWatch, Vitals};
use crate::witness::{Witness, WitnessLayer};

/// A log stream may have this much in flight; the whole connection four times as much, so that one
/// stream that is not read cannot stop the others.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Documents of users are read up to here, so that a larger one is refused in words.
const MAX_USER_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// A challenge, a signing request and a proof.
const MAX_ENROLLMENT_MESSAGE_BYTES: usize = 64 * 1024;
/// The first administrator's token, in the data folder.
const ADMIN_TOKEN_FILE: &str = "admin-token";
/// How long a client certificate lives if nobody says otherwise.
pub const DEFAULT_CERTIFICATE_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How often agents without a good certificate are looked for.
const LAPSED_EVERY: Duration = Duration::from_secs(1);
/// How often agents whose last certificate ended long ago are looked for.
const FORGET_EVERY: Duration = Duration::from_secs(600);
/// Connections are closed in order for so long, then cut.
const CLOSING: Duration = Duration::from_secs(5);

/// What a manager needs to start.
#[derive(Clone)]
pub struct Settings {
    /// Where to listen; loopback only, as long as there is no TLS.
    pub listen: SocketAddr,
    /// Everything the manager keeps.
    pub data: PathBuf,
    /// The protocol's times.
    pub timing: Timing,
    /// What bundles and blobs on their way in may take.
    pub uploads: UploadLimits,
    /// Vouch for attempts as an OIDC issuer.
    pub oidc: Option<OidcSettings>,
    /// Where elapsed time comes from.
    pub boot: Arc<dyn BootClock>,
    /// Who sees every request; the program has nobody.
    pub witness: Option<Arc<dyn Witness>>,
    /// How connections are secured, and who may make them.
    pub security: SecuritySettings,
}

/// How connections are secured.
#[derive(Debug, Clone)]
pub struct SecuritySettings {
    /// What is spoken.
    pub transport: Transport,
    /// The trust domain of this manager's certificates; none for the one that its authority was made with.
    pub trust_domain: Option<String>,
    /// How long a client certificate lives.
    pub certificate_life: Duration,
    /// Who is asked about signed AWS identities.
    pub aws: AwsVerifier,
    /// How AWS and clusters are asked.
    pub fetcher: Fetcher,
    /// How many connections there may be.
    pub connections: ConnectionLimits,
}

/// What is spoken below HTTP/2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// TLS with this certificate, and everybody is asked who he is.
    Tls(CertificateSource),
    /// Nothing, and nobody is asked. On loopback only.
    InsecureLoopback,
}

/// What the OIDC issuer needs.
#[derive(Debug, Clone)]
pub struct OidcSettings {
    /// Its name, audiences and times.
    pub config: OidcConfig,
    /// Where discovery document and keys are served.
    pub listen: SocketAddr,
    /// With this certificate; none if something in front has it.
    pub tls: Option<TlsFiles>,
}

/// The manager could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The manager's authority cannot be used.
    #[error("the manager's authority cannot be used: {0}")]
    Authority(#[from] AuthorityError),
    /// There is no certificate to show.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The first administrator's token could not be made.
    #[error("the first administrator's token could not be written to {}: {why}", path.display())]
    AdminToken {
        /// Its file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// Without TLS only this machine may connect. Listen on 127.0.0.1.
    #[error("refusing to listen on {0}: without TLS the manager listens on loopback only")]
    NotLoopback(SocketAddr),
    /// The data folder cannot be used, or is somebody else's.
    #[error(transparent)]
    Data(#[from] DataFolderError),
    /// The store cannot be opened.
    #[error("cannot open the store: {0}")]
    Store(#[from] StoreError),
    /// The OIDC issuer's keys cannot be used.
    #[error(transparent)]
    Oidc(#[from] IssuerError),
    /// The OIDC issuer's documents cannot be served.
    #[error(transparent)]
    OidcListen(#[from] ListenError),
    /// The address cannot be listened on.
    #[error("cannot listen on {listen}: {source}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The reflection service refused its own descriptors; a fault of the build.
    #[error("cannot serve reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

impl StartError {
    /// What to do next.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::NotLoopback(_) => {
                "leave out --insecure-loopback, or give --listen an address of this machine only, for example 127.0.0.1:7443"
            }
            Self::Authority(AuthorityError::Half(_) | AuthorityError::Damaged { .. }) => {
                "put ca.pem and ca-key.pem back from a backup of the data folder; without them remove both, and every agent has to join again"
            }
            Self::Authority(_) | Self::AdminToken { .. } => "choose with --data a folder that this user can write to",
            Self::Tls(TlsError::Files(_)) => {
                "--tls-cert is a PEM file of the certificate and what signed it, --tls-key the PEM file of its key; both can be replaced while the manager runs"
            }
            Self::Tls(_) => "a --tls-name is a DNS name or an address",
            Self::Data(DataFolderError::Foreign { .. } | DataFolderError::Shared { .. }) => {
                "choose with --data a folder of this user alone; in a folder that others have or use, name one inside it: it is made"
            }
            Self::Data(DataFolderError::Io { .. }) => "choose with --data a folder that this user can write to",
            Self::Store(StoreError::InUse(_)) => "one data folder belongs to one manager; choose another with --data",
            Self::Store(StoreError::Full) => "free space under the folder of --data",
            Self::Store(StoreError::TooNew { .. }) => "start the release that wrote this data folder, or a newer one",
            Self::Store(StoreError::File { .. }) => "choose with --data a folder that this user can write to",
            Self::Store(StoreError::OldSqlite(_)) => "build this release with the SQLite that it bundles",
            Self::Store(StoreError::Corrupt { .. } | StoreError::Gone { .. } | StoreError::Sqlite(_)) => {
                "look at the disk under the folder of --data, or choose another folder"
            }
            Self::Oidc(_) => "look at the disk under the folder of --data, or restore it",
            Self::OidcListen(ListenError::Bind { .. }) => "choose with --oidc-listen an address that nobody else uses",
            Self::OidcListen(ListenError::Certificate(_)) => {
                "give --oidc-certificate and --oidc-key a chain and its key as PEM files that this user can read"
            }
            Self::Listen { .. } => "choose with --listen an address that nobody else uses; port 0 takes any free one",
            Self::OidcListen(ListenError::Setup(_)) | Self::Reflection(_) => {
                "this is a fault of the build: use another release"
            }
        }
    }
}

/// A manager that is up.
pub struct Manager {
    address: SocketAddr,
    authority: Arc<Authority>,
    oidc_address: Option<SocketAddr>,
    dispatcher: DispatcherHandle,
    dispatcher_thread: Dispatcher,
    logs: LogStore,
    tracker: TaskTracker,
    ending: CancellationToken,
    served: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
    ticking: tokio::task::JoinHandle<()>,
    watch: VitalWatch,
}

impl Settings {
    /// A manager on any free port with the default times, in the clear.
    #[must_use]
    pub fn on_loopback(data: PathBuf) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            data,
            timing: Timing::default(),
            uploads: UploadLimits::default(),
            oidc: None,
            boot: Arc::new(KernelBootClock),
            witness: None,
            security: SecuritySettings {
                transport: Transport::InsecureLoopback,
                trust_domain: None,
                certificate_life: DEFAULT_CERTIFICATE_LIFE,
                aws: AwsVerifier::default(),
                fetcher: Fetcher::default(),
                connections: ConnectionLimits::default(),
            },
        }
    }
}

impl Manager {
    /// Starts a manager; when this returns, it accepts connections.
    ///
    /// # Errors
    /// Why it cannot start.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let (listen, data) = (settings.listen, settings.data.clone());
        if settings.security.transport == Transport::InsecureLoopback && !listen.ip().is_loopback() {
            return Err(StartError::NotLoopback(listen));
        }
        data_folder::open(&data)?;
        let store = SqliteStore::open(&data.join(data_folder::DATABASE))?;
        Self::over(Box::new(store), settings).await
    }

    /// A manager over this store.
    async fn over(store: Box<dyn Store>, settings: Settings) -> Result<Self, StartError> {
        let Settings {
            listen,
            data,
            timing,
            uploads,
            oidc,
            boot,
            witness,
            security,
        } = settings;
        let reads = store.reads();
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|source| StartError::Listen { listen, source })?;
        let address = listener
            .local_addr()
            .map_err(|source| StartError::Listen { listen, source })?;
        let blobs = BlobStore::open(&data.join("blobs")).map_err(|source| DataFolderError::Io {
            path: data.clone(),
            source,
        })?;
        if reads.trust()?.is_empty() {
            Authority::complete_first(&data, security.trust_domain.as_deref())?;
        }
        let authority = Arc::new(Authority::open(&data, security.trust_domain.as_deref())?);
        let (secured, asking) = match security.transport {
            Transport::Tls(source) => (
                Security::Tls(
                    server_tls::config(&authority, source)?,
                    authority.trust_domain().to_owned(),
                ),
                Asking::Everyone,
            ),
            Transport::InsecureLoopback => (Security::Clear, Asking::Nobody),
        };
        let segments = data.join("logs");
        let (vitals, watch) = Vitals::watched();
        let (dispatcher_thread, dispatcher) = Dispatcher::start(store, boot, timing, vitals.pulse("dispatcher"))?;
        let (logs, log_handle) = LogStore::start(&segments, reads.clone(), dispatcher.clone(), &vitals)?;
        let (tracker, ending) = (TaskTracker::new(), CancellationToken::new());
        let registry = Registry::load(reads.as_ref(), dispatcher.clone(), tracker.clone())?;
        if asking == Asking::Everyone {
            first_administrator(&registry, &data).await?;
        }
        let issuer = match oidc {
            None => None,
            Some(oidc) => Some(issue(oidc, &dispatcher, reads.as_ref(), (&tracker, &ending)).await?),
        };
        let oidc_address = issuer.as_ref().map(|(_, address)| *address);
        let context = Context {
            dispatcher: dispatcher.clone(),
            reads,
            logs: log_handle,
            segments: SegmentReader::new(&segments),
            blobs,
            uploads: Uploads::new(uploads),
            registry: registry.clone(),
            trust: Trust {
                authority: Arc::clone(&authority),
                nonces: Arc::default(),
                certificate_life: security.certificate_life,
            },
            proofs: Arc::new(Proofs {
                aws: security.aws.by(security.fetcher.clone()),
                kubernetes: KubernetesVerifier::by(security.fetcher),
            }),
            issuer: issuer.map(|(issuer, _)| issuer),
            tracker: tracker.clone(),
            ending: ending.clone(),
        };
        let (ready, connections) = acceptor::channel();
        let doors = Doors::new(security.connections);
        let accepting = acceptor::accept(listener, (secured, doors), ready, ending.clone());
        tracker.spawn(beating(vitals.pulse("acceptor"), accepting));
        tracker.spawn(put_out_lapsed(registry.clone(), ending.clone()));
        tracker.spawn(forget_over(registry.clone(), ending.clone()));
        let gate = GateLayer::new(registry, asking);
        let served = tracker.spawn(beating(
            vitals.pulse("server"),
            serve(connections, (WitnessLayer::new(witness), gate), context, ending.clone())?,
        ));
        let ticking = tracker.spawn(beating(vitals.pulse("ticker"), Dispatcher::tick(dispatcher.clone())));
        Ok(Self {
            address,
            authority,
            oidc_address,
            dispatcher,
            dispatcher_thread,
            logs,
            tracker,
            ending,
            served,
            ticking,
            watch,
        })
    }

    /// Who signs its certificates.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Waits until something ends that the manager cannot do without, if ever. Then it has to be shut down.
    pub async fn broken(&mut self) -> Death {
        self.watch.death().await
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the OIDC issuer's documents are served; none if it is none.
    #[must_use]
    pub fn oidc_address(&self) -> Option<SocketAddr> {
        self.oidc_address
    }

    /// Ends in order: sessions are told, connections closed (bounded), the last batch committed.
    pub async fn shutdown(self) {
        let Self {
            dispatcher,
            dispatcher_thread,
            logs,
            tracker,
            ending,
            served,
            ticking,
            ..
        } = self;
        if dispatcher.send(Inbound::Shutdown).await.is_err() {
            tracing::error!("the dispatcher had ended before");
        }
        drop(dispatcher);
        ending.cancel();
        ticking.abort();
        tracker.close();
        if tokio::time::timeout(CLOSING, tracker.wait()).await.is_err() {
            tracing::warn!("connections were cut after {CLOSING:?}");
            served.abort();
        }
        drop(served.await);
        let threads = tokio::task::spawn_blocking(move || {
            dispatcher_thread.join();
            logs.join();
        });
        if tokio::time::timeout(CLOSING, threads).await.is_err() {
            tracing::warn!("the store's threads did not end within {CLOSING:?}");
        }
    }
}

/// Starts the OIDC issuer; its address.
async fn issue(
    oidc: OidcSettings,
    dispatcher: &DispatcherHandle,
    reads: &dyn Reads,
    (tracker, ending): (&TaskTracker, &CancellationToken),
) -> Result<(Arc<Issuer>, SocketAddr), StartError> {
    let issuer = Issuer::open(oidc.config, dispatcher.clone(), reads)?;
    let listener = OidcListener::bind(oidc.listen, oidc.tls).await?;
    let address = listener.address();
    tracing::info!(issuer = issuer.config().issuer(), %address, "vouching for attempts as an OIDC issuer");
    tracker.spawn(listener.serve(Arc::clone(&issuer), ending.clone()));
    Ok((issuer, address))
}

/// The same future, with a pulse.
async fn beating<T>(_pulse: Pulse, work: impl Future<Output = T>) -> T {
    work.await
}

/// Writes the token of the first administrator, once: when nobody was granted anything yet.
async fn first_administrator(registry: &Registry, data: &std::path::Path) -> Result<(), StartError> {
    if !registry.grants().is_empty() {
        return Ok(());
    }
    let path = data.join(ADMIN_TOKEN_FILE);
    let failed = |why: String| StartError::AdminToken {
        path: path.clone(),
        why,
    };
    let scopes = vec![Scope::Read, Scope::Submit, Scope::Administer];
    let new = NewGrant {
        name: "admin".into(),
        scopes,
        projects: Vec::new(),
        life_ms: 0,
        created_by: "first start".into(),
    };
    // The file comes first: a grant whose secret nobody has would keep the next start from making another.
    let (grant, secret) = new.with_secret();
    write_whole(&path, &format!("{secret}\n")).map_err(|error| failed(error.to_string()))?;
    if let Err(error) = registry.keep_grant(grant).await {
        return Err(failed(match std::fs::remove_file(&path) {
            Ok(()) => error.to_string(),
            Err(left) => format!("{error}; and the file is left, with a token that is good for nothing: {left}"),
        }));
    }
    tracing::info!(file = %path.display(), "the first administrator's token was written");
    Ok(())
}

/// Ends the sessions of agents whose certificates have all expired, and connections whose own was ended: nothing outlives
/// them.
async fn put_out_lapsed(registry: Registry, ending: CancellationToken) {
    loop {
        tokio::select! {
            () = ending.cancelled() => return,
            () = tokio::time::sleep(LAPSED_EVERY) => {}
        }
        // Together: each takes the moment in which its last word is written.
        let out = registry.lapsed().into_iter().map(async |agent| {
            let reason = "every certificate of this agent has expired or was revoked".to_owned();
            registry.expel(&agent, "certificate_expired", reason, None).await;
        });
        tokio::select! {
            () = ending.cancelled() => return,
            _ = futures::future::join_all(out) => {}
        }
        registry.cut_refused();
    }
}

/// Forgets agents that will not come back: with pods that come and go every start is an agent. Not at once: on a machine
/// that has just started the clock may be months ahead until it is set.
async fn forget_over(registry: Registry, ending: CancellationToken) {
    loop {
        tokio::select! {
            () = ending.cancelled() => return,
            () = tokio::time::sleep(FORGET_EVERY) => {}
        }
        match registry.forget_over(millis(unix_now())).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "agents were forgotten whose last certificates ended long ago"),
            Err(error) => tracing::warn!(%error, "agents that are gone could not be forgotten; it is tried again"),
        }
    }
}

/// The future that serves every connection until the manager ends.
fn serve(
    connections: ReceiverStream<std::io::Result<Accepted>>,
    (witness, gate): (WitnessLayer, GateLayer),
    context: Context,
    ending: CancellationToken,
) -> Result<impl Future<Output = Result<(), tonic::transport::Error>>, StartError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(deputy_proto::v1::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let agent = AgentServer::new(AgentService::new(context.clone()))
        .max_decoding_message_size(MAX_SESSION_FRAME_BYTES.max(MAX_BLOB_FRAME_BYTES))
        .max_encoding_message_size(usize::MAX);
    let tasks = TasksServer::new(TasksService::new(context.clone()))
        .max_decoding_message_size(MAX_USER_MESSAGE_BYTES)
        .max_encoding_message_size(usize::MAX);
    let enrollment = EnrollmentServer::new(EnrollmentService::new(context.clone()))
        .max_decoding_message_size(MAX_ENROLLMENT_MESSAGE_BYTES);
    let fleet = FleetServer::new(FleetService::new(context));
    let router = tonic::transport::Server::builder()
        // gRPC-Web over HTTP/1.1, for agents that HTTP/2 does not reach; everything behind it sees gRPC.
        .accept_http1(true)
        .layer(witness)
        .layer(tonic_web::GrpcWebLayer::new())
        .layer(gate)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .http2_max_pending_accept_reset_streams(Some(64))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .add_service(health_service)
        .add_service(reflection)
        .add_service(agent)
        .add_service(tasks)
        .add_service(fleet)
        .add_service(enrollment);
    Ok(async move {
        health.set_serving::<AgentServer<AgentService>>().await;
        health.set_serving::<TasksServer<TasksService>>().await;
        health.set_serving::<FleetServer<FleetService>>().await;
        health.set_serving::<EnrollmentServer<EnrollmentService>>().await;
        router
            .serve_with_incoming_shutdown(connections, ending.cancelled_owned())
            .await
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::clock::StoreTime;
    use crate::store::op::{Applied, Op};

    /// A store with a fault of ours in its writing side.
    struct Faulty(SqliteStore);

    impl Store for Faulty {
        fn apply(&mut self, _: StoreTime, batch: Vec<Op>) -> Result<Applied, StoreError> {
            std::panic::resume_unwind(Box::new(format!("a fault at a batch of {}", batch.len())));
        }

        fn reads(&self) -> Arc<dyn Reads> {
            self.0.reads()
        }
    }

    /// A store that reads and does not write.
    struct Full(SqliteStore);

    impl Store for Full {
        fn apply(&mut self, _: StoreTime, _: Vec<Op>) -> Result<Applied, StoreError> {
            Err(StoreError::Full)
        }

        fn reads(&self) -> Arc<dyn Reads> {
            self.0.reads()
        }
    }

    #[tokio::test]
    async fn the_first_administrators_token_is_there_and_good_or_neither() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut settings = Settings::on_loopback(folder.path().to_owned());
        settings.security.transport = Transport::Tls(CertificateSource::Own(Vec::new()));
        let token = folder.path().join(ADMIN_TOKEN_FILE);
        let open = || SqliteStore::open(&folder.path().join("deputy.db"));
        let refused = Manager::over(Box::new(Full(open().expect("open"))), settings.clone())
            .await
            .err();
        assert!(matches!(refused, Some(StartError::AdminToken { .. })), "{refused:?}");
        assert!(!token.exists(), "a token that is good for nothing");
        // What a start that ended between the two would leave.
        std::fs::write(&token, "dpt_0123456789abcdef_of_nobody\n").expect("written");
        // The threads of the one that did not start have the database for a moment.
        let store = loop {
            match open() {
                Ok(store) => break store,
                Err(StoreError::InUse(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}"),
            }
        };
        let manager = Manager::over(Box::new(store), settings).await.expect("up");
        let written = std::fs::read_to_string(&token).expect("a token");
        assert!(written.starts_with("dpt_") && !written.contains("nobody"), "{written}");
        manager.shutdown().await;
    }

    /// The first thing that ends, within a bound.
    async fn death(manager: &mut Manager) -> Death {
        let death = tokio::time::timeout(Duration::from_secs(10), manager.broken()).await;
        death.expect("its end is told")
    }

    #[tokio::test]
    async fn a_dispatcher_that_panics_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = Settings::on_loopback(folder.path().to_owned());
        let store = SqliteStore::open(&folder.path().join("deputy.db")).expect("open");
        let mut manager = Manager::over(Box::new(Faulty(store)), settings).await.expect("up");
        let forget = Op::ForgetInstances {
            before: StoreTime::ZERO,
        };
        manager
            .dispatcher
            .commit(vec![forget])
            .await
            .expect_err("not committed");
        assert_eq!(death(&mut manager).await, Death::Panicked("dispatcher"));
        manager.shutdown().await;
    }

    #[tokio::test]
    async fn a_log_store_that_ends_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = Settings::on_loopback(folder.path().to_owned());
        let mut manager = Manager::start(settings).await.expect("up");
        let (vitals, watch) = Vitals::watched();
        // Its only handle is dropped at once, which is how a log store is told to end.
        let folder = folder.path().join("other-logs");
        let reads = SqliteStore::open(&manager_db(&folder)).expect("open").reads();
        let (logs, handle) = LogStore::start(&folder, reads, manager.dispatcher.clone(), &vitals).expect("started");
        manager.watch = watch;
        drop(handle);
        let mut ended = [death(&mut manager).await, death(&mut manager).await].map(|death| death.to_string());
        ended.sort();
        assert_eq!(ended[0], "the manager's log-answerer ended by itself");
        assert_eq!(ended[1], "the manager's log-writer ended by itself");
        logs.join();
        manager.shutdown().await;
    }

    #[tokio::test]
    async fn agents_that_ended_long_ago_are_forgotten() {
        let folder = tempfile::tempdir().expect("a folder");
        let manager = Manager::start(Settings::on_loopback(folder.path().to_owned())).await;
        let manager = manager.expect("up");
        let empty = SqliteStore::open(&manager_db(&folder.path().join("empty")))
            .expect("open")
            .reads();
        let registry = Registry::load(empty.as_ref(), manager.dispatcher.clone(), TaskTracker::new()).expect("loaded");
        let now_ms = millis(unix_now());
        let rule = crate::join::JoinRule {
            name: "rule".into(),
            pool: "eu".into(),
            projects: Vec::new(),
            proof: crate::join::RuleProof::Token,
            created_at_ms: now_ms,
            created_by: String::new(),
        };
        registry.create_rule(rule.clone()).await.expect("a rule");
        for id in ["a1", "a2"] {
            let joining = crate::registry::Joining {
                agent_id: id.parse().expect("an id"),
                subject: "token:rule".into(),
                rule: rule.clone(),
                token: None,
                line: None,
            };
            let issued = crate::trust::authority::Issued {
                leaf: Vec::new(),
                serial: id.into(),
                key: id.into(),
                line: id.into(),
                not_before_ms: now_ms,
                not_after_ms: now_ms + 1000,
            };
            registry.join(joining, &issued).await.expect("joined");
        }
        let ban = crate::registry::Standing::Banned { reason: "evil".into() };
        registry.end(&"a2".parse().expect("an id"), ban).await.expect("banned");
        assert_eq!(registry.forget_over(now_ms).await.expect("looked"), 0);
        let later_ms = now_ms + 31 * 24 * 3600 * 1000;
        assert_eq!(registry.forget_over(later_ms).await.expect("forgotten"), 1);
        assert!(registry.agent("a1").is_none() && registry.agent("a2").is_some());
        manager.shutdown().await;
    }

    fn manager_db(folder: &std::path::Path) -> PathBuf {
        std::fs::create_dir_all(folder).expect("a folder");
        folder.join("deputy.db")
    }
}
