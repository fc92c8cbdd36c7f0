//! A signed `GetCallerIdentity`, rebuilt from the few strings of its proof. Everything that can be checked
//! without AWS is checked here; what the agent wrote is never used as a URL, a header's name or a body.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use http_body_util::Full;

use super::Binding;
use super::sts_host::StsHosts;
use super::unproven::Unproven;

/// What was signed as the body; the agent sends none.
const BODY: &str = "Action=GetCallerIdentity&Version=2011-06-15";
const CONTENT_TYPE: &str = "application/x-www-form-urlencoded";
const CHALLENGE: &str = "x-deputy-challenge";
const CSR_SHA256: &str = "x-deputy-csr-sha256";
const TRUST_DOMAIN: &str = "x-deputy-trust-domain";
const SECURITY_TOKEN: &str = "x-amz-security-token";
const SIGNED: [&str; 6] = [
    "content-type",
    "host",
    "x-amz-date",
    CHALLENGE,
    CSR_SHA256,
    TRUST_DOMAIN,
];
const ALGORITHM: &str = "AWS4-HMAC-SHA256 ";

/// How far the clocks of agent and manager may be apart.
const MAX_SKEW: Duration = Duration::from_secs(5 * 60);
/// Longest session token that is taken; those of AWS have up to a few KiB.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
const MAX_AUTHORIZATION_BYTES: usize = 1024;

/// The proof as it came, with what it must be bound to.
#[derive(Debug, Clone, Copy)]
pub struct SignedIdentity<'a> {
    /// The STS host that was signed.
    pub host: &'a str,
    /// `Authorization`.
    pub authorization: &'a str,
    /// `X-Amz-Date`.
    pub amz_date: &'a str,
    /// `X-Amz-Security-Token`; empty for long-lived keys.
    pub security_token: &'a str,
}

/// The pieces of `Authorization`.
struct Authorization<'a> {
    date: &'a str,
    region: &'a str,
    service: &'a str,
    signed_headers: &'a str,
}

impl SignedIdentity<'_> {
    /// Checks the proof and rebuilds the request that was signed.
    ///
    /// # Errors
    /// Which rule the proof breaks; nothing was sent.
    pub(crate) fn rebuild(
        &self,
        binding: &Binding,
        hosts: &StsHosts,
        now: SystemTime,
    ) -> Result<Request<Full<Bytes>>, Unproven> {
        let region = hosts.region(self.host).ok_or_else(|| {
            malformed(
                format!(
                    "the identity is signed for the host {}, which is no STS host of this manager",
                    shown(self.host)
                ),
                format!(
                    "sign for one of {}; others are given to the manager with --sts-host",
                    hosts.examples()
                ),
            )
        })?;
        let authorization = parse(self.authorization)?;
        self.check_scope(&authorization, region)?;
        self.check_signed_headers(&authorization)?;
        self.check_date(&authorization, now)?;
        if self.security_token.len() > MAX_TOKEN_BYTES {
            return Err(malformed(
                format!("the session token has more than {MAX_TOKEN_BYTES} bytes"),
                String::new(),
            ));
        }
        self.request(binding)
    }

    fn check_scope(&self, authorization: &Authorization<'_>, region: &str) -> Result<(), Unproven> {
        if authorization.service != "sts" || authorization.region != region {
            return Err(malformed(
                format!(
                    "the identity is signed for {} in {}, and {} is sts in {region}",
                    shown(authorization.service),
                    shown(authorization.region),
                    self.host
                ),
                "sign for the service sts and the region of the host",
            ));
        }
        Ok(())
    }

    fn check_signed_headers(&self, authorization: &Authorization<'_>) -> Result<(), Unproven> {
        let mut wanted = SIGNED.to_vec();
        if !self.security_token.is_empty() {
            wanted.push(SECURITY_TOKEN);
        }
        wanted.sort_unstable();
        let given: Vec<&str> = authorization.signed_headers.split(';').collect();
        if given == wanted {
            return Ok(());
        }
        let missing: Vec<&str> = wanted.iter().filter(|name| !given.contains(name)).copied().collect();
        let extra: Vec<String> = given
            .iter()
            .filter(|name| !wanted.contains(name))
            .take(4)
            .map(|name| shown(name))
            .collect();
        let what = match (missing.is_empty(), extra.is_empty()) {
            (false, _) => format!("the identity does not sign {}", missing.join(", ")),
            (true, false) => format!("the identity signs more than it may: {}", extra.join(", ")),
            (true, true) => "the signed headers are not in order, or named twice".into(),
        };
        Err(malformed(what, format!("sign exactly {}", wanted.join(";"))))
    }

    fn check_date(&self, authorization: &Authorization<'_>, now: SystemTime) -> Result<(), Unproven> {
        let signed = parse_date(self.amz_date).filter(|_| self.amz_date.get(..8) == Some(authorization.date));
        let Some(signed) = signed else {
            return Err(malformed(
                format!("{} is no date of a signature of that day", shown(self.amz_date)),
                "X-Amz-Date looks like 20261126T140000Z and agrees with the credential's scope",
            ));
        };
        let (apart, side) = match now.duration_since(signed) {
            Ok(apart) => (apart, "before"),
            Err(ahead) => (ahead.duration(), "after"),
        };
        if apart <= MAX_SKEW {
            return Ok(());
        }
        let seconds = apart.as_secs();
        Err(Unproven::denied(
            format!(
                "the identity was signed {} min {} s {side} the manager's present time, and {} min are allowed",
                seconds / 60,
                seconds % 60,
                MAX_SKEW.as_secs() / 60
            ),
            "set the clock of the agent's host (NTP), or that of the manager's",
        ))
    }

    fn request(&self, binding: &Binding) -> Result<Request<Full<Bytes>>, Unproven> {
        let mut request = Request::new(Full::new(Bytes::from_static(BODY.as_bytes())));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = http::Uri::from_static("/");
        let challenge = hex::encode(&binding.nonce);
        let csr = hex::encode(binding.csr_sha256);
        let headers = [
            ("host", self.host),
            ("content-type", CONTENT_TYPE),
            ("x-amz-date", self.amz_date),
            ("authorization", self.authorization),
            (CHALLENGE, &challenge),
            (CSR_SHA256, &csr),
            (TRUST_DOMAIN, &binding.trust_domain),
            (SECURITY_TOKEN, self.security_token),
        ];
        for (name, value) in headers.into_iter().filter(|(_, value)| !value.is_empty()) {
            let header = HeaderValue::from_str(value)
                .ok()
                .filter(|header| header.as_bytes().is_ascii())
                .ok_or_else(|| malformed(format!("{name} has characters that a header cannot have"), ""))?;
            request.headers_mut().insert(HeaderName::from_static(name), header);
        }
        Ok(request)
    }
}

/// `AWS4-HMAC-SHA256 Credential=…/DATE/REGION/SERVICE/aws4_request, SignedHeaders=…, Signature=…`, and nothing else.
fn parse(text: &str) -> Result<Authorization<'_>, Unproven> {
    let bad = || {
        malformed(
            "Authorization is not one of AWS Signature Version 4 with Credential, SignedHeaders and Signature",
            "sign the request with header signing; a presigned URL is not taken",
        )
    };
    let parsed = || {
        let rest = text.strip_prefix(ALGORITHM)?;
        let mut parts = rest.split(", ");
        let credential = parts.next()?.strip_prefix("Credential=")?;
        let signed_headers = parts.next()?.strip_prefix("SignedHeaders=")?;
        let signature = parts.next()?.strip_prefix("Signature=")?;
        if parts.next().is_some() || signature.len() != 64 || !signature.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let scope: Vec<&str> = credential.split('/').collect();
        let &[key, date, region, service, "aws4_request"] = scope.as_slice() else {
            return None;
        };
        let is_key = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric());
        is_key.then_some(Authorization {
            date,
            region,
            service,
            signed_headers,
        })
    };
    if text.len() > MAX_AUTHORIZATION_BYTES {
        return Err(bad());
    }
    parsed().ok_or_else(bad)
}

/// `20261126T140000Z`.
fn parse_date(text: &str) -> Option<SystemTime> {
    if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_digit() || b == b'T' || b == b'Z') {
        return None;
    }
    let date = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    let timestamp = jiff::tz::Offset::UTC.to_timestamp(date).ok()?;
    SystemTime::try_from(timestamp).ok()
}

fn malformed(what: impl Into<String>, hint: impl Into<String>) -> Unproven {
    Unproven::denied(what, hint)
}

/// A stranger's text in a message: short, quoted, without control characters.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(80).collect();
    format!("{short:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_795_701_600); // 2026-11-26T14:00:00Z
    const DATE: &str = "20261126T140000Z";

    fn authorization(scope: &str, signed: &str) -> String {
        format!(
            "AWS4-HMAC-SHA256 Credential=ASIAEXAMPLE/{scope}/aws4_request, SignedHeaders={signed}, Signature={}",
            "0a".repeat(32)
        )
    }

    const SIGNED_LIST: &str = "content-type;host;x-amz-date;x-amz-security-token;x-deputy-challenge;x-deputy-csr-sha256;x-deputy-trust-domain";
    const SCOPE: &str = "20261126/eu-west-1/sts";

    struct Case {
        host: String,
        authorization: String,
        amz_date: String,
        security_token: String,
    }

    fn good() -> Case {
        Case {
            host: "sts.eu-west-1.amazonaws.com".into(),
            authorization: authorization(SCOPE, SIGNED_LIST),
            amz_date: DATE.into(),
            security_token: "token".into(),
        }
    }

    fn rebuilt(case: &Case) -> Result<Request<Full<Bytes>>, Unproven> {
        let proof = SignedIdentity {
            host: &case.host,
            authorization: &case.authorization,
            amz_date: &case.amz_date,
            security_token: &case.security_token,
        };
        let binding = Binding {
            nonce: vec![1; 32],
            trust_domain: "deputy.example.com".into(),
            csr_sha256: [2; 32],
        };
        proof.rebuild(&binding, &StsHosts::default(), SystemTime::UNIX_EPOCH + NOW)
    }

    fn told(change: impl FnOnce(&mut Case)) -> String {
        let mut case = good();
        change(&mut case);
        rebuilt(&case).expect_err("refused").to_string()
    }

    #[test]
    fn the_request_is_the_managers_own() {
        let request = rebuilt(&good()).expect("good");
        assert_eq!(
            (request.method().as_str(), request.uri().to_string().as_str()),
            ("POST", "/")
        );
        let mut headers: Vec<String> = request
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")))
            .collect();
        headers.sort();
        assert_eq!(headers.len(), 8, "{headers:?}");
        assert!(
            headers.contains(&format!("{CHALLENGE}: {}", "01".repeat(32))),
            "{headers:?}"
        );
        assert!(
            headers.contains(&format!("{CSR_SHA256}: {}", "02".repeat(32))),
            "{headers:?}"
        );
        assert!(
            headers.contains(&"x-deputy-trust-domain: deputy.example.com".to_owned()),
            "{headers:?}"
        );
        let without = Case {
            security_token: String::new(),
            authorization: authorization(SCOPE, &SIGNED_LIST.replace("x-amz-security-token;", "")),
            ..good()
        };
        let request = rebuilt(&without).expect("good");
        assert!(!request.headers().contains_key(SECURITY_TOKEN));
    }

    #[test]
    fn each_rule_has_its_own_words() {
        let signed = |list: &str| authorization(SCOPE, list);
        let told = [
            told(|case| case.host = "sts.evil.com".into()),
            told(|case| case.host = "sts.eu-west-1.amazonaws.com/?x=".into()),
            told(|case| case.host = "sts.us-east-1.amazonaws.com".into()),
            told(|case| case.authorization = authorization("20261126/eu-west-1/s3", SIGNED_LIST)),
            told(|case| case.authorization = signed(&format!("{SIGNED_LIST};x-forwarded-host"))),
            told(|case| case.authorization = signed(&SIGNED_LIST.replace("x-deputy-challenge;", ""))),
            told(|case| case.authorization = signed(&SIGNED_LIST.replace("content-type;host", "host;content-type"))),
            told(|case| case.security_token = String::new()),
            told(|case| case.authorization = "Bearer x".into()),
            told(|case| case.authorization.push_str(", Other=1")),
            told(|case| case.amz_date = "20261126T135000Z".into()),
            told(|case| case.amz_date = "20261126T141000Z".into()),
            told(|case| case.amz_date = "20261125T140000Z".into()),
            told(|case| case.amz_date = "2026-11-26T14:00".into()),
            told(|case| case.security_token = "a\r\nx-evil: 1".into()),
            told(|case| case.security_token = "x".repeat(20_000)),
        ];
        insta::assert_snapshot!(told.join("\n"));
    }

    #[test]
    fn clocks_may_be_a_few_minutes_apart() {
        for date in ["20261126T135501Z", "20261126T140459Z"] {
            let mut case = good();
            case.amz_date = date.into();
            rebuilt(&case).expect(date);
        }
    }
}
