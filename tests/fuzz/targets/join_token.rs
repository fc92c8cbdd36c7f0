//! Join tokens: only the text that was handed out shows one, and whatever happens in whatever order, it lets in no
//! more agents than it was made for, none after its end, and none after it was revoked.
//!
//! Input: a byte for the form, then a text that somebody shows; or a byte for the uses, a byte for the life, and what
//! happens, a byte each.
#![no_main]

use std::sync::LazyLock;

use deputy_manager::fuzzing::{Hashed, JoinAttempt, JoinToken};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

const ID: &str = "0123456789abcdef";
const SECRET: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

static TOKEN: LazyLock<JoinToken> = LazyLock::new(|| {
    let hashed = serde_json::Value::String(hex::encode(Sha256::digest(SECRET)));
    JoinToken {
        id: ID.into(),
        rule: "pool".into(),
        hashed: serde_json::from_value::<Hashed>(hashed).expect("a hash"),
        max_uses: 1,
        uses: 0,
        created_at_ms: 0,
        expires_at_ms: i64::MAX,
        revoked: false,
        created_by: "admin".into(),
    }
});

fn shown(text: &str) {
    let is_it = text.trim() == format!("dpj_{ID}_{SECRET}");
    assert_eq!(TOKEN.is_shown_by(text), is_it, "{text:?}");
    if let Some(id) = JoinToken::id_in(text) {
        assert!(id.len() == 16 && text.contains(id));
    }
}

fn history(max_uses: u8, life: u8, happenings: &[u8]) {
    let mut token = JoinToken {
        max_uses: max_uses.into(),
        expires_at_ms: life.into(),
        ..TOKEN.clone()
    };
    let (mut now, mut agents) = (0_i64, 0_u32);
    for happening in happenings {
        match happening % 8 {
            0 => now += i64::from(happening >> 3),
            1 => token.revoked = true,
            kind => {
                let attempt = if kind % 2 == 0 {
                    JoinAttempt::First
                } else {
                    JoinAttempt::Repeated
                };
                let refusal = token.refusal(now, attempt);
                if refusal.is_none() {
                    assert!(!token.revoked && now < i64::from(life));
                    token = token.used(attempt);
                    agents += u32::from(attempt == JoinAttempt::First);
                } else {
                    let is_over = token.revoked || now >= i64::from(life);
                    assert!(
                        is_over || (attempt == JoinAttempt::First && agents == u32::from(max_uses)),
                        "refused: {refusal:?}"
                    );
                }
            }
        }
        assert!(
            agents <= u32::from(max_uses),
            "{agents} agents by a token for {max_uses}"
        );
        assert_eq!(agents, token.uses);
    }
}

fuzz_target!(|input: &[u8]| match input {
    [form, max_uses, life, happenings @ ..] if form % 2 == 1 => history(*max_uses, *life, happenings),
    [form, text @ ..] if form % 2 == 0 => {
        if let Ok(text) = std::str::from_utf8(text) {
            shown(text);
        }
    }
    _ => {}
});
