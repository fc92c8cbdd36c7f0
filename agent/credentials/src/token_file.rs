//! A token in a file that somebody else renews: read anew each time it is needed, whole or not at all.

use std::io::Read;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// Longest token that is read. Kubernetes's have about 1 KiB.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;

/// The token, whole. A file that is being replaced may be there and empty for a moment: the next reader finds it.
pub(crate) fn read(file: &Path) -> Result<String, String> {
    let token = read_any(file)?;
    if token.split('.').count() != 3 {
        return Err("holds no token of three parts; it is perhaps written at this moment".into());
    }
    Ok(token)
}

/// The same for a token that need not be a JSON Web Token.
pub(crate) fn read_any(file: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = std::fs::File::open(file).and_then(|file| file.take(MAX_TOKEN_BYTES + 1).read_to_string(&mut text));
    read.map_err(|error| format!("cannot be read: {error}"))?;
    let token = text.trim();
    if token.is_empty() {
        return Err("is empty".into());
    }
    if text.len() as u64 > MAX_TOKEN_BYTES {
        return Err(format!("is longer than {MAX_TOKEN_BYTES} bytes"));
    }
    if is_cut(token) {
        return Err("ends within its signature; it is perhaps written at this moment".into());
    }
    Ok(token.to_owned())
}

/// What a token says of itself.
#[derive(Deserialize)]
struct Header {
    alg: String,
}

/// Is its signature shorter than one of its algorithm can be? Of what is no JSON Web Token nothing is said.
fn is_cut(token: &str) -> bool {
    let (header, _) = token.split_once('.').unwrap_or_default();
    let (_, signature) = token.rsplit_once('.').unwrap_or_default();
    let header = URL_SAFE_NO_PAD.decode(header).ok();
    let header = header.and_then(|json| serde_json::from_slice::<Header>(&json).ok());
    let Some(Header { alg }) = header else { return false };
    let bytes = signature.len() * 3 / 4;
    match alg.as_str() {
        // As long as the key, which has 2048 bits or more, in whole words.
        "RS256" | "RS384" | "RS512" | "PS256" | "PS384" | "PS512" => bytes < 256 || !bytes.is_multiple_of(32),
        "ES256" => bytes < 64,
        "ES384" => bytes < 96,
        "ES512" => bytes < 132,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_ends_within_its_signature_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        for (alg, bytes) in [("RS256", 256), ("RS256", 384), ("ES256", 64)] {
            let header = URL_SAFE_NO_PAD.encode(format!("{{\"alg\":\"{alg}\"}}"));
            let whole = format!("{header}.e30.{}", URL_SAFE_NO_PAD.encode(vec![7; bytes]));
            std::fs::write(&file, &whole).expect("written");
            assert_eq!(read(&file).as_deref(), Ok(&*whole));
            for cut in [1, 10, 60] {
                std::fs::write(&file, &whole[..whole.len() - cut]).expect("written");
                let told = read(&file).expect_err("cut");
                assert!(told.contains("ends within its signature"), "{alg} {cut}: {told}");
            }
        }
    }
}
