//! A leak of each kind, planted: the search that found nothing is shown to find them.

use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use deputy_proto::v1;
use deputy_seal::key_ring::line;
use deputy_seal::pool_key::PoolKey;
use deputy_tests::cloud::Cloud;
use deputy_tests::leaks::canary::Canaries;
use deputy_tests::leaks::pool_keys::POOL_KEY;
use deputy_tests::leaks::scan::{Extent, Scanner};
use deputy_tests::leaks::strace::{self, Trace};
use deputy_tests::refused::refused;
use deputy_tests::world::World;
use prost::Message as _;

use crate::run::{SECRET_VARIABLE_CANARY, in_trace};

/// How the search for planted leaks went.
#[derive(Debug, Default)]
pub(crate) struct Planted {
    pub(crate) found: usize,
    /// What was planted and not found.
    pub(crate) missed: Vec<String>,
}

impl Planted {
    fn judge(&mut self, what: String, hits: usize) {
        if hits > 0 {
            self.found += 1;
        } else {
            self.missed.push(what);
        }
    }
}

/// Plants them all.
pub(crate) async fn all(cloud: &Arc<Cloud>) -> Result<Planted> {
    let mut planted = Planted::default();
    to_the_manager(&mut planted).await?;
    by_a_refusal(&mut planted, cloud).await?;
    in_files(&mut planted)?;
    in_programs(&mut planted)?;
    a_pool_key(&mut planted)?;
    Ok(planted)
}

type Encode = fn(&str) -> Result<Vec<u8>>;

/// The forms in which a value could leave.
const FORMS: [(&str, Encode); 20] = [
    ("raw", |value| Ok(value.into())),
    ("base64", |value| Ok(STANDARD.encode(value).into())),
    ("base64, shifted by one", |value| {
        Ok(STANDARD.encode(format!("x{value}.")).into())
    }),
    ("base64, shifted by two", |value| {
        Ok(STANDARD.encode(format!("xy{value}.")).into())
    }),
    ("url-safe base64", |value| Ok(URL_SAFE.encode(value).into())),
    ("hex", |value| Ok(hex::encode(value).into())),
    ("URL", |value| Ok(percent(value.as_bytes(), b"").into())),
    ("user information of a URL", |value| {
        Ok(percent(value.as_bytes(), b"$&+,-.;=_~").into())
    }),
    ("JSON", |value| {
        Ok(serde_json::json!({ "value": value }).to_string().into())
    }),
    ("gzip", gzip),
    ("gzip in base64", |value| Ok(STANDARD.encode(gzip(value)?).into())),
    ("a release of Helm", |value| {
        Ok(STANDARD.encode(STANDARD.encode(gzip(value)?)).into())
    }),
    ("zstd", |value| Ok(zstd::encode_all(value.as_bytes(), 1)?)),
    ("base64 in lines", |value| Ok(lines(&STANDARD.encode(value), 76, "\n"))),
    ("base64 in short lines, shifted by one", |value| {
        Ok(lines(&STANDARD.encode(format!("x{value}.")), 20, "\n"))
    }),
    ("base64 in lines of Windows, shifted by two", |value| {
        Ok(lines(&STANDARD.encode(format!("xy{value}.")), 64, "\r\n"))
    }),
    ("url-safe base64 in lines", |value| {
        Ok(lines(&URL_SAFE.encode(format!("x{value}")), 13, "\n"))
    }),
    ("hex as of xxd -p", |value| {
        Ok(lines(&hex::encode(format!("x{value}")), 60, "\n"))
    }),
    ("upper-case hex in lines", |value| {
        Ok(lines(&hex::encode_upper(value), 31, "\r\n"))
    }),
    ("gzip in base64 in lines", |value| {
        Ok(lines(&STANDARD.encode(gzip(value)?), 76, "\n"))
    }),
];

fn lines(text: &str, columns: usize, end: &str) -> Vec<u8> {
    let lines: Vec<&[u8]> = text.as_bytes().chunks(columns).collect();
    lines.join(end.as_bytes())
}

fn gzip(value: &str) -> Result<Vec<u8>> {
    let mut packed = Vec::new();
    flate2::read::GzEncoder::new(value.as_bytes(), flate2::Compression::fast()).read_to_end(&mut packed)?;
    Ok(packed)
}

fn percent(bytes: &[u8], kept: &[u8]) -> String {
    let one = |byte: &u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => char::from(*byte).to_string(),
        other if kept.contains(other) => char::from(*other).to_string(),
        other => format!("%{other:02X}"),
    };
    bytes.iter().map(one).collect()
}

/// In the messages that a manager receives, once in each form, and in their metadata.
async fn to_the_manager(planted: &mut Planted) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let requests = folder.path().to_owned();
    let world = World::builder()
        .manager(|options| options.witness = Some(requests))
        .start()
        .await?;
    let canaries = Canaries::default();
    for (form, encode) in FORMS {
        let request = v1::PutBundleRequest {
            project: "default".into(),
            sha256: String::new(),
            data: encode(&canaries.make(form))?.into(),
        };
        // Refused for its digest; it has been received by then.
        let refused = world.tasks.client().put_bundle(futures::stream::iter([request])).await;
        ensure!(refused.is_err(), "a bundle without a digest was taken");
    }
    let mut request = tonic::Request::new(v1::GetRequest::default());
    let value = canaries.make_plain("its metadata").parse()?;
    request.metadata_mut().insert("x-planted", value);
    drop(world.tasks.client().get(request).await);
    judge_each(planted, "a request to the manager", &canaries, folder.path())
}

/// By a refusal of a real API server that quotes live objects, as a failure's words have it.
async fn by_a_refusal(planted: &mut Planted, cloud: &Arc<Cloud>) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let requests = folder.path().to_owned();
    let world = World::builder()
        .cloud(cloud)
        .manager(|options| options.witness = Some(requests))
        .start()
        .await?;
    let namespace = world.namespace("planted").await?;
    let client = world.kubernetes().await?.admin().await?;
    let canaries = Canaries::default();
    let all = refused(&client, &namespace, |name| canaries.make(name)).await?;
    for case in all.iter().filter(|case| case.quotes) {
        let failure = v1::Failure {
            summary: case.answer.clone(),
            ..v1::Failure::default()
        };
        let request = v1::PutBundleRequest {
            project: "default".into(),
            sha256: String::new(),
            data: failure.encode_to_vec().into(),
        };
        let answer = world.tasks.client().put_bundle(futures::stream::iter([request])).await;
        ensure!(answer.is_err(), "a bundle without a digest was taken");
        let hits = Scanner::new(canaries.all())?.scan_folder(folder.path(), &mut Extent::default())?;
        let hits = hits.iter().filter(|hit| hit.canary == case.secret).count();
        planted.judge(format!("a refusal that quotes {}", case.secret), hits);
    }
    Ok(())
}

/// In files, and in a file's name.
fn in_files(planted: &mut Planted) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let canaries = Canaries::default();
    for (index, (form, encode)) in FORMS.into_iter().enumerate() {
        std::fs::write(folder.path().join(index.to_string()), encode(&canaries.make(form))?)?;
    }
    std::fs::write(folder.path().join(canaries.make_plain("its name")), "")?;
    judge_each(planted, "a file", &canaries, folder.path())
}

/// Every canary must be found below the folder.
fn judge_each(planted: &mut Planted, what: &str, canaries: &Canaries, folder: &Path) -> Result<()> {
    let hits = Scanner::new(canaries.all())?.scan_folder(folder, &mut Extent::default())?;
    for canary in canaries.all() {
        let found = hits.iter().filter(|hit| hit.canary == canary.name).count();
        planted.judge(format!("{what}, {}", canary.name), found);
    }
    Ok(())
}

/// The key of a pool, in what was received or written and in a program's arguments, as bytes, as the line of its file,
/// in hex and in base64.
fn a_pool_key(planted: &mut Planted) -> Result<()> {
    let key = PoolKey::generate()?;
    let canaries = Canaries::default();
    canaries.learn_pool_key(&key);
    let scanner = Scanner::new(canaries.all())?;
    let [secret, _] = key.secrets();
    let folder = tempfile::tempdir()?;
    for (form, bytes) in [
        ("bytes", secret.to_vec()),
        ("hex", hex::encode(&*secret).into()),
        ("base64", STANDARD.encode(&*secret).into()),
        ("url-safe base64", URL_SAFE.encode(&*secret).into()),
        ("its file has it", line(&key).as_bytes().to_vec()),
    ] {
        let file = folder.path().join("planted");
        std::fs::write(&file, bytes)?;
        let hits = scanner.scan_folder(folder.path(), &mut Extent::default())?;
        planted.judge(format!("{POOL_KEY} in a file, as {form}"), hits.len());
    }
    let trace = folder.path().join("trace");
    let status = Command::new("strace")
        .args(strace::arguments(&trace))
        .args(["/bin/true", &hex::encode(&*secret)])
        .status()?;
    ensure!(status.success(), "the planted program failed: {status}");
    let hits = in_trace(&scanner, &Trace::read(&trace)?, Path::new("/nowhere"));
    let hits = hits.iter().filter(|hit| hit.place.contains(", arguments"));
    planted.judge(format!("{POOL_KEY} as an argument"), hits.count());
    Ok(())
}

/// In a program's arguments, its environment, the name of a file that it opens, and what it writes.
fn in_programs(planted: &mut Planted) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let trace = folder.path().join("trace");
    let (argument, variable, secret, opened, written) = (
        Canaries::default(),
        Canaries::default(),
        Canaries::default(),
        Canaries::default(),
        Canaries::default(),
    );
    let script = format!(
        "/bin/echo \"$0\" > /dev/null; cat {} 2> /dev/null; printf %s \"$WRITTEN\" > out",
        opened.make_plain("a planted name")
    );
    let status = Command::new("strace")
        .args(strace::arguments(&trace))
        .args(["/bin/sh", "-c", &script, &argument.make("a planted argument")])
        .env("PLANTED", variable.make("a planted variable"))
        // What the script with this secret may have, nobody else may.
        .env("PASSWORD", secret.make(SECRET_VARIABLE_CANARY))
        .env("WRITTEN", written.make("a planted text"))
        .current_dir(folder.path())
        .status()?;
    ensure!(status.success(), "the planted program failed: {status}");
    let seen = Trace::read(&trace)?;
    for (what, canaries, place) in [
        ("an argument", argument, ", arguments"),
        ("a variable", variable, ", environment"),
        ("a script's secret for another program", secret, ", environment"),
        ("a file that is opened", opened, "openat of "),
        ("a file that is written", written, "write to "),
    ] {
        let hits = in_trace(&Scanner::new(canaries.all())?, &seen, Path::new("/nowhere"));
        planted.judge(
            what.to_owned(),
            hits.iter().filter(|hit| hit.place.contains(place)).count(),
        );
    }
    Ok(())
}
