//! How fast logs go through the redactor and the spool: `cargo run --release -p deputy-logs
//! --example log_speed`. One writer, one reader that acknowledges at once, 50 secrets.

use std::io::{self, Write};
use std::time::Duration;

use deputy_logs::{Logs, Redactor, Spool, SpoolConfig};
use deputy_task::attempt::AttemptRef;
use deputy_task::id::Project;
use tokio::time::Instant;

const TOTAL_BYTES: usize = 1 << 30;
const WRITE_BYTES: usize = 128 * 1024;
const FRAME_BYTES: usize = 512 * 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let text = sample();
    let mut out = io::stdout().lock();
    for secrets in [0, 1, 50] {
        let redactor = Redactor::new();
        add_secrets(secrets, |secret| redactor.add_secret(secret).map_err(Into::into))?;
        let mut stream = redactor.stream();
        stream.write(b"builds the matcher");
        let mut kept = 0;
        let speed = timed(|| {
            for _ in 0..TOTAL_BYTES / WRITE_BYTES {
                kept += stream.write(&text).len();
            }
        });
        writeln!(
            out,
            "redactor, {secrets:2} secrets: {speed:6.0} MB/s ({kept} bytes kept)"
        )?;
    }
    let folder = tempfile::tempdir()?;
    let spool = Spool::open(SpoolConfig::in_folder(folder.path()))?;
    let attempt = AttemptRef {
        project: Project::default_project(),
        task: "speed".parse()?,
        run: 1,
        epoch: 1,
    };
    let log = Logs::spooled(spool.clone()).open(attempt.clone());
    add_secrets(50, |secret| log.add_secret(secret).map_err(Into::into))?;
    let writer = log.writer("step");
    let mut offset = 0;
    let mut failed = None;
    let speed = timed(|| {
        for _ in 0..TOTAL_BYTES / WRITE_BYTES {
            writer.stdout(&text);
            match spool.read_from(&attempt, offset, FRAME_BYTES) {
                Ok(piece) => offset += u64::try_from(piece.data.len()).unwrap_or(0),
                Err(error) => failed = Some(error),
            }
            spool.acked(&attempt, offset);
        }
    });
    if let Some(error) = failed {
        return Err(error.into());
    }
    writeln!(out, "redactor, spool and reader, 50 secrets: {speed:.0} MB/s")?;
    Ok(())
}

fn add_secrets(
    count: usize,
    mut add: impl FnMut(&[u8]) -> Result<(), Box<dyn std::error::Error>>,
) -> Result<(), Box<dyn std::error::Error>> {
    (0..count).try_for_each(|n| add(format!("{:x}-Secret/{n}+value", n * 7_919 + 104_729).as_bytes()))
}

fn timed(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    let mebibytes = u32::try_from(TOTAL_BYTES >> 20).unwrap_or(u32::MAX);
    f64::from(mebibytes) * 1.048_576 / begun.elapsed().max(Duration::from_nanos(1)).as_secs_f64()
}

/// Lines as a build prints them.
fn sample() -> Vec<u8> {
    let mut text = Vec::with_capacity(WRITE_BYTES + 200);
    let mut n: u64 = 1;
    while text.len() < WRITE_BYTES {
        n = n
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let line = format!(
            "2026-01-05T10:11:12Z INFO compiling module{} at src/lib/{:x}.rs sha256:{n:016x}{:016x}\n",
            n % 977,
            n >> 40,
            !n
        );
        text.extend_from_slice(line.as_bytes());
    }
    text.truncate(WRITE_BYTES);
    text
}
