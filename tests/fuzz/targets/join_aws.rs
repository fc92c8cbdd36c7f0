//! A signed AWS identity from a stranger, and the answer of STS about it. What is accepted is sent as the manager's
//! own request, to a host of its own list, with everything signed that says for whom the proof is good.
//!
//! Input: four texts (host, authorization, date, session token), each after two bytes of length, or after a byte with
//! the highest bit set, an answer of STS.
#![no_main]

use std::time::{Duration, SystemTime};

use deputy_manager::fuzzing::{rebuilt, role_in_answer};
use deputy_manager::join::Binding;
use deputy_manager::join::signed_identity::SignedIdentity;
use deputy_manager::join::sts_host::StsHosts;
use libfuzzer_sys::fuzz_target;

const NOW: Duration = Duration::from_secs(1_795_701_600); // 2026-11-26T14:00:00Z
const DAYS: [&str; 1] = ["20261126"];
const ACCOUNT: &str = "222222222222";
const ROLE: &str = "deputy-agent";

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let (&[high, low], after) = rest.split_first_chunk::<2>()?;
    let len = usize::from(u16::from_be_bytes([high & 0x7f, low])).min(after.len());
    let (piece, after) = after.split_at(len);
    *rest = after;
    std::str::from_utf8(piece).ok()
}

fn proof(mut rest: &[u8]) -> Option<()> {
    let proof = SignedIdentity {
        host: text(&mut rest)?,
        authorization: text(&mut rest)?,
        amz_date: text(&mut rest)?,
        security_token: text(&mut rest)?,
    };
    let binding = Binding {
        nonce: vec![1; 32],
        trust_domain: "deputy.example.com".into(),
        csr_sha256: [2; 32],
    };
    let request = rebuilt(&proof, &binding, &StsHosts::default(), SystemTime::UNIX_EPOCH + NOW).ok()?;
    assert_eq!(
        (request.method().as_str(), request.uri().to_string().as_str()),
        ("POST", "/")
    );
    let header = |name: &str| {
        let mut values = request.headers().get_all(name).iter();
        let value = values.next().and_then(|value| value.to_str().ok());
        assert!(values.next().is_none(), "{name} is there twice");
        value
    };
    // Everything that is sent is signed, and nothing is said to be signed that is not sent.
    let mut sent: Vec<&str> = request.headers().keys().map(http::HeaderName::as_str).collect();
    sent.retain(|name| *name != "authorization");
    sent.sort_unstable();
    let (_, signed) = proof
        .authorization
        .split_once("SignedHeaders=")
        .expect("accepted without SignedHeaders");
    let signed = signed.split(',').next().unwrap_or_default();
    assert_eq!(sent.join(";"), signed);
    let (challenge, csr) = ("01".repeat(32), "02".repeat(32));
    assert_eq!(header("x-deputy-challenge"), Some(challenge.as_str()));
    assert_eq!(header("x-deputy-csr-sha256"), Some(csr.as_str()));
    assert_eq!(header("x-deputy-trust-domain"), Some("deputy.example.com"));
    assert_eq!(header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(header("x-amz-security-token").unwrap_or_default(), proof.security_token);
    let host = header("host").expect("a host");
    let is_aws = [".amazonaws.com", ".amazonaws.com.cn"]
        .iter()
        .any(|end| host.ends_with(end));
    assert!(host.starts_with("sts.") && is_aws, "{host} is no host of STS");
    // Five minutes around 14:00 of that day.
    assert!(DAYS.iter().any(|day| proof.amz_date.starts_with(day)));
    let clock = proof
        .amz_date
        .get(9..15)
        .and_then(|clock| clock.parse::<u32>().ok())
        .expect("a time");
    assert!(
        (13_55_00..=14_05_00).contains(&clock),
        "{} is too far off",
        proof.amz_date
    );
    Some(())
}

fn answer(body: &[u8]) {
    if let Some(subject) = role_in_answer(body, ACCOUNT, ROLE) {
        assert_eq!(subject, format!("aws:{ACCOUNT}:role/{ROLE}"));
        let text = std::str::from_utf8(body).expect("accepted");
        let (_, result) = text.split_once("<GetCallerIdentityResult>").expect("accepted");
        let (result, _) = result.split_once("</GetCallerIdentityResult>").expect("accepted");
        assert!(
            result.contains(&format!(":sts::{ACCOUNT}:assumed-role/{ROLE}/")),
            "{text}"
        );
        assert!(
            result.matches("<Arn>").count() == 1 && result.matches("<Account>").count() == 1,
            "{text}"
        );
    }
}

fuzz_target!(|input: &[u8]| match input.split_first() {
    Some((&first, rest)) if first >= 0x80 => answer(rest),
    _ => drop(proof(input)),
});
