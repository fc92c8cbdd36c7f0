//! The redactor against a plain definition of what it must do, on secrets and texts made to collide.

use proptest::prelude::*;

use super::*;
use crate::secret_forms::searched;

fn redactor(secrets: &[impl AsRef<[u8]>]) -> Redactor {
    let redactor = Redactor::new();
    for secret in secrets {
        redactor.add_secret(secret.as_ref()).expect("a secret");
    }
    redactor
}

/// Writes `text` cut at the given lengths.
fn redact_in_pieces(redactor: &Redactor, text: &[u8], cuts: &[usize]) -> Vec<u8> {
    let mut stream = redactor.stream();
    let mut out = Vec::new();
    let mut rest = text;
    for cut in cuts {
        let (now, later) = rest.split_at((*cut).min(rest.len()));
        out.extend_from_slice(stream.write(now));
        rest = later;
    }
    out.extend_from_slice(stream.write(rest));
    out.extend_from_slice(stream.finish());
    out
}

#[test]
fn a_longer_secret_goes_on_behind_a_mask_after_another_was_added() {
    let redactor = redactor(&["password", "password1234-very-secret"]);
    let mut stream = redactor.stream();
    let mut out = stream.write(b"x password").to_vec();
    redactor.add_secret(b"another one").expect("a secret");
    out.extend_from_slice(stream.write(b"1234-very-secret y"));
    out.extend_from_slice(stream.finish());
    assert_eq!(String::from_utf8_lossy(&out), "x *** y");
}

/// What the redactor must do, said plainly: every byte of every occurrence goes, each run of them
/// becomes one mask.
fn plainly(secrets: &[Vec<u8>], text: &[u8]) -> Vec<u8> {
    let mut hidden = vec![false; text.len()];
    for form in secrets.iter().flat_map(|secret| searched(secret)) {
        for (at, window) in text.windows(form.len()).enumerate() {
            if window == form {
                hidden[at..at + form.len()].fill(true);
            }
        }
    }
    let mut out = Vec::new();
    for (at, byte) in text.iter().enumerate() {
        match (hidden[at], at > 0 && hidden[at - 1]) {
            (false, _) => out.push(*byte),
            (true, true) => {}
            (true, false) => out.extend_from_slice(MASK),
        }
    }
    out
}

/// Few letters, so that secrets overlap, contain and continue each other.
fn secret() -> impl Strategy<Value = Vec<u8>> {
    "[ab]{4,9}|a{4,20}|(ab){2,6}|[abc\n]{0,3}[abc]{4}[abc\n]{0,6}[abc]{4}".prop_map(String::into_bytes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn output_is_the_plain_definition_however_it_was_cut(
        secrets in prop::collection::vec(secret(), 1..5),
        text in "[abc\n]{0,200}",
        cuts in prop::collection::vec(0_usize..12, 0..60),
    ) {
        let redactor = redactor(&secrets);
        let expected = plainly(&secrets, text.as_bytes());
        prop_assert_eq!(redact_in_pieces(&redactor, text.as_bytes(), &[]), expected.clone());
        prop_assert_eq!(redact_in_pieces(&redactor, text.as_bytes(), &cuts), expected.clone());
        prop_assert_eq!(redact_in_pieces(&redactor, text.as_bytes(), &vec![1; text.len()]), expected);
    }

    /// Guards that a stream knows after a new secret what it knew before, also what is a mask already.
    #[test]
    fn another_secret_between_two_writes_makes_no_difference(
        (short, more) in (secret(), "[abc]{1,9}"),
        around in prop::collection::vec("[abc]{0,3}", 2..6),
        cuts in prop::collection::vec(0_usize..12, 0..30),
    ) {
        let long = [&short, more.as_bytes()].concat();
        let text = around.join(&String::from_utf8_lossy(&long));
        let secrets = [short, long];
        let redactor = redactor(&secrets);
        let mut stream = redactor.stream();
        let mut out = Vec::new();
        let mut rest = text.as_bytes();
        for (index, cut) in cuts.iter().enumerate() {
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            out.extend_from_slice(stream.write(now));
            redactor.add_secret(format!("another-{index}").as_bytes()).expect("a secret");
            rest = later;
        }
        out.extend_from_slice(stream.write(rest));
        out.extend_from_slice(stream.finish());
        prop_assert_eq!(out, plainly(&secrets, text.as_bytes()));
    }

    /// Without short forms the matcher takes longer strides.
    #[test]
    fn long_secrets_are_found_wherever_they_begin(
        secrets in prop::collection::vec("[ab]{9,14}|a{9,20}|(abc){3,6}", 1..4),
        text in "[abc\n ]{0,300}",
        cuts in prop::collection::vec(0_usize..40, 0..20),
    ) {
        let secrets: Vec<_> = secrets.into_iter().map(String::into_bytes).collect();
        let redactor = redactor(&secrets);
        // Sure to be in it, at any place.
        let (before, after) = text.split_at(text.len() / 2);
        let text = [before.as_bytes(), &secrets[0], after.as_bytes()].concat();
        let expected = plainly(&secrets, &text);
        prop_assert_eq!(redact_in_pieces(&redactor, &text, &[]), expected.clone());
        prop_assert_eq!(redact_in_pieces(&redactor, &text, &cuts), expected);
    }

    #[test]
    fn encoded_secrets_are_hidden_however_they_are_cut(
        secret in prop::collection::vec(any::<u8>().prop_filter("no space", |byte| !byte.is_ascii_whitespace()), 8..60),
        before in "[a-z]{0,4}",
        cuts in prop::collection::vec(0_usize..30, 0..20),
    ) {
        use base64::Engine;
        let redactor = redactor(&[&secret]);
        let mut plain = before.into_bytes();
        plain.extend_from_slice(&secret);
        let engine = base64::engine::general_purpose::STANDARD;
        let text = format!("x: {} {}", engine.encode(&plain), engine.encode(&secret));
        let out = redact_in_pieces(&redactor, text.as_bytes(), &cuts);
        prop_assert_eq!(out.windows(3).filter(|window| *window == MASK).count(), 2, "{}", String::from_utf8_lossy(&out));
        prop_assert!(out.len() < 3 + 1 + 6 + 2 * (MASK.len() + 4), "{}", String::from_utf8_lossy(&out));
    }

    /// Every form, of texts of one line and of several, and of bytes that are no text.
    #[test]
    fn every_form_is_hidden_whole_however_it_is_cut(
        secret in prop_oneof![
            "[ -~äß€\u{1f600}]{4,40}".prop_map(String::into_bytes),
            "([!-~]{4,30}\n){2,4}".prop_map(String::into_bytes),
            prop::collection::vec(2_u8..=255, 6..60),
        ],
        cuts in prop::collection::vec(0_usize..25, 0..12),
    ) {
        prop_assume!(secret.trim_ascii().len() >= 12);
        let redactor = redactor(&[&secret]);
        for form in searched(&secret) {
            let text = [b"\x01", &form[..], b"\x01"].concat();
            let out = redact_in_pieces(&redactor, &text, &cuts);
            prop_assert_eq!(&out[..], &b"\x01***\x01"[..], "{}", String::from_utf8_lossy(&form));
        }
    }

    #[test]
    fn held_back_is_only_what_may_become_a_secret(
        secrets in prop::collection::vec(secret(), 1..4),
        text in "[abc ]{0,60}",
    ) {
        let redactor = redactor(&secrets);
        let forms: Vec<_> = secrets.iter().flat_map(|secret| searched(secret)).collect();
        let longest = forms.iter().map(Vec::len).max().unwrap_or(0);
        let mut stream = redactor.stream();
        stream.write(text.as_bytes());
        let held = stream.held.bytes.len();
        prop_assert!(held < longest);
        // It may have begun within what is a mask already: of `caca` and `caba`, in `cacab`.
        let begun = held + stream.held.masked.len();
        let end = &text.as_bytes()[text.len() - begun..];
        prop_assert!(held == 0 || forms.iter().any(|form| form.starts_with(end)));
    }
}

#[test]
fn overlapping_and_touching_secrets_become_one_mask() {
    let redactor = redactor(&["abcd", "cdef", "ghij"]);
    assert_eq!(redactor.redact("x abcdef y abcdghij z"), "x *** y *** z");
}

#[test]
fn a_secret_that_is_added_counts_for_open_streams() {
    let redactor = redactor(&["first-one"]);
    let mut stream = redactor.stream();
    let mut out = stream.write(b"first-on").to_vec();
    assert!(out.is_empty());
    redactor.add_secret(b"first-on the-second").expect("a secret");
    out.extend_from_slice(stream.write(b" the-second, first-one"));
    out.extend_from_slice(stream.finish());
    assert_eq!(out, b"***, ***");
}

#[test]
fn a_key_of_several_lines_is_hidden_line_by_line() {
    let redactor = redactor(&["-----BEGIN-----\nQUJDREVG\n}\nR0hJSktM\n-----END-----\n"]);
    assert_eq!(redactor.redact("a QUJDREVG b\r\n}R0hJSktM"), "a *** b\r\n}***");
}

#[test]
fn what_is_no_secret_is_refused_with_the_reason() {
    let redactor = Redactor::new();
    assert_eq!(redactor.add_secret(b"abc\n"), Err(SecretRefused::TooShort { chars: 3 }));
    assert_eq!(
        redactor.add_secret("äöü".as_bytes()),
        Err(SecretRefused::TooShort { chars: 3 })
    );
    assert_eq!(
        redactor.add_secret(&vec![b'x'; 70_000]),
        Err(SecretRefused::TooLong { bytes: 70_000 })
    );
    assert_eq!(redactor.redact("abc xxxx"), "abc xxxx");
}

/// Guards that a task that runs for days can renew its sessions, and that what is still good is hidden throughout.
#[test]
fn sessions_that_are_over_make_room_and_nothing_else_does() {
    let redactor = Redactor::new();
    let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let quarter = Duration::from_secs(15 * 60);
    let lasting = "a-password-that-lasts";
    redactor
        .add(lasting.as_bytes(), forms_of, None, begin)
        .expect("a secret");
    let session = |number: u32| format!("session-{number}-{}", "0123456789abcdef".repeat(64));
    for number in 0..2_000 {
        let now = begin + quarter * number;
        // The password is also in what ends.
        let both = [session(number), lasting.to_owned()];
        for value in both {
            let added = redactor.add(value.as_bytes(), forms_of, Some(now + quarter), now);
            added.unwrap_or_else(|refused| panic!("renewal {number}: {refused}"));
        }
    }
    let last = format!("{} {} {lasting}", session(1_999), session(1_996));
    assert_eq!(redactor.redact(&last), "*** *** ***", "the last hour is hidden");
    assert_eq!(
        redactor.redact(&session(3)),
        session(3),
        "what ended weeks ago is worth nothing"
    );
}

#[test]
fn what_does_not_fit_any_more_is_refused_and_nothing_is_forgotten_for_it() {
    let redactor = Redactor::new();
    let large = |number: u32| format!("{number:04}{}", "x".repeat(60 * 1024));
    let refused = (0..100).find_map(|number| redactor.add_secret(large(number).as_bytes()).err());
    assert!(matches!(refused, Some(SecretRefused::TooMany { .. })), "{refused:?}");
    let now = SystemTime::now();
    let session = redactor.add_session(&large(200).into_bytes(), now);
    assert!(matches!(session, Err(SecretRefused::TooMany { .. })), "{session:?}");
    assert_eq!(redactor.redact(&large(0)), "***");
}

#[test]
fn what_is_known_anyway_stays_where_it_does_not_show_more() {
    let redactor = Redactor::new();
    for secret in ["shop", "shop-Xy71-long", "täglich"] {
        redactor.add_secret(secret.as_bytes()).expect("a secret");
    }
    let left = |text: &str| redactor.redact_unless(text, |part| part == "shop");
    assert_eq!(left("arn:shop/shop-web:2"), "arn:shop/shop-web:2");
    assert_eq!(left("shop runs shop-Xy71-long, täglich"), "shop runs ***, ***");
    // Whoever reads both at once could not tell which of them is known.
    assert_eq!(left("shopshop-Xy71-long"), "***");
    assert_eq!(redactor.redact_unless("shop", |_| false), redactor.redact("shop"));
    assert_eq!(Redactor::new().redact_unless("shop", |_| false), "shop");
}

#[test]
fn two_redactors_look_at_once_and_what_only_one_knows_does_not_show_the_other() {
    let (first, always) = (Redactor::new(), Redactor::new());
    first.add_secret(b"middle").expect("a secret");
    first.add_secret(b"omega-and-more").expect("a secret");
    always.add_secret(b"alpha-middle-omega").expect("a secret");
    let left = |text: &str| first.redact_unless_beside(&always, text, |part| part == "middle");
    assert_eq!(left("the alpha-middle-omega, a middle"), "the ***, a middle");
    assert_eq!(left("alpha-middle-omega-and-more; omega-and-more"), "***; ***");
    assert_eq!(
        first.redact_unless_beside(&Redactor::new(), "a middle", |_| false),
        "a ***"
    );
    assert_eq!(
        Redactor::new().redact_unless_beside(&always, "a middle", |_| false),
        "a middle"
    );
}

/// Guards that what a task's secrets cost is one matcher's memory, however many steps have printed something.
#[test]
fn streams_that_wait_keep_no_matcher_of_their_own() {
    let redactor = Redactor::new();
    let mut streams: Vec<_> = (0..50).map(|_| redactor.stream()).collect();
    let mut made = Vec::new();
    for (number, stream) in streams.iter_mut().enumerate() {
        redactor
            .add_secret(format!("secret number {number}").as_bytes())
            .expect("a secret");
        assert_eq!(
            stream.write(b"a line, of secret number 0, ends here\n"),
            b"a line, of ***, ends here\n"
        );
        made.push(Arc::downgrade(
            &redactor.shared.secrets.lock().expect("unlocked").matcher(),
        ));
    }
    let kept = |made: &[std::sync::Weak<Matcher>]| made.iter().filter(|made| made.strong_count() > 0).count();
    assert_eq!(kept(&made), 1);
    // In the midst of one it is needed; at the end of the stream it is not.
    streams[0].write(b"secret num");
    redactor.add_secret(b"one more").expect("a secret");
    streams[1].write(b"a line\n");
    assert_eq!(kept(&made), 1);
    assert_eq!(streams[0].finish(), b"secret num");
    assert_eq!(kept(&made), 0);
}
