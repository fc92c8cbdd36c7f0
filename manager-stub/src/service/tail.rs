//! TailLogs: the committed log of a task's newest run, attempt by attempt, record by record.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use deputy_proto::v1;
use deputy_task::attempt::{Epoch, Run};
use deputy_task::log_record::{LogRecord, LogStream, decode};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;

use super::context::{Answers, Context, ending};
use super::last_word::{Said, streamed};
use crate::auth::caller;
use crate::log_store::SegmentReader;
use crate::store::contract::{LogStreamRow, Reads, StoreError};
use crate::store::op::LogExtent;
use crate::store::task::TaskKey;

/// Bytes read at a time; more than the largest record.
const READ_BYTES: u64 = 1024 * 1024;
/// After the end of the task an incomplete log is waited for so long without new bytes.
const LATE_LOG: Duration = Duration::from_secs(15);
/// And a log of which nothing has come yet.
const NO_LOG: Duration = Duration::from_secs(2);

/// How long to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// What is there now.
    Now,
    /// Until the task has ended and its log is complete.
    TheEnd,
}

struct Tail {
    context: Context,
    key: TaskKey,
    run: Run,
    /// Where to go on, by attempt.
    offsets: BTreeMap<Epoch, u64>,
    news: watch::Receiver<u64>,
    answers: Said<v1::TailLogsResponse>,
}

/// Serves one reader.
pub(super) async fn serve(
    context: &Context,
    request: v1::TailLogsRequest,
) -> Result<Answers<v1::TailLogsResponse>, Status> {
    let key = context.find(&request.project, &request.task_id).await?;
    let offsets = read_cursor(&request.cursor)?;
    let news = context.dispatcher.hub.task(&key);
    let row = context.task(&key).await?;
    let until = if request.follow { Until::TheEnd } else { Until::Now };
    let serving = context.clone();
    let over = caller::over(context.registry.clone());
    Ok(streamed(
        (&context.tracker, &context.ending),
        over,
        |answers| async move {
            let mut tail = Tail {
                context: serving,
                key,
                run: row.head.run,
                offsets,
                news,
                answers,
            };
            match until {
                Until::Now => tail.all_new().await.map(drop),
                Until::TheEnd => tail.follow().await,
            }
        },
    ))
}

impl Tail {
    async fn follow(&mut self) -> Result<(), Status> {
        let mut quiet_since = Instant::now();
        loop {
            self.news.mark_unchanged();
            let row = self.context.task(&self.key).await?;
            let (sent, streams) = self.all_new().await?;
            if sent > 0 {
                quiet_since = Instant::now();
            }
            let ended = row.head.state.is_ended() || row.head.run != self.run;
            let complete = !streams.is_empty() && streams.iter().all(|stream| stream.complete);
            let patience = if streams.is_empty() { NO_LOG } else { LATE_LOG };
            if ended && (complete || quiet_since.elapsed() >= patience) {
                return Ok(());
            }
            let wait = if ended {
                patience.saturating_sub(quiet_since.elapsed())
            } else {
                Duration::from_secs(60)
            };
            if let Ok(news) = tokio::time::timeout(wait, self.news.changed()).await {
                news.map_err(ending)?;
            }
        }
    }

    /// Sends everything that is committed and was not sent; answers how many bytes, and the logs.
    async fn all_new(&mut self) -> Result<(u64, Vec<LogStreamRow>), Status> {
        let (of, run) = (self.key.clone(), self.run);
        let streams = self
            .context
            .read(move |reads| {
                Ok(reads
                    .log_streams(&of)?
                    .into_iter()
                    .filter(|stream| stream.run == run)
                    .collect::<Vec<_>>())
            })
            .await?;
        let mut sent = 0;
        for stream in &streams {
            let mut offset = self.offsets.get(&stream.epoch).copied().unwrap_or(0);
            while offset < stream.committed {
                let (key, epoch, segments) = (self.key.clone(), stream.epoch, self.context.segments.clone());
                let bytes = self
                    .context
                    .read(move |reads| read_bytes(reads, &segments, (&key, epoch), offset))
                    .await?;
                let used = self.send_records(epoch, offset, &bytes).await?;
                if used == 0 {
                    break;
                }
                sent += used;
                offset += used;
            }
        }
        Ok((sent, streams))
    }

    /// Sends the whole records in `bytes`; answers how many bytes they were.
    async fn send_records(&mut self, epoch: Epoch, begin: u64, bytes: &[u8]) -> Result<u64, Status> {
        let mut used = 0;
        while let Some((record, length)) = decode(&bytes[used..])
            .map_err(|error| Status::data_loss(format!("the log of attempt {epoch} cannot be read: {error}")))?
        {
            used += length;
            let offset = begin + u64::try_from(used).unwrap_or(0);
            self.offsets.insert(epoch, offset);
            let answer = to_wire(record, epoch, write_cursor(&self.offsets));
            if self.answers.send(Ok(answer)).await.is_err() {
                return Err(Status::cancelled("nobody reads any more"));
            }
        }
        Ok(u64::try_from(used).unwrap_or(0))
    }
}

/// Committed bytes from an offset on, from as many pieces as it takes to fill a read.
fn read_bytes(
    reads: &dyn Reads,
    segments: &SegmentReader,
    (key, epoch): (&TaskKey, Epoch),
    offset: u64,
) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    let mut at = offset;
    for LogExtent {
        offset: begin,
        length,
        segment,
        position,
        ..
    } in reads.log_extents(key, epoch, offset)?
    {
        let skip = at.saturating_sub(begin);
        let wanted = (length - skip).min(READ_BYTES.saturating_sub(u64::try_from(bytes.len()).unwrap_or(READ_BYTES)));
        if wanted == 0 {
            break;
        }
        let piece = segments
            .read(segment, position + skip, usize::try_from(wanted).unwrap_or(0))
            .map_err(|source| unreadable(segment, source))?;
        at += wanted;
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// A segment that is missing or too short does not come back by itself; whatever else is wrong may pass.
fn unreadable(segment: u64, source: io::Error) -> StoreError {
    let path = format!("log segment {segment}");
    let gone = |what, path, source| StoreError::Gone { what, path, source };
    match source.kind() {
        io::ErrorKind::NotFound => gone("all", path, source),
        io::ErrorKind::UnexpectedEof => gone("the end", path, source),
        _ => StoreError::File {
            what: "read",
            path,
            source,
        },
    }
}

fn to_wire(record: LogRecord<'_>, epoch: Epoch, cursor: String) -> v1::TailLogsResponse {
    match record {
        LogRecord::Output {
            stream,
            step,
            at_ms,
            data,
        } => {
            let stream = match stream {
                LogStream::Stdout => v1::LogStream::Stdout,
                LogStream::Stderr => v1::LogStream::Stderr,
                LogStream::System => v1::LogStream::System,
            };
            v1::TailLogsResponse {
                cursor,
                epoch,
                stream: stream.into(),
                step: step.to_owned(),
                at_ms,
                data: bytes::Bytes::copy_from_slice(data),
                gap_bytes: 0,
            }
        }
        LogRecord::Gap { at_ms, bytes } => v1::TailLogsResponse {
            cursor,
            epoch,
            at_ms,
            gap_bytes: bytes,
            ..v1::TailLogsResponse::default()
        },
    }
}

fn write_cursor(offsets: &BTreeMap<Epoch, u64>) -> String {
    let text: Vec<String> = offsets
        .iter()
        .map(|(epoch, offset)| format!("{epoch}:{offset}"))
        .collect();
    URL_SAFE_NO_PAD.encode(text.join(","))
}

fn read_cursor(cursor: &str) -> Result<BTreeMap<Epoch, u64>, Status> {
    if cursor.is_empty() {
        return Ok(BTreeMap::new());
    }
    let bad = || Status::invalid_argument("the cursor is none of ours");
    let text = URL_SAFE_NO_PAD
        .decode(cursor)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(bad)?;
    let pair = |part: &str| {
        Some(part.split_once(':'))
            .flatten()
            .and_then(|(epoch, offset)| Some((epoch.parse().ok()?, offset.parse().ok()?)))
    };
    text.split(',').map(pair).collect::<Option<_>>().ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_remembers_every_attempt() {
        let offsets = BTreeMap::from([(1, 10), (3, 0)]);
        assert_eq!(read_cursor(&write_cursor(&offsets)).expect("ours"), offsets);
        assert!(read_cursor("!!").is_err());
        assert!(read_cursor("").expect("none").is_empty());
    }
}
