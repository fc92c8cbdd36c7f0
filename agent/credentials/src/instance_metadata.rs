//! Does the metadata service of an EC2 instance answer here? It asks nobody who he is, so that it gives the instance's
//! role to steps too, whatever identity the agent itself has. Asked by `deputy-agent doctor`; takes no credentials.

use std::time::Duration;

use http::Uri;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::env::Env;

/// The addresses of every instance (EC2 User Guide: "Access instance metadata").
const ADDRESSES: [&str; 2] = ["http://169.254.169.254", "http://[fd00:ec2::254]"];

/// Of one question: what is on the same machine answers in milliseconds.
const WITHIN: Duration = Duration::from_secs(1);

/// An answer is a token or a name.
const MAX_ANSWER_BYTES: u64 = 16 * 1024;

const TOKEN: &str = "/latest/api/token";
const ROLES: &str = "/latest/meta-data/iam/security-credentials/";

/// What answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Where.
    pub endpoint: String,
    /// The role that it gives away, if the instance has one.
    pub role: Option<String>,
}

/// Asks at the addresses of every instance, or where the environment says that it is.
pub async fn find(env: &Env) -> Option<Metadata> {
    match env.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") {
        Some(endpoint) => ask(endpoint).await,
        None => {
            let [four, six] = ADDRESSES;
            let (four, six) = tokio::join!(ask(four), ask(six));
            four.or(six)
        }
    }
}

/// By version 2, and by version 1, which is let through where the answer to a token's request is not.
async fn ask(endpoint: &str) -> Option<Metadata> {
    let uri: Uri = endpoint.parse().ok()?;
    let answers = |role: Option<String>| Metadata {
        endpoint: endpoint.trim_end_matches('/').to_owned(),
        role,
    };
    let (token, open) = tokio::join!(
        say(&uri, "PUT", TOKEN, "X-aws-ec2-metadata-token-ttl-seconds: 60"),
        say(&uri, "GET", ROLES, "Accept: text/plain"),
    );
    if let Some((200, token)) = token {
        let header = format!("X-aws-ec2-metadata-token: {}", token.trim());
        let roles = say(&uri, "GET", ROLES, &header).await;
        return Some(answers(roles.and_then(first_of)));
    }
    open.filter(|(status, _)| *status == 200)
        .map(|roles| answers(first_of(roles)))
}

fn first_of((status, names): (u16, String)) -> Option<String> {
    let name = names.lines().next().filter(|_| status == 200)?;
    Some(name.chars().filter(|one| !one.is_control()).take(128).collect())
}

/// Status and body of one request, on a connection of its own and never through a proxy.
async fn say(uri: &Uri, method: &str, path: &str, header: &str) -> Option<(u16, String)> {
    let host = uri.host()?;
    let address = (host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(80));
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{header}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let answered = tokio::time::timeout(WITHIN, async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await.ok()?;
        Some(answer)
    });
    let answer = String::from_utf8(answered.await.ok()??).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Asks what answers so to each method, and to a `GET` without a token.
    async fn found(put: &str, get: &str, open: &str) -> Option<Option<String>> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}/", listener.local_addr().expect("an address"));
        let serve = async {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a caller");
                let mut request = [0; 1024];
                let length = stream.read(&mut request).await.expect("a request");
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let answer = match (
                    request.starts_with("PUT"),
                    request.contains("X-aws-ec2-metadata-token: t0k"),
                ) {
                    (true, _) => put,
                    (false, true) => get,
                    (false, false) => open,
                };
                let answer = format!("HTTP/1.1 {answer}");
                stream.write_all(answer.as_bytes()).await.expect("answered");
            }
        };
        let env: Env = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint.as_str())]
            .into_iter()
            .collect();
        tokio::select! {
            found = find(&env) => found.map(|found| found.role),
            () = serve => None,
        }
    }

    #[tokio::test]
    async fn an_instance_is_known_by_its_answers_and_its_role_by_name() {
        let (no, token, role) = (
            "401 Unauthorized\r\n\r\n",
            "200 OK\r\n\r\nt0k",
            "200 OK\r\n\r\nnode-role\n",
        );
        assert_eq!(found(token, role, no).await, Some(Some("node-role".into())));
        assert_eq!(found(token, "404 Not Found\r\n\r\n", no).await, Some(None));
        // Version 1, past a hop limit that only the answer with a token minds.
        assert_eq!(found("", no, role).await, Some(Some("node-role".into())));
        assert_eq!(found(no, no, no).await, None);
        assert_eq!(found("no HTTP", "", "").await, None);
    }

    #[tokio::test]
    async fn where_nobody_listens_there_is_none() {
        let env: Env = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")]
            .into_iter()
            .collect();
        assert_eq!(find(&env).await, None);
    }
}
