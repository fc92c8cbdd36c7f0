//! How fast logs go through the redactor and the spool, and what secrets cost of it: `cargo run --release -p
//! deputy-logs --example log_speed`. One writer, one reader that acknowledges at once, on one thread, whose time on
//! the processor is what counts: what else the machine does costs caches at most. Rounds of the kinds are taken in
//! turn, so that a slow moment is everybody's.

use std::io::{self, Write};
use std::time::Duration;

use deputy_logs::{Logs, Redactor, Spool, SpoolConfig};
use deputy_task::attempt::AttemptRef;
use deputy_task::id::Project;

const ROUNDS: usize = 7;
const ROUND_BYTES: usize = 128 << 20;
const WRITE_BYTES: usize = 128 * 1024;
const FRAME_BYTES: usize = 512 * 1024;
const LARGE_BYTES: usize = 64 * 1024;

type Failed = Box<dyn std::error::Error>;

/// Secrets to hide.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    count: usize,
    /// One more.
    beside: Option<Beside>,
}

#[derive(Clone, Copy)]
enum Beside {
    /// Four characters: so short that nothing of a log can be passed over.
    Short,
    /// A word that is in every line.
    Common,
    /// Of the largest size: random bytes.
    Bytes,
    /// Of the largest size: eight hundred lines of JSON with random values.
    Lines,
}

const KINDS: [Kind; 7] = [
    Kind {
        name: "no secrets",
        count: 0,
        beside: None,
    },
    Kind {
        name: "1 secret",
        count: 1,
        beside: None,
    },
    Kind {
        name: "50 secrets",
        count: 50,
        beside: None,
    },
    Kind {
        name: "50 secrets, one more of 4 characters",
        count: 50,
        beside: Some(Beside::Short),
    },
    Kind {
        name: "50 secrets, one more that is in every line",
        count: 50,
        beside: Some(Beside::Common),
    },
    Kind {
        name: "50 secrets, one more of 64 KiB of random bytes",
        count: 50,
        beside: Some(Beside::Bytes),
    },
    Kind {
        name: "50 secrets, one more of 64 KiB of JSON in lines",
        count: 50,
        beside: Some(Beside::Lines),
    },
];

fn main() -> Result<(), Failed> {
    let text = sample();
    let mut out = io::stdout().lock();
    let mut redactors = Vec::new();
    for kind in KINDS {
        let redactor = Redactor::new();
        let begun = on_processor();
        add_secrets(kind, |secret| redactor.add_secret(secret).map_err(Into::into))?;
        redactor.stream().write(b"builds the matcher");
        writeln!(
            out,
            "{}: made known in {:.1} ms",
            kind.name,
            on_processor().saturating_sub(begun).as_secs_f64() * 1e3
        )?;
        redactors.push(redactor);
    }
    let (mut alone, mut spooled) = (vec![Vec::new(); KINDS.len()], vec![Vec::new(); KINDS.len()]);
    for round in 0..ROUNDS {
        for (index, kind) in KINDS.into_iter().enumerate() {
            alone[index].push(redact(&redactors[index], &text));
            spooled[index].push(spool(kind, &text, round)?);
        }
    }
    for (what, rounds) in [("redactor", alone), ("redactor, spool and reader", spooled)] {
        let without = median(&rounds[0]);
        for (kind, speeds) in KINDS.iter().zip(&rounds) {
            let speed = median(speeds);
            let low = speeds.iter().copied().fold(f64::INFINITY, f64::min);
            let high = speeds.iter().copied().fold(0.0, f64::max);
            let cost = 100.0 * (1.0 - speed / without);
            writeln!(
                out,
                "{what}, {}: {speed:.0} MB/s ({low:.0}–{high:.0}), {cost:.0} % less than without",
                kind.name
            )?;
        }
    }
    Ok(())
}

fn redact(redactor: &Redactor, text: &[u8]) -> f64 {
    let mut stream = redactor.stream();
    let mut kept = 0;
    let speed = timed(|| {
        for _ in 0..ROUND_BYTES / WRITE_BYTES {
            kept += stream.write(text).len();
        }
    });
    assert!(kept > 0, "nothing came out");
    speed
}

fn spool(kind: Kind, text: &[u8], round: usize) -> Result<f64, Failed> {
    let folder = tempfile::tempdir()?;
    let spool = Spool::open(SpoolConfig::in_folder(folder.path()))?;
    let attempt = AttemptRef {
        project: Project::default_project(),
        task: format!("speed-{round}").parse()?,
        run: 1,
        epoch: 1,
    };
    let log = Logs::spooled(spool.clone()).open(attempt.clone());
    add_secrets(kind, |secret| log.add_secret(secret).map_err(Into::into))?;
    let writer = log.writer("step");
    writer.stdout(b"builds the matcher\n");
    let mut offset = 0;
    let mut failed = None;
    let speed = timed(|| {
        for _ in 0..ROUND_BYTES / WRITE_BYTES {
            writer.stdout(text);
            match spool.read_from(&attempt, offset, FRAME_BYTES) {
                Ok(piece) => offset += u64::try_from(piece.data.len()).unwrap_or(0),
                Err(error) => failed = Some(error),
            }
            spool.acked(&attempt, offset);
        }
    });
    failed.map_or(Ok(speed), |error| Err(error.into()))
}

fn add_secrets(kind: Kind, mut add: impl FnMut(&[u8]) -> Result<(), Failed>) -> Result<(), Failed> {
    let mut small = (0..kind.count).map(|n| format!("{:x}-Secret/{n}+value", n * 7_919 + 104_729));
    small.try_for_each(|secret| add(secret.as_bytes()))?;
    match kind.beside {
        None => Ok(()),
        Some(Beside::Short) => add(b"q8X-"),
        Some(Beside::Common) => add(b"INFO"),
        Some(Beside::Bytes) => add(&random().take(LARGE_BYTES).collect::<Vec<u8>>()),
        Some(Beside::Lines) => {
            let mut random = random();
            let mut text = String::from("{\n");
            while text.len() < LARGE_BYTES - 100 {
                let value: String = random.by_ref().take(24).map(|byte| format!("{byte:02x}")).collect();
                text.push_str(&format!("  \"key-{}\": \"{value}+/=\",\n", text.len()));
            }
            add(text.as_bytes())
        }
    }
}

fn random() -> impl Iterator<Item = u8> {
    let mut n = 1_u64;
    std::iter::repeat_with(move || {
        n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        n.to_be_bytes()[0]
    })
}

fn median(speeds: &[f64]) -> f64 {
    let mut sorted = speeds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn timed(work: impl FnOnce()) -> f64 {
    let begun = on_processor();
    work();
    let took = on_processor().saturating_sub(begun).max(Duration::from_nanos(1));
    let mebibytes = u32::try_from(ROUND_BYTES >> 20).unwrap_or(u32::MAX);
    f64::from(mebibytes) * 1.048_576 / took.as_secs_f64()
}

/// How long this thread has been on a processor.
fn on_processor() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let part = |part: i64| u64::try_from(part).unwrap_or(0);
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
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
