//! The connection to the manager: its address, its deadlines, and calls whose errors are words.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deputy_dial::authority::{Authority, ClientIdentity};
use deputy_dial::dialer::{DialError, Dialer};
use deputy_dial::proxy::ProxyRule;
use deputy_dial::url::{BadManagerUrl, ManagerUrl, Transport};
use deputy_proto::v1::fleet_client::FleetClient;
use deputy_proto::v1::tasks_client::TasksClient;
use deputy_proto::v1::{Bundle, GetRequest, PutBundleRequest, SubmitRequest, SubmitResponse, Task};
use deputy_proto::version::MAX_BLOB_FRAME_BYTES;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};

use crate::bundle::Packed;
use crate::error::{CliError, TOKEN};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// How long an answer to a single call may take.
const CALL: Duration = Duration::from_secs(30);

/// How long the upload of a bundle may take: 64 MiB over a slow line.
const UPLOAD: Duration = Duration::from_secs(600);

/// Largest answer: a task with its journal.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// How often Submit is sent when the connection breaks under it, or the manager has no room; it is idempotent.
const SUBMIT_TRIES: u32 = 4;

/// How long after the first try the second is made; the next ones after twice as long each.
const SUBMIT_WAIT: Duration = Duration::from_millis(250);

/// A manager, connected.
#[derive(Debug, Clone)]
pub(crate) struct Manager {
    pub(crate) url: String,
    pub(crate) project: String,
    link: Link,
}

/// The connection, with the token on every call.
pub(crate) type Link = InterceptedService<Channel, Bearer>;

/// Who the user is: puts his token on every call.
#[derive(Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() {
            "Bearer(…)"
        } else {
            "Bearer(none)"
        })
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

impl Bearer {
    fn of(access: &Access) -> Result<Self, CliError> {
        let text = match (&access.token, &access.token_file) {
            (_, Some(path)) => {
                let text = std::fs::read_to_string(path);
                text.map_err(|error| unreadable(path, "the token", &error))?
            }
            (Some(token), None) => token.clone(),
            (None, None) => return Ok(Self(None)),
        };
        let header = MetadataValue::try_from(format!("Bearer {}", text.trim()));
        let mut header =
            header.map_err(|_| CliError::bad_input("the token has characters that no token has").hint(TOKEN))?;
        header.set_sensitive(true);
        Ok(Self(Some(header)))
    }
}

/// How the manager is reached, as the user said it.
#[derive(Clone, Default)]
pub(crate) struct Access {
    pub(crate) url: String,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) ca_sha256: Option<String>,
    pub(crate) token_file: Option<PathBuf>,
    /// DEPUTY_TOKEN.
    pub(crate) token: Option<String>,
    /// A certificate and its key.
    pub(crate) client_certificate: Option<PathBuf>,
    /// Of HTTPS_PROXY and NO_PROXY.
    pub(crate) proxy: ProxyRule,
}

impl Access {
    fn dialer(&self) -> Result<Dialer, CliError> {
        let url = checked(&self.url)?;
        let tls = match url.transport() {
            Transport::Clear => None,
            Transport::Tls => {
                let identity = self.client_certificate.as_deref().map(identity).transpose()?;
                let config = self.authority()?.client_config(identity.as_ref());
                let config = config.map_err(|error| CliError::bad_input("TLS cannot be set up").caused_by(&error))?;
                Some(Arc::new(config))
            }
        };
        Ok(Dialer::new(url, Arc::new(self.proxy.clone()), tls, CONNECT))
    }

    fn authority(&self) -> Result<Authority, CliError> {
        match (&self.ca_file, &self.ca_sha256) {
            (Some(path), _) => {
                let pem = std::fs::read(path).map_err(|error| unreadable(path, "the manager's authority", &error))?;
                Authority::from_pem(&pem).map_err(|error| {
                    CliError::bad_input(format!("{} cannot be used as the manager's authority", path.display()))
                        .caused_by(&error)
                })
            }
            (None, Some(pin)) => Authority::from_pin(pin)
                .map_err(|error| CliError::bad_input("--ca-sha256 cannot be used").caused_by(&error)),
            (None, None) => Err(CliError::bad_input(format!(
                "there is no authority to check the manager at {} with",
                self.url
            ))
            .hint("give its ca.pem with --ca-file or DEPUTY_CA_FILE; the manager writes it into its data folder")),
        }
    }
}

fn identity(path: &Path) -> Result<ClientIdentity, CliError> {
    let pem = std::fs::read(path).map_err(|error| unreadable(path, "the client certificate", &error))?;
    ClientIdentity::from_pem(&pem).map_err(|error| {
        CliError::bad_input(format!("{} cannot be used as the client certificate", path.display())).caused_by(&error)
    })
}

fn unreadable(path: &Path, what: &str, error: &std::io::Error) -> CliError {
    CliError::bad_input(format!("cannot read {} for {what}", path.display())).caused_by(error)
}

impl Manager {
    /// Connects, so that an address where nothing listens is told at once.
    pub(crate) async fn connect(access: &Access, project: &str) -> Result<Self, CliError> {
        let url = &access.url;
        let (dialer, bearer) = (access.dialer()?, Bearer::of(access)?);
        // The first connection is made here, so that its errors keep their words.
        let failed = |error: DialError| {
            CliError::new(
                crate::error::Exit::Unreachable,
                format!("cannot reach the manager at {url}"),
            )
            .caused_by(&error)
            .hint(match error {
                DialError::Tls { .. } | DialError::Handshake { .. } | DialError::Protocol { .. } => {
                    "look at --ca-file and at the address; `openssl s_client` shows what answers there"
                }
                DialError::Proxy { .. } => "HTTPS_PROXY names the proxy, NO_PROXY what is reached without it",
                _ => "is it running? its address is given with --manager or DEPUTY_MANAGER",
            })
        };
        let first = dialer.clone().dial_for_hyper().await.map_err(failed)?;
        let first = Arc::new(std::sync::Mutex::new(Some(first)));
        let connector = tower::service_fn(move |_: Uri| {
            let (first, dialer) = (Arc::clone(&first), dialer.clone());
            async move {
                let taken = first.lock().ok().and_then(|mut first| first.take());
                match taken {
                    Some(first) => Ok(first),
                    None => dialer.dial_for_hyper().await,
                }
            }
        });
        let endpoint = Endpoint::from_static("https://manager")
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        let channel = endpoint.connect_with_connector(connector).await.map_err(|error| {
            let unreachable = CliError::new(
                crate::error::Exit::Unreachable,
                format!("cannot reach the manager at {url}"),
            );
            unreachable
                .caused_by(&error)
                .hint("is it running? its address is given with --manager or DEPUTY_MANAGER")
        })?;
        Ok(Self {
            url: url.to_owned(),
            project: project.to_owned(),
            link: InterceptedService::new(channel, bearer),
        })
    }

    /// A task as it is now; none if the manager answers without one.
    pub(crate) async fn task(&self, task_id: &str) -> Result<Option<Task>, Status> {
        let request = GetRequest {
            project: self.project.clone(),
            task_id: task_id.to_owned(),
            with_journal: false,
            with_document: false,
        };
        Ok(self.tasks().get(Self::call(request)).await?.into_inner().task)
    }

    pub(crate) fn tasks(&self) -> TasksClient<Link> {
        TasksClient::new(self.link.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn fleet(&self) -> FleetClient<Link> {
        FleetClient::new(self.link.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// A request with the deadline of a single call.
    pub(crate) fn call<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(CALL);
        request
    }

    pub(crate) fn failed(&self, doing: &str) -> impl Fn(Status) -> CliError {
        let (url, doing) = (self.url.clone(), doing.to_owned());
        move |status| CliError::from_status(&status, &url, &doing)
    }

    /// Submits, and again with the same request id if the connection broke on the way or the manager has no room.
    pub(crate) async fn submit(&self, request: SubmitRequest) -> Result<SubmitResponse, CliError> {
        let answer = submitted(async || self.tasks().submit(Self::call(request.clone())).await).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(self.failed("submit the task"))
    }

    /// Stores a packed folder.
    pub(crate) async fn put_bundle(&self, name: &str, packed: Packed) -> Result<Bundle, CliError> {
        let (project, sha256) = (self.project.clone(), packed.sha256.clone());
        let size_bytes = u64::try_from(packed.bytes.len()).unwrap_or(u64::MAX);
        let mut rest = Bytes::from(packed.bytes);
        let mut first = Some((project, sha256));
        let frames = std::iter::from_fn(move || {
            let head = first.take();
            if head.is_none() && rest.is_empty() {
                return None;
            }
            let data = rest.split_to(rest.len().min(MAX_BLOB_FRAME_BYTES));
            let (project, sha256) = head.unwrap_or_default();
            Some(PutBundleRequest { project, sha256, data })
        });
        let mut request = Request::new(futures::stream::iter(frames));
        request.set_timeout(UPLOAD);
        self.tasks()
            .put_bundle(request)
            .await
            .map_err(self.failed(&format!("store the bundle `{name}`")))?;
        Ok(Bundle {
            name: name.to_owned(),
            sha256: packed.sha256,
            size_bytes,
        })
    }
}

/// The answer to a call that may be made more than once, a bounded number of times. A full disk of the manager may
/// have room again in a moment, when what was removed or rotated away has gone.
async fn submitted<T>(call: impl AsyncFn() -> Result<T, Status>) -> Result<T, Status> {
    let mut wait = SUBMIT_WAIT;
    for _ in 1..SUBMIT_TRIES {
        match call().await {
            Err(status) if is_transient(&status) || status.code() == Code::ResourceExhausted => {
                tokio::time::sleep(wait).await;
            }
            answer => return answer,
        }
        wait *= 2;
    }
    call().await
}

/// Can the same call succeed later? What a restarting manager or a proxy before it answers.
pub(crate) fn is_transient(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable
        | Code::Unknown
        | Code::Internal
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted => true,
        // Answers about the request itself: asking again changes nothing.
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => false,
    }
}

/// An address that tasks may be sent to: over TLS, or in the clear on this machine.
fn checked(url: &str) -> Result<ManagerUrl, CliError> {
    url.parse().map_err(|error: BadManagerUrl| {
        CliError::bad_input(format!("the manager's address {url} cannot be used"))
            .caused_by(&error)
            .hint("for example https://manager.example.com:7443")
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// How often a call is made whose first answers are these, and how the last one ends.
    async fn tried(answers: Vec<Result<(), Status>>) -> (usize, Result<(), Code>) {
        let calls = AtomicUsize::new(0);
        let answer = submitted(async || answers[calls.fetch_add(1, Ordering::Relaxed)].clone()).await;
        (calls.into_inner(), answer.map_err(|status| status.code()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_submission_is_tried_again_a_few_times_if_the_manager_is_gone_or_has_no_room() {
        for status in [Status::unavailable("gone"), Status::resource_exhausted("full")] {
            let code = status.code();
            assert_eq!(tried(vec![Err(status.clone()), Ok(())]).await, (2, Ok(())));
            assert_eq!(tried(vec![Err(status); 9]).await, (4, Err(code)));
        }
        let wrong = Err(Status::invalid_argument("wrong"));
        assert_eq!(tried(vec![wrong, Ok(())]).await, (1, Err(Code::InvalidArgument)));
    }

    #[test]
    fn in_the_clear_only_addresses_on_this_machine_are_taken() {
        for good in [
            "http://127.0.0.1:7443",
            "http://localhost:1",
            "http://[::1]:7443",
            "http://127.8.8.8:1/",
            "https://manager.example.com",
        ] {
            assert!(checked(good).is_ok(), "{good}");
        }
        for bad in [
            "http://10.0.0.1:7443",
            "http://localhost.example.com:1",
            "127.0.0.1:7443",
            "",
            "unix:///x",
            "http://0.0.0.0:1",
        ] {
            assert!(checked(bad).is_err(), "{bad}");
        }
    }
}
