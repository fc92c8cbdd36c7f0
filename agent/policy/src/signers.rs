//! Whose signatures count here: public keys in a folder of PEM files, or in one file. The name of a
//! file, without `.pem`, is the signer's name in policies. Read for each question: a key that was taken away
//! counts no more.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use deputy_task::signed::Signed;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;

use crate::guarded;

/// Most keys of a folder.
const MAX_KEYS: usize = 256;
/// Most bytes of one key file.
const MAX_KEY_BYTES: u64 = 16 * 1024;

/// What follows from trusted signers without a pool key.
const UNSEALED: &str = "it has trusted signers and no pool key: a signed task that is interrupted can neither go on nor be undone where only signers may; give the pool a key (--pool-key-file)";

/// Where the keys are.
#[derive(Debug, Clone, Default)]
pub struct TrustedSigners(Option<Arc<PathBuf>>);

/// The keys cannot be read, so no signature can be judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the trusted signers in {path} cannot be used: {why}")]
pub struct BadSigners {
    path: String,
    why: String,
}

/// What a signature amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signature {
    /// It is good, and by this signer. Its time is for others to judge.
    By(String),
    /// It is by nobody whom this agent knows.
    Unknown,
}

impl TrustedSigners {
    /// The keys in a folder, or the one in a file.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self(Some(Arc::new(path)))
    }

    /// Does nobody's signature count?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// What people should see wherever an agent without a pool key is shown.
    #[must_use]
    pub fn without_pool_key(&self) -> Option<&'static str> {
        (!self.is_empty()).then_some(UNSEALED)
    }

    /// The names of the signers, for people.
    ///
    /// # Errors
    /// A key cannot be read.
    pub fn names(&self) -> Result<Vec<String>, BadSigners> {
        Ok(self.keys()?.into_iter().map(|(name, _)| name).collect())
    }

    /// Whose signature is it?
    ///
    /// # Errors
    /// The keys cannot be read.
    pub fn verify(&self, signed: &Signed) -> Result<Signature, BadSigners> {
        let keys = self.keys()?;
        let (Ok(statement), Ok(signature)) = (signed.statement(), hex::decode(&signed.signature)) else {
            return Ok(Signature::Unknown);
        };
        let by = keys.into_iter().find(|(_, key)| {
            let algorithms: [&dyn VerificationAlgorithm; 2] = [&ED25519, &ECDSA_P256_SHA256_ASN1];
            algorithms.into_iter().any(|algorithm| {
                UnparsedPublicKey::new(algorithm, key)
                    .verify(&statement, &signature)
                    .is_ok()
            })
        });
        Ok(match by {
            None => Signature::Unknown,
            Some((name, _)) => Signature::By(name),
        })
    }

    fn keys(&self) -> Result<Vec<(String, Vec<u8>)>, BadSigners> {
        let Some(path) = &self.0 else { return Ok(Vec::new()) };
        let bad = |why: String| BadSigners {
            path: path.display().to_string(),
            why,
        };
        // Whoever can write a key can vouch for every task.
        guarded::check(path).map_err(|unguarded| bad(unguarded.to_string()))?;
        let mut files = vec![path.as_ref().clone()];
        if path.is_dir() {
            let entries = std::fs::read_dir(path.as_ref()).map_err(|error| bad(error.to_string()))?;
            // A mounted ConfigMap has links and hidden folders beside its files.
            files = entries
                .filter_map(|entry| entry.ok().map(|entry| entry.path()))
                .filter(|file| file.extension().is_some_and(|extension| extension == "pem") && file.is_file())
                .collect();
            files.sort();
            if files.len() > MAX_KEYS {
                return Err(bad(format!("there are more than {MAX_KEYS} keys")));
            }
        }
        files
            .iter()
            .map(|file| key(file).map_err(|why| bad(format!("{}: {why}", file.display()))))
            .collect()
    }
}

fn key(file: &Path) -> Result<(String, Vec<u8>), String> {
    guarded::check(file).map_err(|unguarded| unguarded.to_string())?;
    let metadata = std::fs::metadata(file).map_err(|error| error.to_string())?;
    if metadata.len() > MAX_KEY_BYTES {
        return Err(format!("it has more than {MAX_KEY_BYTES} bytes"));
    }
    let text = std::fs::read(file).map_err(|error| error.to_string())?;
    let spki = SubjectPublicKeyInfoDer::from_pem_slice(&text)
        .map_err(|error| format!("it holds no public key (`-----BEGIN PUBLIC KEY-----`): {error}"))?;
    let der = spki.as_ref().to_vec();
    let known = aws_lc_rs::signature::ParsedPublicKey::new(&ED25519, &der).is_ok()
        || aws_lc_rs::signature::ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &der).is_ok();
    if !known {
        return Err("the key is neither Ed25519 nor ECDSA P-256".into());
    }
    let name = file
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    Ok((name, der))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
    use base64::Engine;

    use super::*;

    fn pem(der: &[u8]) -> String {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    }

    fn task() -> Signed {
        Signed {
            document: "kind: Task\n".into(),
            inputs: "{}".into(),
            bundles: BTreeMap::new(),
            project: "default".into(),
            request: "r-1".into(),
            not_after: 100,
            signature: String::new(),
        }
    }

    #[test]
    fn both_kinds_of_keys_are_verified_and_everything_else_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let edwards = Ed25519KeyPair::generate().expect("a key");
        let curve = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key");
        let stranger = Ed25519KeyPair::generate().expect("a key");
        let write = |name: &str, der: &[u8]| std::fs::write(folder.path().join(name), pem(der)).expect("written");
        write("pipeline.pem", edwards.public_key().as_der().expect("der").as_ref());
        write("kms.pem", curve.public_key().as_der().expect("der").as_ref());
        let signers = TrustedSigners::at(folder.path().to_owned());
        assert_eq!(signers.names().expect("read"), ["kms", "pipeline"]);
        let statement = task().statement().expect("signable");
        let with = |signature: &[u8]| Signed {
            signature: hex::encode(signature),
            ..task()
        };
        let good = with(edwards.sign(&statement).as_ref());
        let by_curve = with(curve.sign(&SystemRandom::new(), &statement).expect("signed").as_ref());
        let verify = |task: &Signed| signers.verify(task).expect("keys");
        assert_eq!(verify(&good), Signature::By("pipeline".into()));
        assert_eq!(verify(&by_curve), Signature::By("kms".into()));
        assert_eq!(verify(&with(stranger.sign(&statement).as_ref())), Signature::Unknown);
        let tampered = Signed {
            document: "kind: Other\n".into(),
            ..good
        };
        assert_eq!(verify(&tampered), Signature::Unknown);
        std::fs::write(folder.path().join("broken.pem"), "no key").expect("written");
        let why = signers.verify(&by_curve).expect_err("unusable").to_string();
        assert!(why.contains("broken.pem") && why.contains("BEGIN PUBLIC KEY"), "{why}");
    }

    #[test]
    fn signers_without_a_pool_key_are_warned_about() {
        let signers = TrustedSigners::at("trusted".into());
        assert!(signers.without_pool_key().expect("one").contains("--pool-key-file"));
        assert_eq!(TrustedSigners::default().without_pool_key(), None);
    }

    /// Guards that nobody who can write beside or into the keys vouches for anything.
    #[test]
    fn keys_that_others_can_write_are_no_keys() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("signers");
        std::fs::create_dir(&folder).expect("made");
        let key = Ed25519KeyPair::generate().expect("a key");
        let file = folder.join("pipeline.pem");
        std::fs::write(&file, pem(key.public_key().as_der().expect("der").as_ref())).expect("written");
        let signers = TrustedSigners::at(folder.clone());
        assert_eq!(signers.names().expect("good"), ["pipeline"]);
        for (path, mode, good) in [(&file, 0o664, 0o644), (&folder, 0o777, 0o755), (&folder, 0o775, 0o755)] {
            let set = |mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("mode");
            set(mode);
            let why = signers.verify(&task()).expect_err("not used").to_string();
            assert!(why.contains("can be written by") && why.contains("chmod"), "{why}");
            set(good);
        }
        assert_eq!(signers.names().expect("mended"), ["pipeline"]);
    }
}
