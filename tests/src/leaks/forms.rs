//! The forms in which a program could print, send or store a value.

use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// A form, and the bytes that it consists of.
pub(crate) type Form = (&'static str, Vec<u8>);

/// Of a longer value, pieces of this length stand for the whole.
const PIECE: usize = 48;

/// Most pieces of one value.
const MOST_PIECES: usize = 128;

/// What of a value is looked for: the whole, or of a long one every piece but the first, so that whatever is twice as long
/// has one in it. The first may be common to all values of its kind. So may most of a signed token be, header and claims:
/// of one its middle and its end, which is the signature.
pub(crate) fn pieces(value: &[u8]) -> Vec<&[u8]> {
    if value.len() <= 2 * PIECE {
        return vec![value];
    }
    let step = if value.starts_with(b"eyJ") {
        value.len() / 2
    } else {
        PIECE.max(value.len() / MOST_PIECES)
    };
    let begins = (step..=value.len() - PIECE).step_by(step);
    let mut pieces: Vec<&[u8]> = begins.map(|begin| &value[begin..begin + PIECE]).collect();
    pieces.push(&value[value.len() - PIECE..]);
    pieces
}

/// What a form is called where it is broken into lines: programs break base64 and hexadecimal at a column of their own.
pub(crate) fn in_lines(form: &str) -> Option<&'static str> {
    Some(match form {
        "base64" => "base64 in lines",
        "url-safe base64" => "url-safe base64 in lines",
        "hex" => "hex in lines",
        "upper-case hex" => "upper-case hex in lines",
        _ => return None,
    })
}

/// Every form of a value, each once.
pub(crate) fn forms(value: &[u8]) -> Vec<Form> {
    let mut forms: Vec<Form> = vec![("raw", value.to_vec())];
    for shift in 0..3 {
        forms.push(("base64", in_the_middle(&STANDARD_NO_PAD, value, shift)));
        forms.push(("url-safe base64", in_the_middle(&URL_SAFE_NO_PAD, value, shift)));
    }
    let hex = hex::encode(value);
    forms.push(("upper-case hex", hex.to_uppercase().into_bytes()));
    forms.push(("hex", hex.into_bytes()));
    for (name, digits) in [("URL", Digits::Upper), ("URL in lower case", Digits::Lower)] {
        for kept in ["-._~", "-._~/", "-._~!*'()", ""] {
            forms.push((name, percent(value, kept, digits, "%20")));
            forms.push((name, percent(value, kept, digits, "+")));
        }
    }
    // Go's path segments and user information, a whole URL, and what WHATWG's URLs have for user information.
    for kept in ["$&+-.:=@_~", "$&+,-.;=_~", "!#$&'()*+,-./:;=?@_~", "!$%&'()*+,-._~"] {
        forms.push(("whole URL", percent(value, kept, Digits::Upper, "%20")));
    }
    forms.push(("URL, every byte", every_byte(value, "%")));
    forms.push(("hex escapes", every_byte(value, "\\x")));
    if let Ok(text) = std::str::from_utf8(value) {
        let once = json(text);
        forms.push(("JSON in JSON", json(&once).into_bytes()));
        let of_go = once
            .replace('&', "\\u0026")
            .replace('<', "\\u003c")
            .replace('>', "\\u003e");
        forms.push(("Go's JSON in JSON", json(&of_go).into_bytes()));
        forms.push(("Go's JSON", of_go.into_bytes()));
        forms.push(("JSON with escaped slashes", once.replace('/', "\\/").into_bytes()));
        forms.push(("JSON", once.into_bytes()));
        let unicode = text.chars().fold(String::new(), |mut all, one| {
            if one.is_ascii_alphanumeric() {
                all.push(one);
            } else {
                let _ = write!(all, "\\u{:04x}", u32::from(one));
            }
            all
        });
        forms.push(("JSON with \\u", unicode.into_bytes()));
    }
    let mut seen = std::collections::BTreeSet::new();
    forms.retain(|(_, bytes)| bytes.len() >= super::canary::SHORTEST && seen.insert(bytes.clone()));
    forms
}

/// The characters of base64 that do not depend on what stands before and after the value.
fn in_the_middle(engine: &impl Engine, value: &[u8], shift: usize) -> Vec<u8> {
    let mut shifted = vec![0; shift];
    shifted.extend_from_slice(value);
    let whole = shifted.len() / 3 * 3;
    let encoded = engine.encode(&shifted[..whole]);
    let begin = if shift == 0 { 0 } else { 4 };
    encoded.as_bytes().get(begin..).unwrap_or_default().to_vec()
}

/// The case of hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Digits {
    Upper,
    Lower,
}

fn percent(value: &[u8], kept: &str, digits: Digits, blank: &str) -> Vec<u8> {
    let mut out = String::new();
    for &byte in value {
        if byte.is_ascii_alphanumeric() || kept.as_bytes().contains(&byte) {
            out.push(char::from(byte));
        } else if byte == b' ' {
            out.push_str(blank);
        } else if digits == Digits::Upper {
            let _ = write!(out, "%{byte:02X}");
        } else {
            let _ = write!(out, "%{byte:02x}");
        }
    }
    out.into_bytes()
}

fn every_byte(value: &[u8], before: &str) -> Vec<u8> {
    let mut out = String::new();
    for byte in value {
        let _ = write!(out, "{before}{byte:02x}");
    }
    out.into_bytes()
}

fn json(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}
