//! How a log is cut into records: the bytes that the spool holds and the wire carries.
//!
//! The log of an attempt is one byte sequence of self-contained records, so reading may begin at
//! any record boundary (a cursor) without knowing what came before. The spool encodes, the
//! manager and the command line decode. Decoding copies nothing and never trusts a length it has
//! not checked: the bytes come over the network.
//!
//! ```text
//! offset  size  field (integers are little-endian)
//!      0     1  kind: 1 stdout, 2 stderr, 3 system, 4 gap
//!      1     1  S: bytes of the step's name; 0 for the task itself
//!      2     4  P: bytes of payload, at most 65,536
//!      6     8  Unix milliseconds on the agent's clock, signed
//!     14     S  the step's name, UTF-8
//!   14+S     P  the payload; for a gap the number of bytes that were dropped, as eight bytes
//! ```

/// Most payload bytes in one record.
pub const MAX_PAYLOAD_BYTES: usize = 64 * 1024;

/// Bytes before the step's name.
pub const HEADER_BYTES: usize = 14;

/// No record is longer than this.
pub const MAX_RECORD_BYTES: usize = HEADER_BYTES + u8::MAX as usize + MAX_PAYLOAD_BYTES;

const GAP_PAYLOAD_BYTES: usize = 8;
const KIND_GAP: u8 = 4;

/// Where bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogStream {
    /// A child's standard output.
    Stdout,
    /// A child's standard error.
    Stderr,
    /// The agent's own narration.
    System,
}

impl LogStream {
    const fn kind(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
            Self::System => 3,
        }
    }
}

/// One record, borrowed from the bytes it was decoded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogRecord<'a> {
    /// Something was written.
    Output {
        /// Where it came from.
        stream: LogStream,
        /// Which step wrote it; empty for the task itself.
        step: &'a str,
        /// Unix milliseconds on the agent's clock.
        at_ms: i64,
        /// Redacted bytes; any number of lines, the last of which may go on in a later record.
        data: &'a [u8],
    },
    /// Something was written and dropped, because the spool was full.
    Gap {
        /// Unix milliseconds on the agent's clock.
        at_ms: i64,
        /// Exactly how many bytes of output.
        bytes: u64,
    },
}

impl LogRecord<'_> {
    /// Does the last line go on in a later record of the same stream?
    #[must_use]
    pub fn is_partial(&self) -> bool {
        matches!(self, Self::Output { data, .. } if !data.ends_with(b"\n"))
    }

    /// Bytes of output that the record stands for, dropped ones included.
    #[must_use]
    pub fn output_bytes(&self) -> u64 {
        match self {
            Self::Output { data, .. } => u64::try_from(data.len()).unwrap_or(u64::MAX),
            Self::Gap { bytes, .. } => *bytes,
        }
    }
}

/// These bytes are not log records. Nothing after the place can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// The first byte is no kind we know.
    #[error("no log record begins with byte {kind:#04x}")]
    UnknownKind {
        /// The byte.
        kind: u8,
    },
    /// The payload is longer than a record may be.
    #[error("a log record of {bytes} bytes is longer than {MAX_PAYLOAD_BYTES}")]
    TooLong {
        /// As the header says.
        bytes: u32,
    },
    /// The step's name is not UTF-8.
    #[error("the step name of a log record is not text")]
    StepNotText,
    /// A gap record has a step or a payload that is not eight bytes.
    #[error("a gap record of {bytes} bytes is malformed")]
    BadGap {
        /// As the header says.
        bytes: u32,
    },
    /// The bytes end within a record.
    #[error("{bytes} bytes of an incomplete log record remain at the end")]
    Incomplete {
        /// How many are left over.
        bytes: usize,
    },
}

/// What the first bytes of a record say.
struct Header {
    kind: u8,
    step_len: usize,
    payload_len: usize,
    at_ms: i64,
}

impl Header {
    /// `None` if more bytes are needed.
    fn read(bytes: &[u8]) -> Result<Option<Self>, BadRecord> {
        let Some(&kind) = bytes.first() else { return Ok(None) };
        if !(1..=KIND_GAP).contains(&kind) {
            return Err(BadRecord::UnknownKind { kind });
        }
        let Some((head, _)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let [_, step_len, p0, p1, p2, p3, at @ ..] = *head;
        let payload = u32::from_le_bytes([p0, p1, p2, p3]);
        let payload_len = usize::try_from(payload).unwrap_or(usize::MAX);
        if payload_len > MAX_PAYLOAD_BYTES {
            return Err(BadRecord::TooLong { bytes: payload });
        }
        if kind == KIND_GAP && (step_len != 0 || payload_len != GAP_PAYLOAD_BYTES) {
            return Err(BadRecord::BadGap { bytes: payload });
        }
        Ok(Some(Self {
            kind,
            step_len: usize::from(step_len),
            payload_len,
            at_ms: i64::from_le_bytes(at),
        }))
    }

    const fn record_len(&self) -> usize {
        HEADER_BYTES + self.step_len + self.payload_len
    }
}

/// Appends output to `out`, cut into as many records as it needs. Nothing for empty `data`.
///
/// A step name longer than 255 bytes is shortened; ids never are that long.
pub fn encode_output(out: &mut Vec<u8>, stream: LogStream, step: &str, at_ms: i64, data: &[u8]) {
    let step = shortened(step);
    let step_len = u8::try_from(step.len()).unwrap_or(u8::MAX);
    for piece in data.chunks(MAX_PAYLOAD_BYTES) {
        out.reserve(HEADER_BYTES + step.len() + piece.len());
        out.push(stream.kind());
        out.push(step_len);
        out.extend_from_slice(&u32::try_from(piece.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(&at_ms.to_le_bytes());
        out.extend_from_slice(step.as_bytes());
        out.extend_from_slice(piece);
    }
}

/// Bytes that [`encode_output`] appends.
#[must_use]
pub fn encoded_len(step: &str, data_len: usize) -> usize {
    data_len + data_len.div_ceil(MAX_PAYLOAD_BYTES) * (HEADER_BYTES + shortened(step).len())
}

/// Appends a gap record to `out`.
pub fn encode_gap(out: &mut Vec<u8>, at_ms: i64, bytes: u64) {
    out.push(KIND_GAP);
    out.push(0);
    out.extend_from_slice(&8_u32.to_le_bytes());
    out.extend_from_slice(&at_ms.to_le_bytes());
    out.extend_from_slice(&bytes.to_le_bytes());
}

fn shortened(step: &str) -> &str {
    let mut end = step.len().min(usize::from(u8::MAX));
    while !step.is_char_boundary(end) {
        end -= 1;
    }
    step.get(..end).unwrap_or_default()
}

/// The record at the beginning of `bytes` and its length; `None` if more bytes are needed.
///
/// # Errors
/// If no record begins here.
pub fn decode(bytes: &[u8]) -> Result<Option<(LogRecord<'_>, usize)>, BadRecord> {
    let Some(header) = Header::read(bytes)? else {
        return Ok(None);
    };
    let Some(record) = bytes.get(..header.record_len()) else {
        return Ok(None);
    };
    let (step, payload) = record.split_at(HEADER_BYTES).1.split_at(header.step_len);
    let at_ms = header.at_ms;
    let stream = match header.kind {
        1 => LogStream::Stdout,
        2 => LogStream::Stderr,
        3 => LogStream::System,
        _ => {
            let bytes = payload.first_chunk().map_or(0, |count| u64::from_le_bytes(*count));
            return Ok(Some((LogRecord::Gap { at_ms, bytes }, record.len())));
        }
    };
    let step = std::str::from_utf8(step).map_err(|_| BadRecord::StepNotText)?;
    Ok(Some((
        LogRecord::Output {
            stream,
            step,
            at_ms,
            data: payload,
        },
        record.len(),
    )))
}

/// How many of the first `max` bytes are whole records: where a frame may end.
///
/// # Errors
/// If something in them is no record.
pub fn whole_records_len(bytes: &[u8], max: usize) -> Result<usize, BadRecord> {
    let mut end = 0;
    while let Some(header) = Header::read(bytes.get(end..).unwrap_or_default())? {
        let next = end + header.record_len();
        if next > max || next > bytes.len() {
            break;
        }
        end = next;
    }
    Ok(end)
}

/// The records of `bytes`, which end with a whole one. Ends after the first error.
pub fn records(bytes: &[u8]) -> impl Iterator<Item = Result<LogRecord<'_>, BadRecord>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        match decode(rest) {
            Ok(Some((record, len))) => {
                rest = rest.split_at(len).1;
                Some(Ok(record))
            }
            Ok(None) => Some(Err(BadRecord::Incomplete {
                bytes: std::mem::take(&mut rest).len(),
            })),
            Err(error) => {
                rest = &[];
                Some(Err(error))
            }
        }
    })
}

/// Decodes records from pieces cut anywhere. Holds less than one record between calls.
#[derive(Debug, Default)]
pub struct RecordReader {
    rest: Vec<u8>,
}

impl RecordReader {
    /// Takes more bytes and calls `each` for every record that is complete now.
    ///
    /// # Errors
    /// If something is no record; what was decoded before it has been delivered, and the reader is
    /// of no further use.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(LogRecord<'_>)) -> Result<(), BadRecord> {
        let mut rest = bytes;
        // Complete the record that was begun, then go on without copying.
        while !self.rest.is_empty() && !rest.is_empty() {
            let missing = match Header::read(&self.rest)? {
                None => HEADER_BYTES - self.rest.len(),
                Some(header) => header.record_len() - self.rest.len(),
            };
            let (now, later) = rest.split_at(missing.min(rest.len()));
            self.rest.extend_from_slice(now);
            rest = later;
            if let Some((record, _)) = decode(&self.rest)? {
                each(record);
                self.rest.clear();
            }
        }
        while let Some((record, len)) = decode(rest)? {
            each(record);
            rest = rest.split_at(len).1;
        }
        self.rest.extend_from_slice(rest);
        Ok(())
    }

    /// Bytes of a record whose end has not come yet.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.rest.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Owned = (Option<LogStream>, String, i64, Vec<u8>, u64);

    fn owned(record: LogRecord<'_>) -> Owned {
        match record {
            LogRecord::Output {
                stream,
                step,
                at_ms,
                data,
            } => (Some(stream), step.into(), at_ms, data.into(), 0),
            LogRecord::Gap { at_ms, bytes } => (None, String::new(), at_ms, Vec::new(), bytes),
        }
    }

    fn any_record() -> impl Strategy<Value = Owned> {
        let stream = prop_oneof![
            Just(LogStream::Stdout),
            Just(LogStream::Stderr),
            Just(LogStream::System)
        ];
        prop_oneof![
            (
                stream,
                "[a-z.é-]{0,20}",
                any::<i64>(),
                prop::collection::vec(any::<u8>(), 1..300)
            )
                .prop_map(|(stream, step, at_ms, data)| (Some(stream), step, at_ms, data, 0)),
            (any::<i64>(), any::<u64>()).prop_map(|(at_ms, gap)| (None, String::new(), at_ms, Vec::new(), gap)),
        ]
    }

    fn encode(all: &[Owned]) -> Vec<u8> {
        let mut log = Vec::new();
        for (stream, step, at_ms, data, gap) in all {
            match stream {
                Some(stream) => encode_output(&mut log, *stream, step, *at_ms, data),
                None => encode_gap(&mut log, *at_ms, *gap),
            }
        }
        log
    }

    proptest! {
        #[test]
        fn records_come_back_whatever_way_their_bytes_were_cut(
            all in prop::collection::vec(any_record(), 0..12),
            cuts in prop::collection::vec(1_usize..200, 0..40),
        ) {
            let log = encode(&all);
            let mut reader = RecordReader::default();
            let mut got = Vec::new();
            let mut rest = log.as_slice();
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                reader.push(now, |record| got.push(owned(record))).expect("records");
                rest = later;
            }
            reader.push(rest, |record| got.push(owned(record))).expect("records");
            prop_assert_eq!(reader.pending_bytes(), 0);
            prop_assert_eq!(&got, &all);
            let whole: Vec<Owned> = records(&log).map(|record| owned(record.expect("record"))).collect();
            prop_assert_eq!(whole, all);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 0_u8..6, max in 0_usize..500) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() { *first = kind; }
            let _ = decode(&bytes);
            prop_assert!(whole_records_len(&bytes, max).map_or(0, |end| end) <= bytes.len().min(max));
            prop_assert!(records(&bytes).count() <= bytes.len());
            let _ = RecordReader::default().push(&bytes, |_| ());
        }

        #[test]
        fn a_frame_ends_where_a_record_ends(all in prop::collection::vec(any_record(), 1..8), max in 0_usize..2000) {
            let log = encode(&all);
            let end = whole_records_len(&log, max).expect("records");
            prop_assert!(end <= max.min(log.len()));
            prop_assert!(records(&log[..end]).all(|record| record.is_ok()));
        }
    }

    #[test]
    fn long_output_becomes_several_records_of_bounded_size() {
        let data = vec![b'x'; MAX_PAYLOAD_BYTES * 2 + 5];
        let mut log = Vec::new();
        encode_output(&mut log, LogStream::Stdout, "build", 7, &data);
        assert_eq!(log.len(), encoded_len("build", data.len()));
        let sizes: Vec<u64> = records(&log)
            .map(|record| record.expect("record").output_bytes())
            .collect();
        assert_eq!(sizes, [65_536, 65_536, 5]);
    }

    #[test]
    fn what_is_no_record_is_named() {
        let mut too_long = vec![1, 0];
        too_long.extend_from_slice(&70_000_u32.to_le_bytes());
        too_long.extend_from_slice(&[0; 8]);
        assert_eq!(decode(&too_long), Err(BadRecord::TooLong { bytes: 70_000 }));
        assert_eq!(decode(b"hello"), Err(BadRecord::UnknownKind { kind: b'h' }));
        assert_eq!(records(&[1, 0]).next(), Some(Err(BadRecord::Incomplete { bytes: 2 })));
    }
}
