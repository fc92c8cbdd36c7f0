//! A step's connection to its cluster: looked up, a temporary kubeconfig written, a client made from
//! the kubeconfig's server and certificate authority, a token from its exec plugin. Called by the
//! step programs. Everything of it is gone when it is dropped; no secret is ever in a file.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use deputy_credentials::TaskIdentity;
use deputy_credentials::authenticator::{TokenProgram, ToolLookup};
use deputy_credentials::cluster::{EksCluster, describe_cluster};
use deputy_credentials::endpoint::EndpointHandle;
use deputy_credentials::exec_plugin::{ExecPlugin, PluginTokens};
use deputy_credentials::kubeconfig::Kubeconfig;
use deputy_dial::proxy::ProxyRule;
use deputy_logs::Redactor;
use deputy_task::outcome::Failure;
use http::{HeaderValue, Uri};
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{self, HttpConnector};
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt;
use tower::{Service, ServiceExt};

use crate::context::StepContext;
use crate::failure::StepError;

use super::api::{Api, Place};
use super::bearer::{Bearer, Hide};
use super::explain::{Doing, explain};
use super::guard;

/// To open a TCP connection to the API server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// An open connection to a cluster.
pub(crate) struct Connection {
    /// The API server.
    pub(crate) api: Api,
    /// Held for as long as the connection is used: dropping them removes the file and the endpoint.
    _kubeconfig: Kubeconfig,
    _endpoint: EndpointHandle,
}

/// What a connection is made of.
pub(crate) struct Dial<'a> {
    /// Who connects.
    pub(crate) identity: TaskIdentity,
    /// To which cluster.
    pub(crate) cluster: &'a EksCluster,
    /// What makes the tokens.
    pub(crate) program: &'a TokenProgram,
    /// Where the kubeconfig is written for as long as the connection is open.
    pub(crate) folder: &'a Path,
    /// The kubeconfig's namespace.
    pub(crate) namespace: Option<&'a str>,
    /// Told every secret before it is used.
    pub(crate) hide: Hide,
    /// What is taken out of the cluster's answers.
    pub(crate) secrets: Redactor,
}

impl Connection {
    /// Opens one, and says in the log who the cluster says we are.
    pub(crate) async fn open(ctx: &StepContext, cluster: &str, namespace: Option<&str>) -> Result<Self, StepError> {
        let identity = ctx.identity().await?;
        let found = describe_cluster(&identity, cluster).await?;
        let program = ToolLookup::from_process().token_program().await;
        ctx.narrate(program.narration());
        let host = Arc::clone(ctx.host());
        let connection = Self::dial(Dial {
            identity,
            cluster: &found,
            program: &program,
            folder: &ctx.aside().await?,
            namespace,
            hide: Arc::new(move |secret, end| host.add_secret(secret, end).map_err(|refused| refused.to_string())),
            secrets: ctx.host().log().redactor(),
        })
        .await?;
        connection.introduce(ctx, &found).await?;
        Ok(connection)
    }

    /// Makes everything that a connection needs; nothing is asked of the cluster yet.
    pub(crate) async fn dial(dial: Dial<'_>) -> Result<Self, Failure> {
        let Dial { cluster, hide, .. } = dial;
        let plugin = ExecPlugin::new(dial.program, cluster);
        let hidden = Arc::clone(&hide);
        let endpoint = EndpointHandle::open(dial.identity.clone(), move |secret: &[u8], end| hidden(secret, end)).await;
        let endpoint = endpoint.map_err(|error| {
            Failure::new(
                "agent.credentialEndpoint",
                "the task's credential endpoint could not be opened",
            )
            .caused_by(&error)
        })?;
        for secret in endpoint.secrets() {
            hide(secret.as_bytes(), None).map_err(|why| {
                let summary = format!("the token of the task's credential endpoint cannot be hidden: {why}");
                Failure::new("secret.tooLong", summary)
                    .hint("give the task fewer or shorter secrets and secret outputs")
            })?;
        }
        let kubeconfig = Kubeconfig::create(dial.folder, cluster, &plugin, dial.namespace).map_err(|error| {
            Failure::new("agent.kubeconfig", "the temporary kubeconfig could not be written").caused_by(&error)
        })?;
        let client = client(&kubeconfig).await.map_err(|problem| {
            Failure::new(
                "kubernetes.kubeconfig",
                format!("cluster {} cannot be used as EKS describes it: {problem}", cluster.name),
            )
        })?;
        let tokens = PluginTokens::new(plugin, endpoint.env()).signed_by(dial.identity);
        let bearer = Bearer::new(tokens, hide);
        let place = Place {
            cluster: cluster.name.clone(),
            server: cluster.endpoint.clone(),
        };
        Ok(Self {
            api: Api::new(client, bearer, place, dial.secrets),
            _kubeconfig: kubeconfig,
            _endpoint: endpoint,
        })
    }

    async fn introduce(&self, ctx: &StepContext, cluster: &EksCluster) -> Result<(), StepError> {
        let mut tries = 0;
        let who = loop {
            match self.api.who_am_i().await {
                Ok(who) => break who,
                Err(error) if error.passes() && tries < 3 => {
                    tries += 1;
                    ctx.sleep(
                        Duration::from_secs(tries),
                        format!("cluster {} to answer", cluster.name),
                    )
                    .await?;
                }
                Err(error) => {
                    let doing = Doing::new("say", "who the task is");
                    return Err(explain(&self.api, &error, &doing).await.into());
                }
            }
        };
        ctx.narrate(format!(
            "cluster {} at {} knows this task as {who}",
            cluster.name, cluster.endpoint
        ));
        Ok(())
    }
}

/// A client of the kubeconfig's cluster that sends no change without a permit, and has no
/// authentication of its own.
async fn client(kubeconfig: &Kubeconfig) -> Result<kube::Client, String> {
    let mut file = kube::config::Kubeconfig::read_from(kubeconfig.path()).map_err(|error| error.to_string())?;
    // To ask it for a client certificate, the library would run the plugin by itself, with this process's whole
    // environment: the agent's own identity. Tokens come from `Bearer`, which gives it the task's alone.
    for user in &mut file.auth_infos {
        if let Some(user) = &mut user.auth_info {
            user.exec = None;
        }
    }
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(file, &options)
        .await
        .map_err(|error| error.to_string())?;
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_nodelay(true);
    connector.set_keepalive(Some(Duration::from_secs(30)));
    install_crypto();
    let rule = ProxyRule::of(&|name| std::env::var(name).ok());
    let rule = rule.map_err(|bad| format!("HTTPS_PROXY cannot be used: {bad}"))?;
    match proxy(&rule, &config.cluster_url)? {
        None => over(connector, config),
        Some((proxy, login)) => {
            let mut tunnel = Tunnel::new(proxy, connector);
            if let Some(login) = login {
                tunnel = tunnel.with_auth(login);
            }
            over(tunnel, config)
        }
    }
}

/// The proxy on the way to a cluster, and what it is told of user and password. As everything else of the agent:
/// HTTPS_PROXY and NO_PROXY decide.
fn proxy(rule: &ProxyRule, cluster: &Uri) -> Result<Option<(Uri, Option<HeaderValue>)>, String> {
    let host = cluster.host().unwrap_or_default();
    let port = cluster.port_u16().unwrap_or(443);
    let Some(proxy) = rule.for_host(host.trim_matches(['[', ']']), port) else {
        return Ok(None);
    };
    let bad = |error: &dyn std::fmt::Display| format!("HTTPS_PROXY cannot be used: {error}");
    let address = format!("http://{}", proxy.authority()).parse::<Uri>();
    let login = proxy.authorization().map(HeaderValue::from_str).transpose();
    let mut login = login.map_err(|error| bad(&error))?;
    if let Some(login) = &mut login {
        login.set_sensitive(true);
    }
    Ok(Some((address.map_err(|error| bad(&error))?, login)))
}

/// A client whose connections are opened by `connector`.
fn over<C>(connector: C, config: kube::Config) -> Result<kube::Client, String>
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: connect::Connection + Read + Write + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let connector = config
        .rustls_https_connector_with_connector(connector)
        .map_err(|error| error.to_string())?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    // From below: the HTTP client, the fence right above it, the server's address.
    let fenced = http.map_request(guard::guard);
    let service = tower::ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .service(fenced);
    Ok(kube::Client::new(service, config.default_namespace))
}

/// kube takes the process's default provider, which only its own client builder would install.
fn install_crypto() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error means that another thread was first: the same provider.
        let _first = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A certificate that has signed nothing, PEM in base64.
    const CA: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1JSUJnVENDQVNlZ0F3SUJBZ0lVWlhZMGdpeVlueWtJQnpuM1RSdENiVTRGUkJJd0NnWUlLb1pJemowRUF3SXcKRlRFVE1CRUdBMVVFQXd3S1lTQnpkSEpoYm1kbGNqQWdGdzB5TmpFeE1qWXhOakkxTXpsYUdBOHlNVEkyTVRFdwpNakUyTWpVek9Wb3dGVEVUTUJFR0ExVUVBd3dLWVNCemRISmhibWRsY2pCWk1CTUdCeXFHU000OUFnRUdDQ3FHClNNNDlBd0VIQTBJQUJQbVhjOWJWTml3QWJYbFJDOFZId2ZjTlA1bXF6Zldld1NTT0ZZOEZHYW5kNkNqNXpscXMKd2RWbWZzL2pCU1UzQ3dYaGFLZDB3cGsyNTRtaFJTSXNZNDJqVXpCUk1CMEdBMVVkRGdRV0JCU0ExaXZPYVZOKwpHZ09XSHZSVUxNdk9xdU4xZ3pBZkJnTlZIU01FR0RBV2dCU0ExaXZPYVZOK0dnT1dIdlJVTE12T3F1TjFnekFQCkJnTlZIUk1CQWY4RUJUQURBUUgvTUFvR0NDcUdTTTQ5QkFNQ0EwZ0FNRVVDSUF3c3BxQnpCRWNoSjloL3A2Z2QKMzNGV3RDSFRTOFhWRFZFOTlQeHRlcHAvQWlFQWg0TDNwT1MvNWNWem1ydUtEaUt5Y3ZpRHJVK3NaT0V0VGV3SApMSmNuNDg4PQotLS0tLUVORCBDRVJUSUZJQ0FURS0tLS0tCg==";

    /// Guards that one environment means one way, for the manager and for clusters; entries with ports count for theirs.
    #[test]
    fn a_cluster_is_reached_through_the_proxy_through_which_the_manager_is() {
        let no_proxy = "*.eks.amazonaws.com  b.example:6443,[fd00::1]";
        let rule = ProxyRule::new("http://me:p%40ss@[fd00::2]:8080", no_proxy).expect("good");
        for (url, through) in [
            ("https://A.gr7.eu-west-1.eks.amazonaws.com", false),
            ("https://b.example:6443", false),
            ("https://b.example", true),
            ("https://[fd00::1]", false),
            ("https://localhost:6443", false),
            ("https://c.example", true),
        ] {
            let uri: Uri = url.parse().expect("an address");
            let found = proxy(&rule, &uri).expect("good");
            let told = found.map(|(proxy, login)| (proxy.to_string(), login.expect("a password")));
            let login = HeaderValue::from_static("Basic bWU6cEBzcw==");
            assert_eq!(told, through.then(|| ("http://[fd00::2]:8080/".into(), login)), "{url}");
        }
    }

    /// Guards what a plugin is run with: the library that reads the kubeconfig would give it this process's environment.
    #[tokio::test]
    async fn making_a_client_does_not_run_the_plugin() {
        let folder = tempfile::tempdir().expect("a folder");
        let (plugin, ran) = (folder.path().join("plugin"), folder.path().join("ran"));
        std::fs::write(&plugin, format!("#!/bin/sh\ntouch {}\n", ran.display())).expect("written");
        std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).expect("set");
        let cluster = EksCluster {
            name: "prod".into(),
            arn: String::new(),
            region: "eu-west-1".into(),
            endpoint: "https://localhost:1".into(),
            ca_data: CA.into(),
            version: String::new(),
        };
        let program = TokenProgram::Authenticator {
            path: plugin,
            version: String::new(),
        };
        let plugin = ExecPlugin::new(&program, &cluster);
        let kubeconfig = Kubeconfig::create(folder.path(), &cluster, &plugin, None).expect("written");
        client(&kubeconfig).await.expect("a client");
        assert!(!ran.exists(), "the plugin was run");
    }
}
