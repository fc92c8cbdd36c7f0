//! The redactor: no secret comes through, and it makes no difference how the stream was cut into writes.
//!
//! Input: a byte for the number of secrets, for each a length and so many bytes; a byte for the length of the
//! first writes; then the stream, in which 255 and a byte stand for a secret in one of the forms that programs print.
#![no_main]

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
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

const FORMS: usize = 9;

/// The base64 of a secret behind `before` bytes of something else, without the characters that hold bits of those.
fn shifted(secret: &[u8], before: usize) -> Vec<u8> {
    let text = [&b"xy"[..before], secret].concat();
    STANDARD_NO_PAD
        .encode(text)
        .split_off((before * 8).div_ceil(6))
        .into_bytes()
}

/// As RFC 3986 writes it.
fn percent(secret: &[u8]) -> Vec<u8> {
    let one = |byte: &u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(*byte).to_string(),
        other => format!("%{other:02X}"),
    };
    secret.iter().map(one).collect::<String>().into_bytes()
}

/// What stands between the quotes; what is no text is never in JSON.
fn json(secret: &[u8]) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(secret) else {
        return secret.to_vec();
    };
    let quoted = serde_json::Value::from(text).to_string();
    quoted.as_bytes()[1..quoted.len() - 1].to_vec()
}

/// A secret as programs print it.
fn printed(secret: &[u8], form: usize) -> Vec<u8> {
    match form % FORMS {
        0 => secret.to_vec(),
        1 => STANDARD_NO_PAD.encode(secret).into_bytes(),
        2 => URL_SAFE_NO_PAD.encode(secret).into_bytes(),
        3 => shifted(secret, 1),
        4 => shifted(secret, 2),
        5 => hex::encode(secret).into_bytes(),
        6 => hex::encode_upper(secret).into_bytes(),
        7 => percent(secret),
        _ => json(secret),
    }
}

/// Of that, what does not depend on what comes behind the secret: the last character of base64 may.
fn certain(secret: &[u8], form: usize) -> Vec<u8> {
    let mut printed = printed(secret, form);
    let whole = match form % FORMS {
        1 | 2 => secret.len().is_multiple_of(3),
        3 => (secret.len() + 1).is_multiple_of(3),
        4 => (secret.len() + 2).is_multiple_of(3),
        _ => true,
    };
    if !whole {
        printed.pop();
    }
    printed
}

/// The output of a program that has the secrets.
fn said(mut program: &[u8], secrets: &[&[u8]]) -> Vec<u8> {
    let mut output = Vec::new();
    while let Some((&first, rest)) = program.split_first() {
        program = rest;
        match (first, rest.split_first()) {
            (255, Some((&which, rest))) if !secrets.is_empty() => {
                program = rest;
                let which = usize::from(which);
                output.extend(printed(secrets[which % secrets.len()], which / 4));
            }
            _ => output.push(first),
        }
    }
    output
}

/// Wherever lines were broken: no part of base64 or hexadecimal of so many characters is left.
fn broken_lines_show_nothing(secret: &[u8], output: &[u8]) {
    // What all objects and all armour begin with is no part of a secret.
    if secret.starts_with(b"{") || secret.windows(5).any(|window| window == b"-----") {
        return;
    }
    for form in 1..7 {
        for part in certain(secret, form).windows(13) {
            assert!(
                !output.windows(part.len()).any(|window| window == part),
                "a part of a secret came through"
            );
        }
    }
}

/// The last one is learned in the midst of the stream: from then on it is hidden, and the others are all the time.
fn added_between_writes(secrets: &[&[u8]], output: &[u8]) {
    let Some((last, others)) = secrets.split_last() else {
        return;
    };
    let redactor = Redactor::new();
    for secret in others {
        let _ = redactor.add_secret(secret);
    }
    let mut stream = redactor.stream();
    let (before, after) = output.split_at(output.len() / 2);
    let mut all = stream.write(before).to_vec();
    let then = all.len();
    let _ = redactor.add_secret(last);
    all.extend_from_slice(stream.write(after));
    all.extend_from_slice(stream.finish());
    let shows = |text: &[u8], secret: &[u8]| !secret.contains(&b'*') && text.windows(secret.len()).any(|w| w == secret);
    for secret in others {
        assert!(!shows(&all, secret), "a secret came through when another was added");
    }
    assert!(
        !shows(&all[then..], last),
        "a secret came through that was added before"
    );
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
    let output = said(rest, &secrets);
    let mut whole = redactor.stream();
    let mut at_once = whole.write(&output).to_vec();
    at_once.extend_from_slice(whole.finish());
    let mut stream = redactor.stream();
    let mut in_pieces = Vec::new();
    for (index, piece) in output.chunks(step).enumerate() {
        // Two writes of different lengths out of every piece.
        let (left, right) = piece.split_at(index % (piece.len() + 1));
        in_pieces.extend_from_slice(stream.write(left));
        in_pieces.extend_from_slice(stream.write(right));
    }
    in_pieces.extend_from_slice(stream.finish());
    assert_eq!(at_once, in_pieces, "the cut makes a difference");
    let is_in = |form: &[u8]| at_once.windows(form.len()).any(|window| window == form);
    for secret in &secrets {
        broken_lines_show_nothing(secret, &at_once);
    }
    added_between_writes(&secrets, &output);
    for secret in secrets {
        // A secret with an asterisk could be put together from text and a mask.
        assert!(secret.contains(&b'*') || !is_in(secret), "a secret came through");
        for form in 1..FORMS {
            let certain = certain(secret, form);
            assert!(
                certain.contains(&b'*') || !is_in(&certain),
                "a secret came through in another form"
            );
        }
    }
});
