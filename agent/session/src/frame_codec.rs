//! How frames of a session are read: with a bound on their parts before memory is given to any of them. Two bytes are
//! enough for an empty record or an empty attempt, and each costs some hundred bytes once it is read; a frame's size
//! alone bounds nothing. Called by [`crate::dial`].

use deputy_proto::v1;
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Parts of a frame: records, attempts, results. The journal of a run has far fewer, and so has a Write.
const MAX_PARTS: usize = 64 * 1024;

/// A tag of a message that cannot be one: more than ten bytes, or a kind that there is not.
#[derive(Debug, PartialEq, Eq)]
struct Malformed;

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FrameCodec;

impl Codec for FrameCodec {
    type Encode = v1::SessionRequest;
    type Decode = v1::SessionResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for FrameCodec {
    type Item = v1::SessionRequest;
    type Error = Status;

    fn encode(&mut self, frame: v1::SessionRequest, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        frame.encode(into).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for FrameCodec {
    type Item = v1::SessionResponse;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<v1::SessionResponse>, Status> {
        read(from).map(Some)
    }
}

/// The same for an answer to a long poll, with all frames of it together.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AnswerCodec;

impl Codec for AnswerCodec {
    type Encode = v1::ExchangeRequest;
    type Decode = v1::ExchangeResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for AnswerCodec {
    type Item = v1::ExchangeRequest;
    type Error = Status;

    fn encode(&mut self, request: v1::ExchangeRequest, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        request
            .encode(into)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for AnswerCodec {
    type Item = v1::ExchangeResponse;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<v1::ExchangeResponse>, Status> {
        read_answer(from).map(Some)
    }
}

fn read(from: impl bytes::Buf) -> Result<v1::SessionResponse, Status> {
    counted(from, parts)
}

fn read_answer(from: impl bytes::Buf) -> Result<v1::ExchangeResponse, Status> {
    counted(from, parts_of_answer)
}

fn counted<T: Message + Default>(
    from: impl bytes::Buf,
    parts: impl FnOnce(&[u8]) -> Result<usize, Malformed>,
) -> Result<T, Status> {
    let mut from = from;
    let frame = from.copy_to_bytes(from.remaining());
    let parts = parts(&frame).map_err(|Malformed| Status::internal("the manager sent a frame that is no message"))?;
    if parts > MAX_PARTS {
        return Err(Status::out_of_range(format!(
            "the manager sent a frame of more than {MAX_PARTS} parts"
        )));
    }
    T::decode(frame).map_err(|error| Status::internal(error.to_string()))
}

/// Frames of the answer, and fields of what they carry.
fn parts_of_answer(answer: &[u8]) -> Result<usize, Malformed> {
    let mut sum = 0_usize;
    let mut rest = answer;
    while !rest.is_empty() && sum <= MAX_PARTS {
        let frame = field(&mut rest)?;
        sum += 1 + parts(frame)?;
    }
    Ok(sum)
}

/// Fields of what the frame carries. A field that comes twice is one message to the decoder, so all count together.
fn parts(frame: &[u8]) -> Result<usize, Malformed> {
    let mut sum = 0_usize;
    let mut rest = frame;
    while !rest.is_empty() {
        let mut carried = field(&mut rest)?;
        while !carried.is_empty() && sum <= MAX_PARTS {
            field(&mut carried)?;
            sum += 1;
        }
    }
    Ok(sum)
}

/// Takes one field off; what it carries, if that has a length.
fn field<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let kind = number(rest)? & 7;
    let len = match kind {
        0 => {
            number(rest)?;
            return Ok(&[]);
        }
        1 => 8,
        2 => usize::try_from(number(rest)?).map_err(|_| Malformed)?,
        5 => 4,
        // Groups are not used in this contract, and the rest does not exist.
        _ => return Err(Malformed),
    };
    let (carried, after) = rest.split_at_checked(len).ok_or(Malformed)?;
    *rest = after;
    Ok(if kind == 2 { carried } else { &[] })
}

fn number(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0_u64;
    for shift in (0..70).step_by(7) {
        let (&byte, after) = rest.split_first().ok_or(Malformed)?;
        *rest = after;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

#[cfg(test)]
mod tests {
    use deputy_proto::v1::session_response::Frame;

    use super::*;

    fn frame(frame: Frame) -> Vec<u8> {
        v1::SessionResponse { frame: Some(frame) }.encode_to_vec()
    }

    fn journal(records: usize) -> Frame {
        Frame::Assignment(v1::Assignment {
            document: b"{\"\\\"\\\"\":[]}".as_slice().into(),
            journal: vec![v1::Record::default(); records],
            ..v1::Assignment::default()
        })
    }

    #[test]
    fn an_answer_is_read_as_it_is_and_its_frames_count_together() {
        let answer = |frames: Vec<Frame>| {
            let frames = frames
                .into_iter()
                .map(|frame| v1::SessionResponse { frame: Some(frame) });
            v1::ExchangeResponse {
                frames: frames.collect(),
                first: u64::MAX,
                received: 7,
                last: true,
            }
        };
        let good = answer(vec![journal(3), Frame::HeartbeatAck(v1::HeartbeatAck { seq: 1 })]);
        assert_eq!(read_answer(good.encode_to_vec().as_slice()).expect("read"), good);
        let nothing = v1::ExchangeResponse::default();
        assert_eq!(read_answer(nothing.encode_to_vec().as_slice()).expect("read"), nothing);
        let half = MAX_PARTS / 2;
        let many = answer(vec![journal(half), journal(half)]).encode_to_vec();
        let error = read_answer(many.as_slice()).expect_err("too many");
        assert_eq!(error.code(), tonic::Code::OutOfRange, "{error}");
        let empty = vec![v1::SessionResponse::default(); MAX_PARTS + 1];
        let empty = v1::ExchangeResponse {
            frames: empty,
            ..v1::ExchangeResponse::default()
        };
        read_answer(empty.encode_to_vec().as_slice()).expect_err("too many empty ones");
    }

    #[test]
    fn what_a_manager_says_is_read_as_it_is() {
        let frames = [
            Frame::HeartbeatAck(v1::HeartbeatAck { seq: u64::MAX }),
            Frame::Welcome(v1::Welcome {
                server_time_ms: -1,
                stale: vec![v1::AttemptRef::default(); 3],
                ..v1::Welcome::default()
            }),
            journal(MAX_PARTS - 1),
        ];
        for sent in frames {
            let read = read(frame(sent.clone()).as_slice()).expect("read");
            assert_eq!(read.frame, Some(sent));
        }
        assert_eq!(read([].as_slice()).expect("nothing is a message").frame, None);
    }

    #[test]
    fn many_small_parts_are_refused_before_they_are_read() {
        let many = frame(journal(MAX_PARTS + 1));
        assert!(many.len() < 200 * 1024, "two bytes for each");
        // The same field twice is one frame to a decoder.
        let twice = [frame(journal(MAX_PARTS / 2 + 1)), frame(journal(MAX_PARTS / 2 + 1))].concat();
        for bytes in [many, twice] {
            let refused = read(bytes.as_slice()).expect_err("too many");
            assert_eq!(refused.code(), tonic::Code::OutOfRange, "{refused}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bytes in [
            [0x0a, 5, 1].as_slice(),
            &[0x0b],
            &[0x80; 11],
            &[0x22, 3, 0x22, 0xff, 0xff],
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        ] {
            assert_eq!(read(bytes).expect_err("refused").code(), tonic::Code::Internal);
        }
    }
}
