//! The key sets of clusters: written into the rule, or from a URL and kept between joins, asked again when a token
//! names a key that is not known, at most every half minute. A set that was good outlives a failure for an hour.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::Full;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::turns::Turns;
use super::unproven::Unproven;
use crate::fetch::{Endpoint, Fetcher, Roots};
use crate::jose::key_set::KeySet;

/// A set from a URL is asked for again after so long even if it knows every key that is named: keys are withdrawn.
const KEPT: Duration = Duration::from_secs(10 * 60);
/// A set is believed for so long after it was had, while it cannot be had again.
const BELIEVED: Duration = Duration::from_secs(60 * 60);
/// Nobody can make the manager ask more often than this.
const ASKED_AT_MOST_EVERY: Duration = Duration::from_secs(30);
/// As many clusters as rules may name.
const MAX_SETS: usize = 256;

/// Where an issuer's keys are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum KeySource {
    /// Here: a JWKS document.
    Given(String),
    /// A JWKS document on the web.
    Url {
        /// `https://…`, with its path.
        url: String,
        /// Believe only these certificates (PEM); empty: those that this machine believes.
        ca_pem: String,
    },
}

/// Key sets by source. Each has a lock of its own, so that a cluster which does not answer holds up its own joins only.
#[derive(Debug, Default)]
pub(crate) struct KeySets {
    sources: std::sync::Mutex<BTreeMap<KeySource, Arc<Mutex<Option<Kept>>>>>,
    turns: Turns,
    fetcher: Fetcher,
}

#[derive(Debug)]
struct Kept {
    /// The last answer.
    keys: Result<Arc<KeySet>, String>,
    asked: Instant,
    /// The last set that there was, and until when it is believed.
    good: Option<(Arc<KeySet>, Instant)>,
}

impl Kept {
    /// The last answer, or the set before it, if that holds the key and is not too old.
    fn believed(&self, kid: Option<&str>) -> Result<Arc<KeySet>, String> {
        let before = self.good.as_ref().filter(|(_, until)| Instant::now() < *until);
        match (&self.keys, before) {
            (Err(_), Some((keys, _))) if keys.key(kid).is_some() => Ok(Arc::clone(keys)),
            (keys, _) => keys.clone(),
        }
    }
}

impl std::fmt::Display for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Given(_) => f.write_str("the rule"),
            Self::Url { url, .. } => f.write_str(url),
        }
    }
}

impl KeySource {
    /// Does it hold keys, or can it be asked for them?
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Given(document) => KeySet::parse(document.as_bytes())
                .map(drop)
                .map_err(|why| format!("the key set cannot be used: {why}")),
            Self::Url { url, ca_pem } => place(url).and_then(|_| roots(ca_pem).check()),
        }
    }
}

impl KeySets {
    /// By this fetcher.
    pub(crate) fn by(fetcher: Fetcher) -> Self {
        Self {
            fetcher,
            ..Self::default()
        }
    }

    /// The keys of `source`, new enough to hold `kid` if it exists.
    ///
    /// # Errors
    /// If they cannot be had now.
    pub(crate) async fn get(&self, source: &KeySource, kid: Option<&str>) -> Result<Arc<KeySet>, Unproven> {
        let read = match source {
            KeySource::Given(document) => KeySet::parse(document.as_bytes()).map(Arc::new),
            KeySource::Url { url, ca_pem } => self.fetched(source, (url, ca_pem), kid).await,
        };
        read.map_err(|why| {
            Unproven::later(
                format!("the keys of the token's issuer cannot be had from {source}: {why}"),
                "check the rule's key set; many clusters show theirs only to who may read it \
                 (the role system:service-account-issuer-discovery): then write the set into the rule",
            )
        })
    }

    async fn fetched(
        &self,
        source: &KeySource,
        (url, ca_pem): (&str, &str),
        kid: Option<&str>,
    ) -> Result<Arc<KeySet>, String> {
        let place = self.place_of(source);
        // Held while asking: others who come meanwhile want the same answer.
        let mut kept = place.lock().await;
        if let Some(found) = kept.as_ref() {
            let age = found.asked.elapsed();
            let is_known = matches!(&found.keys, Ok(keys) if keys.key(kid).is_some());
            if age < ASKED_AT_MOST_EVERY || (is_known && age < KEPT) {
                return found.believed(kid);
            }
        }
        let _turn = self.turns.take(url).await.map_err(|refusal| refusal.what)?;
        let asked = Instant::now();
        let keys = ask(&self.fetcher, url, ca_pem).await.map(Arc::new);
        if let Err(why) = &keys {
            tracing::warn!(url, why, "the keys of an issuer cannot be had");
        }
        let good = match &keys {
            Ok(keys) => Some((Arc::clone(keys), asked + BELIEVED)),
            Err(_) => kept.take().and_then(|before| before.good),
        };
        let found = Kept { keys, asked, good };
        let believed = found.believed(kid);
        *kept = Some(found);
        believed
    }

    fn place_of(&self, source: &KeySource) -> Arc<Mutex<Option<Kept>>> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() >= MAX_SETS && !sources.contains_key(source) {
            sources.clear();
        }
        Arc::clone(sources.entry(source.clone()).or_default())
    }
}

fn place(url: &str) -> Result<(Endpoint, Uri), String> {
    let uri: Uri = url.parse().map_err(|error| format!("{url:?} is no URL: {error}"))?;
    Ok((Endpoint::of_url(&uri)?, uri))
}

async fn ask(fetcher: &Fetcher, url: &str, ca_pem: &str) -> Result<KeySet, String> {
    let (endpoint, uri) = place(url)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let request = Request::get(path)
        .header("host", authority)
        .header("accept", "application/json")
        .body(Full::<Bytes>::default())
        .map_err(|error| error.to_string())?;
    let answer = fetcher
        .exchange(&endpoint, &roots(ca_pem), request)
        .await
        .map_err(|error| error.to_string())?;
    if answer.status.as_u16() != 200 {
        return Err(format!("the answer is {}", answer.status));
    }
    KeySet::parse(&answer.body)
}

fn roots(ca_pem: &str) -> Roots {
    if ca_pem.is_empty() {
        Roots::Native
    } else {
        Roots::Pem(ca_pem.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const SET: &str = r#"{"keys": [{"kty": "RSA", "kid": "a", "n": "AQAB", "e": "AQAB"}]}"#;

    /// A web server that counts how often it is asked.
    #[expect(clippy::disallowed_methods, reason = "a server of the test ends with its runtime")]
    async fn server(answer: &'static str) -> (KeySource, Arc<AtomicUsize>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("listens");
        let url = format!("http://{}/openid/v1/jwks", listener.local_addr().expect("bound"));
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                let mut request = [0; 1024];
                let length = stream.read(&mut request).await.expect("a request");
                assert!(request[..length].starts_with(b"GET /openid/v1/jwks HTTP/1.1\r\n"));
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", answer.len());
                stream.write_all((head + answer).as_bytes()).await.expect("answered");
            }
        });
        let ca_pem = String::new();
        (KeySource::Url { url, ca_pem }, asked)
    }

    #[tokio::test]
    async fn strangers_key_ids_do_not_make_the_manager_ask_again_and_again() {
        let (source, asked) = server(SET).await;
        let sets = KeySets::default();
        for kid in ["a", "a", "b", "c", "a"] {
            let keys = sets.get(&source, Some(kid)).await.expect("keys");
            assert_eq!(keys.key(Some(kid)).is_some(), kid == "a");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        // Half a minute later an unknown key is worth another question, a known one is not.
        let earlier = Instant::now().checked_sub(ASKED_AT_MOST_EVERY).expect("up for so long");
        for (kid, times) in [("a", 1), ("b", 2), ("b", 2)] {
            if times == 1 {
                let place = sets.place_of(&source);
                place.lock().await.as_mut().expect("kept").asked = earlier;
            }
            sets.get(&source, Some(kid)).await.expect("keys");
            assert_eq!(asked.load(Ordering::SeqCst), times, "{kid}");
        }
    }

    #[tokio::test]
    async fn good_keys_outlive_a_failure_for_an_hour() {
        let (source, asked) = server(SET).await;
        let KeySource::Url { ca_pem, .. } = &source else {
            panic!("it is asked")
        };
        let sets = KeySets::default();
        sets.get(&source, Some("a")).await.expect("keys");
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        // What is kept is made to be of a place where nobody answers.
        let nobody = KeySource::Url {
            url: "http://127.0.0.1:1/openid/v1/jwks".into(),
            ca_pem: ca_pem.clone(),
        };
        let mut kept = sets.place_of(&source).lock().await.take().expect("kept");
        kept.keys = Err("it did not answer".into());
        kept.asked = Instant::now().checked_sub(ASKED_AT_MOST_EVERY).expect("up for so long");
        *sets.place_of(&nobody).lock().await = Some(kept);
        for _ in 0..2 {
            let keys = sets.get(&nobody, Some("a")).await.expect("the keys from before");
            assert!(keys.key(Some("a")).is_some());
            let refused = sets.get(&nobody, Some("b")).await.expect_err("perhaps a new key");
            assert!(refused.to_string().contains("cannot be had"), "{refused}");
        }
        if let Some(good) = &mut sets.place_of(&nobody).lock().await.as_mut().expect("kept").good {
            good.1 = Instant::now();
        }
        sets.get(&nobody, Some("a")).await.expect_err("too old");
    }

    #[tokio::test]
    async fn a_cluster_that_does_not_answer_holds_up_no_other() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("listens");
        let silent = KeySource::Url {
            url: format!("http://{}/openid/v1/jwks", listener.local_addr().expect("bound")),
            ca_pem: String::new(),
        };
        let (answers, _) = server(SET).await;
        let sets = KeySets::default();
        tokio::select! {
            biased;
            _ = sets.get(&silent, Some("a")) => panic!("it does not answer"),
            keys = sets.get(&answers, Some("a")) => drop(keys.expect("keys")),
        }
    }

    #[tokio::test]
    async fn a_source_that_gives_no_keys_is_told_with_where_it_is() {
        let (source, asked) = server("<html>").await;
        let sets = KeySets::default();
        for _ in 0..3 {
            let refused = sets.get(&source, Some("a")).await.expect_err("none").to_string();
            assert!(
                refused.contains("/openid/v1/jwks: it is no JSON Web Key Set"),
                "{refused}"
            );
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1, "failures are remembered too");
    }
}
