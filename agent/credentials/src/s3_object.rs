//! One object of S3, read with a task's identity: a signed GET (ADR 27). Called for sources; must never
//! change anything in S3.

use std::time::{Duration, SystemTime};

use aws_config::Region;
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4;
use aws_smithy_http_client::Connector;
use aws_smithy_runtime_api::client::http::HttpConnector;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use deputy_task::document::{bucket_problem, is_region};

use crate::env::Env;
use crate::error::{CredentialsError, chain_of};
use crate::http_client;
use crate::identity::TaskIdentity;
use crate::pace::Passing;
use crate::sts_host::dns_suffix;
use crate::throttling::is_throttling_code;

/// From asking to the head of the answer.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);
/// Of an error's body.
const MAX_ERROR_BYTES: usize = 16 * 1024;

/// Which object.
#[derive(Debug, Clone, Copy)]
pub struct ObjectAsked<'a> {
    /// The bucket.
    pub bucket: &'a str,
    /// The object's key.
    pub key: &'a str,
    /// The bucket's region, if it is not the task's.
    pub region: Option<&'a str>,
    /// This version of it.
    pub version_id: Option<&'a str>,
    /// Only if it still has this entity tag.
    pub etag: Option<&'a str>,
}

/// The head of an answer, and its body.
#[derive(Debug)]
pub struct Object {
    /// Where the bucket keeps versions.
    pub version_id: Option<String>,
    /// The entity tag.
    pub etag: Option<String>,
    /// Not read yet.
    pub body: ByteStream,
}

/// There is no object.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// There are no credentials, or no certificates to trust.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The bucket, key or region cannot be part of an address.
    #[error("it cannot be asked for: {0}")]
    Unaskable(String),
    /// No answer.
    #[error("S3 gave no answer: {0}")]
    NoAnswer(String),
    /// S3 said no.
    #[error("{code}: {message} (status {status})")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// S3's code, for example `NoSuchKey`.
        code: String,
        /// S3's words.
        message: String,
    },
}

impl ObjectError {
    /// Does it pass by itself?
    fn passing(&self) -> Option<Passing> {
        match self {
            Self::NoAnswer(_) => Some(Passing::Away),
            Self::Refused { status, code, .. } if *status == 429 || is_throttling_code(code) => {
                Some(Passing::Throttled)
            }
            Self::Refused { status, .. } if *status >= 500 => Some(Passing::Away),
            Self::Refused { .. } | Self::Credentials(_) | Self::Unaskable(_) => None,
        }
    }
}

impl TaskIdentity {
    /// Asks for an object of S3.
    ///
    /// # Errors
    /// If it is not there or may not be read, in S3's words; what passes by itself was tried as often as `aws.backoff`
    /// says.
    pub async fn s3_object(&self, asked: &ObjectAsked<'_>) -> Result<Object, ObjectError> {
        let connector = http_client::connector(self.env())?;
        let region = asked.region.unwrap_or(self.region());
        askable(asked, region)?;
        let url = address(self.env(), asked, region);
        let mut tried = 1;
        loop {
            let credentials = self.credentials().await?;
            self.pace().turn("s3").await;
            let refused = match ask(&connector, &url, asked, (region, credentials)).await {
                Ok(object) => return Ok(object),
                Err(refused) => refused,
            };
            let wait = refused
                .passing()
                .and_then(|passing| self.pace().after(("s3", "GetObject"), tried, passing));
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(refused),
            }
            tried += 1;
        }
    }
}

async fn ask(
    connector: &Connector,
    url: &str,
    asked: &ObjectAsked<'_>,
    (region, credentials): (&str, Credentials),
) -> Result<Object, ObjectError> {
    let request = signed(url, asked, region, credentials)?;
    let request = request
        .try_into()
        .map_err(|error| ObjectError::Unaskable(format!("{error}")))?;
    let answer = tokio::time::timeout(HEAD_TIMEOUT, connector.call(request)).await;
    let answer = match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(ObjectError::NoAnswer(chain_of(&error))),
        Err(_) => {
            let late = format!("none within {} s", HEAD_TIMEOUT.as_secs());
            return Err(ObjectError::NoAnswer(late));
        }
    };
    let status = answer.status().as_u16();
    let header = |name: &str| answer.headers().get(name).map(str::to_owned);
    // A bucket that has never kept versions says nothing; one that has stopped says `null`.
    let version_id = header("x-amz-version-id").filter(|version| version != "null");
    let etag = header("etag");
    if status != 200 {
        return Err(refusal(status, answer).await);
    }
    Ok(Object {
        version_id,
        etag,
        body: ByteStream::new(answer.into_body()),
    })
}

async fn refusal(status: u16, answer: HttpResponse) -> ObjectError {
    let region = answer.headers().get("x-amz-bucket-region").map(str::to_owned);
    let mut body = ByteStream::new(answer.into_body());
    let mut text = Vec::new();
    while let Some(Ok(bytes)) = body.next().await
        && text.len() < MAX_ERROR_BYTES
    {
        text.extend_from_slice(&bytes);
    }
    let text = String::from_utf8_lossy(&text);
    let tag = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        let (value, _) = rest.split_once(&format!("</{name}>"))?;
        Some(unescaped(value))
    };
    let mut message = tag("Message").unwrap_or_else(|| "no message".into());
    if let Some(region) = region.filter(|_| matches!(status, 301 | 307 | 400)) {
        message = format!("{message}; the bucket is in {region}");
    }
    ObjectError::Refused {
        status,
        code: tag("Code").unwrap_or_else(|| "Unknown".into()),
        message,
    }
}

/// Text of XML as it is meant. Each reference once: what it stands for is none.
fn unescaped(text: &str) -> String {
    const STANDS_FOR: [(&str, char); 9] = [
        ("&quot;", '"'),
        ("&#34;", '"'),
        ("&#x22;", '"'),
        ("&apos;", '\''),
        ("&#39;", '\''),
        ("&#x27;", '\''),
        ("&lt;", '<'),
        ("&gt;", '>'),
        ("&amp;", '&'),
    ];
    let mut meant = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, from)) = rest.find('&').map(|at| rest.split_at(at)) {
        meant.push_str(before);
        let found = STANDS_FOR.iter().find(|(reference, _)| from.starts_with(reference));
        let (reference, stands_for) = found.copied().unwrap_or(("&", '&'));
        meant.push(stands_for);
        rest = &from[reference.len()..];
    }
    meant.push_str(rest);
    meant
}

fn signed(
    url: &str,
    asked: &ObjectAsked<'_>,
    region: &str,
    credentials: Credentials,
) -> Result<http::Request<SdkBody>, ObjectError> {
    let failed = |error: &dyn std::fmt::Display| ObjectError::Unaskable(error.to_string());
    let mut settings = SigningSettings::default();
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    let identity = credentials.into();
    let region = Region::new(region.to_owned());
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region.as_ref())
        .name("s3")
        .time(SystemTime::now())
        .settings(settings)
        .build()
        .map_err(|error| failed(&error))?;
    let mut request = http::Request::builder().method("GET").uri(url);
    if let Some(etag) = asked.etag {
        request = request.header("if-match", etag);
    }
    let mut request = request.body(SdkBody::empty()).map_err(|error| failed(&error))?;
    let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
    let headers = [("host", host.as_str())];
    let signable = SignableRequest::new("GET", url, headers.into_iter(), SignableBody::Bytes(&[]))
        .map_err(|error| failed(&error))?;
    let (instructions, _) = sign(signable, &params.into())
        .map_err(|error| failed(&error))?
        .into_parts();
    instructions.apply_to_request_http1x(&mut request);
    Ok(request)
}

/// Both become part of the host's name, to which the credentials' signature and token go.
fn askable(asked: &ObjectAsked<'_>, region: &str) -> Result<(), ObjectError> {
    let shown = |text: &str| text.chars().take(60).collect::<String>();
    if !is_region(region) {
        let why = format!("`{}` is not the name of a region", shown(region));
        return Err(ObjectError::Unaskable(why));
    }
    if bucket_problem(asked.bucket).is_some() {
        let why = format!("`{}` cannot be the name of a bucket", shown(asked.bucket));
        return Err(ObjectError::Unaskable(why));
    }
    Ok(())
}

/// By the bucket's own host, or by path: at an endpoint of the environment, and where the bucket's name is no host name.
fn address(env: &Env, asked: &ObjectAsked<'_>, region: &str) -> String {
    let suffix = dns_suffix(region);
    let service = if env.is_true("AWS_USE_FIPS_ENDPOINT") {
        "s3-fips"
    } else {
        "s3"
    };
    let stack = if env.is_true("AWS_USE_DUALSTACK_ENDPOINT") {
        ".dualstack"
    } else {
        ""
    };
    let (bucket, key) = (encoded(asked.bucket, ""), encoded(asked.key, "/"));
    let is_host = asked
        .bucket
        .bytes()
        .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    let mut url = match env.endpoint_of("S3") {
        Some(endpoint) => format!("{}/{bucket}/{key}", endpoint.trim_end_matches('/')),
        None if is_host => format!("https://{bucket}.{service}{stack}.{region}.{suffix}/{key}"),
        None => format!("https://{service}{stack}.{region}.{suffix}/{bucket}/{key}"),
    };
    if let Some(version) = asked.version_id {
        url.push_str("?versionId=");
        url.push_str(&encoded(version, ""));
    }
    url
}

fn encoded(text: &str, kept: &str) -> String {
    let one = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        _ if kept.as_bytes().contains(&byte) => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_s3_says_is_text_and_no_xml() {
        let body = "<Error><Code>AccessDenied</Code><Message>User: arn:aws:iam::222222222222:user/x is not authorized to \
                    perform: s3:GetObject on resource: &quot;arn:aws:s3:::b/a&amp;quot;&#39;&lt;k&gt; &amp; &\u{e9}&quot; because no \
                    identity-based policy allows it</Message></Error>";
        let response = http::Response::builder()
            .status(403)
            .body(SdkBody::from(body))
            .expect("a response");
        let ObjectError::Refused { code, message, .. } =
            refusal(403, response.try_into().expect("as the SDK has it")).await
        else {
            panic!("not refused")
        };
        assert_eq!(code, "AccessDenied");
        assert!(
            message.contains("on resource: \"arn:aws:s3:::b/a&quot;'<k> & &\u{e9}\" because"),
            "{message}"
        );
    }

    fn url(pairs: &[(&str, &str)], bucket: &str, key: &str, region: &str) -> String {
        let env: Env = pairs.iter().copied().collect();
        let asked = ObjectAsked {
            bucket,
            key,
            region: None,
            version_id: Some("a+b"),
            etag: None,
        };
        address(&env, &asked, region)
    }

    #[test]
    fn objects_are_asked_for_where_their_bucket_is() {
        for (pairs, bucket, region, expected) in [
            (
                &[][..],
                "bucket",
                "eu-west-1",
                "https://bucket.s3.eu-west-1.amazonaws.com/a/b%20c.tar?versionId=a%2Bb",
            ),
            (
                &[],
                "my.bucket",
                "eu-west-1",
                "https://s3.eu-west-1.amazonaws.com/my.bucket/a/b%20c.tar?versionId=a%2Bb",
            ),
            (
                &[],
                "bucket",
                "cn-north-1",
                "https://bucket.s3.cn-north-1.amazonaws.com.cn/a/b%20c.tar?versionId=a%2Bb",
            ),
            (
                &[
                    ("AWS_USE_FIPS_ENDPOINT", "true"),
                    ("AWS_USE_DUALSTACK_ENDPOINT", "true"),
                ],
                "bucket",
                "us-east-1",
                "https://bucket.s3-fips.dualstack.us-east-1.amazonaws.com/a/b%20c.tar?versionId=a%2Bb",
            ),
            (
                &[("AWS_ENDPOINT_URL", "http://127.0.0.1:1/")],
                "bucket",
                "x",
                "http://127.0.0.1:1/bucket/a/b%20c.tar?versionId=a%2Bb",
            ),
        ] {
            assert_eq!(url(pairs, bucket, "a/b c.tar", region), expected);
        }
    }
    /// Guards that no session is shown to a host that a document made up.
    #[test]
    fn what_would_be_another_host_is_not_asked() {
        let asked = |bucket, region| {
            let asked = ObjectAsked {
                bucket,
                key: "a.tar",
                region: None,
                version_id: None,
                etag: None,
            };
            askable(&asked, region).map_err(|error| error.to_string())
        };
        assert_eq!(asked("artefacts", "eu-west-1"), Ok(()));
        for region in ["evil.example/x", "x@10.0.0.5/", "", "eu-west-1.evil.example"] {
            let why = asked("artefacts", region).expect_err(region);
            assert!(why.contains("is not the name of a region"), "{why}");
        }
        for bucket in ["", "..", "evil.example/x", "x@y"] {
            assert!(asked(bucket, "eu-west-1").is_err(), "{bucket}");
        }
    }
}
