//! The redactor: no secret comes through, and it makes no difference how the stream was cut into writes.
//!
//! Input: a byte for the number of secrets, for each a length and so many bytes; a byte for the length of the
//! first writes; then the stream.
#![no_main]

use deputy_logs::Redactor;
use libfuzzer_sys::fuzz_target;

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (head, rest) = bytes.split_at(len.min(bytes.len()));
    *bytes = rest;
    head
}

fn byte(bytes: &mut &[u8]) -> usize {
    take(bytes, 1).first().copied().unwrap_or(0).into()
}

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    let redactor = Redactor::new();
    let mut secrets = Vec::new();
    for _ in 0..byte(&mut rest) % 4 {
        let len = byte(&mut rest) % 48;
        let secret = take(&mut rest, len);
        if redactor.add_secret(secret).is_ok() {
            secrets.push(secret);
        }
    }
    let step = byte(&mut rest) % 17 + 1;
    let mut whole = redactor.stream();
    let mut at_once = whole.write(rest).to_vec();
    at_once.extend_from_slice(whole.finish());
    let mut stream = redactor.stream();
    let mut in_pieces = Vec::new();
    for (index, piece) in rest.chunks(step).enumerate() {
        // Two writes of different lengths out of every piece.
        let (left, right) = piece.split_at(index % (piece.len() + 1));
        in_pieces.extend_from_slice(stream.write(left));
        in_pieces.extend_from_slice(stream.write(right));
    }
    in_pieces.extend_from_slice(stream.finish());
    assert_eq!(at_once, in_pieces, "the cut makes a difference");
    for secret in secrets {
        // A secret with an asterisk could be put together from text and a mask.
        if !secret.contains(&b'*') {
            assert!(
                !at_once.windows(secret.len()).any(|window| window == secret),
                "a secret came through"
            );
        }
    }
});
