//! An agent that has joined: whose id it is, and which of its certificates are good.

use deputy_task::id::Project;
use serde::{Deserialize, Serialize};

use super::table::Remembered;
use crate::trust::peer::{PeerCertificate, PeerName};

/// Certificates that are remembered of one agent. A connection outlives many of them; when its own is forgotten, it is
/// cut, and the agent makes a new one.
const MAX_CERTIFICATES: usize = 32;
/// A join whose answer is lost is answered again so often.
const MAX_REPEATS: u32 = 16;
/// An agent is remembered for so long after its last certificate. As long an expired one can be exchanged.
const REMEMBERED_FOR_MS: i64 = 30 * 24 * 3600 * 1000;

/// How the subjects of service accounts began before they had the name of a rule, which has no slash.
const KUBERNETES_WITHOUT_RULE: &str = "kubernetes:https://";

/// An agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentRecord {
    /// Its id.
    pub agent_id: String,
    /// Who proved to be it first; nobody else gets the id.
    pub subject: String,
    /// What its certificate in use was given: the rule that let it in. Before one is used, what the newest was given.
    pub rule: String,
    /// The pool.
    pub pool: String,
    /// It is given tasks of these only; empty means of all.
    #[serde(default)]
    pub projects: Vec<Project>,
    /// May it be here?
    pub standing: Standing,
    /// Unix milliseconds.
    pub joined_at_ms: i64,
    /// Newest last.
    pub certificates: Vec<CertificateRecord>,
}

/// What a join gives. It belongs to the certificate and goes on with its renewals; what later joins are given is theirs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Admission {
    /// The rule that let the agent in.
    pub rule: String,
    /// The pool.
    pub pool: String,
    /// It is given tasks of these only; empty means of all.
    pub projects: Vec<Project>,
}

/// May an agent be here?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "is")]
pub enum Standing {
    /// Yes.
    Active,
    /// Only if it joins again.
    Revoked {
        /// For people.
        reason: String,
    },
    /// No.
    Banned {
        /// For people.
        reason: String,
    },
}

/// A certificate of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateRecord {
    /// Hex.
    pub serial: String,
    /// SHA-256 of its public key's bits, hex.
    pub key: String,
    /// The key that its line began with: a renewal goes on with the line, a join with another key begins one. What an
    /// agent holds belongs to a line, not to whoever has its id.
    #[serde(default)]
    pub line: String,
    /// Unix milliseconds.
    #[serde(default)]
    pub not_before_ms: i64,
    /// Unix milliseconds.
    pub not_after_ms: i64,
    /// Was it used yet?
    pub used: bool,
    /// When a newer one was used first; connections made before then stay. Unix milliseconds.
    pub superseded_at_ms: Option<i64>,
    /// Ended by an administrator.
    pub revoked: bool,
    /// The join token that it was made for; none after a renewal or a join by another proof.
    #[serde(default)]
    pub token: Option<String>,
    /// How often its join was asked for again.
    #[serde(default)]
    pub repeats: u32,
    /// What its join gave, if that is not what the record says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admission: Option<Admission>,
}

impl CertificateRecord {
    /// What a certificate says of itself.
    #[must_use]
    pub fn regained(certificate: &PeerCertificate) -> Self {
        Self {
            serial: certificate.serial.clone(),
            key: certificate.key.clone(),
            line: certificate.line.clone(),
            not_before_ms: certificate.not_before_ms,
            not_after_ms: certificate.not_after_ms,
            used: false,
            superseded_at_ms: None,
            revoked: false,
            token: None,
            repeats: 0,
            admission: None,
        }
    }
}

impl Remembered for AgentRecord {
    const KIND: &'static str = "agent";

    fn upgraded(mut self) -> Self {
        // `kubernetes:ISSUER:NAMESPACE/ACCOUNT` did not say which cluster of that issuer; its rule does.
        if let Some(account) = self.subject.strip_prefix(KUBERNETES_WITHOUT_RULE) {
            self.subject = format!("kubernetes:{}:https://{account}", self.rule);
        }
        self
    }
}

/// What a certificate may do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    /// Everything an agent may.
    Good,
    /// The same, and it is the first time: older ones end now.
    First,
    /// Nothing, for this reason.
    Refused(String),
}

impl AgentRecord {
    /// Why the agent may not be here; none if it may.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        let id = &self.agent_id;
        match &self.standing {
            Standing::Active => None,
            Standing::Revoked { reason } => Some(format!("the agent {id} was revoked: {reason}")),
            Standing::Banned { reason } => Some(format!("the agent {id} is banned: {reason}")),
        }
    }

    /// The certificate with this serial number, if nobody has ended it.
    ///
    /// # Errors
    /// Why it is good for nothing any more, whenever its connection was made.
    pub fn unended(&self, serial: &str) -> Result<&CertificateRecord, String> {
        let id = &self.agent_id;
        if let Some(why) = self.refusal() {
            return Err(why);
        }
        let Some(found) = self.certificates.iter().find(|one| one.serial == serial) else {
            return Err(format!("the certificate {serial} is none of the agent {id}'s"));
        };
        if found.revoked {
            return Err(format!("the certificate {serial} of the agent {id} was revoked"));
        }
        // A connection from before a renewal goes on; one from before the id went to another key does not.
        if found.superseded_at_ms.is_some() && self.line_in_use().is_some_and(|line| line != found.line) {
            return Err(self.replaced(serial));
        }
        Ok(found)
    }

    fn replaced(&self, serial: &str) -> String {
        let id = &self.agent_id;
        format!("the certificate {serial} of the agent {id} was replaced by a newer one that is in use")
    }

    /// May this certificate be used, on a connection that was made then?
    #[must_use]
    pub fn may_use(&self, serial: &str, connected_at_ms: i64, now_ms: i64) -> Use {
        let id = &self.agent_id;
        let found = match self.unended(serial) {
            Ok(found) => found,
            Err(why) => return Use::Refused(why),
        };
        if found.superseded_at_ms.is_some_and(|at_ms| at_ms <= connected_at_ms) {
            return Use::Refused(self.replaced(serial));
        }
        // A connection outlives the certificate that it was made with, as long as the agent goes on renewing.
        if self
            .certificates
            .iter()
            .all(|one| one.revoked || one.not_after_ms <= now_ms)
        {
            return Use::Refused(format!("the certificates of the agent {id} have expired"));
        }
        if found.used { Use::Good } else { Use::First }
    }

    /// The certificate was used; the ones before it end for new connections, and what it was given counts.
    pub fn used(&mut self, serial: &str, now_ms: i64) {
        let Some(place) = self.certificates.iter().position(|one| one.serial == serial) else {
            return;
        };
        for older in &mut self.certificates[..place] {
            older.superseded_at_ms.get_or_insert(now_ms);
        }
        self.certificates[place].used = true;
        let in_use = self.in_use().map(|one| self.given(one));
        if let Some(admission) = in_use {
            self.admit(admission);
        }
    }

    /// What counts for it.
    #[must_use]
    pub fn admission(&self) -> Admission {
        Admission {
            rule: self.rule.clone(),
            pool: self.pool.clone(),
            projects: self.projects.clone(),
        }
    }

    /// What a certificate was given.
    #[must_use]
    pub fn admission_of(&self, serial: &str) -> Option<Admission> {
        let mut all = self.certificates.iter();
        all.find(|one| one.serial == serial).map(|one| self.given(one))
    }

    /// From now on this counts for it; its certificates keep what each was given.
    pub fn admit(&mut self, admission: Admission) {
        let before = self.admission();
        for one in &mut self.certificates {
            let given = one.admission.take().unwrap_or_else(|| before.clone());
            one.admission = (given != admission).then_some(given);
        }
        Admission {
            rule: self.rule,
            pool: self.pool,
            projects: self.projects,
        } = admission;
    }

    fn given(&self, certificate: &CertificateRecord) -> Admission {
        certificate.admission.clone().unwrap_or_else(|| self.admission())
    }

    /// A certificate was made for it, with what its join gave.
    pub fn add(&mut self, certificate: CertificateRecord, admission: Admission) {
        let admission = (admission != self.admission()).then_some(admission);
        self.certificates.push(CertificateRecord {
            admission,
            ..certificate
        });
        if self.certificates.len() > MAX_CERTIFICATES {
            // One that was replaced without ever being used is missed by nobody.
            let last = self.certificates.len() - 1;
            let unused = self.certificates[..last].iter().position(|one| !one.used);
            self.certificates.remove(unused.unwrap_or(0));
        }
    }

    /// Is this certificate of our authority the agent's, made after everything that is remembered of it? Then the store is
    /// an older copy: it goes on from the newest certificate of the same line that it does remember.
    #[must_use]
    pub fn has_lost(&self, certificate: &PeerCertificate, now_ms: i64) -> bool {
        let is_known = self.certificates.iter().any(|one| one.serial == certificate.serial);
        self.standing == Standing::Active
            && !is_known
            && certificate.not_after_ms > now_ms
            && !certificate.line.is_empty()
            && self.newest().is_some_and(|newest| {
                let is_after = newest.not_before_ms > 0 && newest.not_before_ms < certificate.not_before_ms;
                let pool = self.given(newest).pool;
                // Another pool is another join, of which the projects are not known.
                let is_given_alike = matches!(&certificate.name, PeerName::Agent { pool: of, .. } if *of == pool);
                !newest.revoked && newest.line == certificate.line && is_after && is_given_alike
            })
    }

    /// The line of the certificate that was taken into use last; what was revoked holds nothing.
    #[must_use]
    pub fn line_in_use(&self) -> Option<&str> {
        self.in_use().map(|one| one.line.as_str())
    }

    fn in_use(&self) -> Option<&CertificateRecord> {
        let mut newest_first = self.certificates.iter().rev();
        newest_first.find(|one| one.used && !one.revoked)
    }

    /// The line that a certificate is of.
    #[must_use]
    pub fn line_of(&self, serial: &str) -> Option<&str> {
        let mut all = self.certificates.iter();
        all.find(|one| one.serial == serial).map(|one| one.line.as_str())
    }

    /// The line that a join with this key goes on with; if the key was not seen yet, it begins one.
    #[must_use]
    pub fn line_of_key<'a>(&'a self, key: &'a str) -> &'a str {
        let mut newest_first = self.certificates.iter().rev();
        newest_first
            .find(|one| one.key == key)
            .map_or(key, |one| one.line.as_str())
    }

    /// Has it joined, and was it never heard of since?
    #[must_use]
    pub fn is_unseen(&self, now_ms: i64) -> bool {
        self.has_good(now_ms) && self.certificates.iter().all(|one| !one.used)
    }

    /// The newest certificate.
    #[must_use]
    pub fn newest(&self) -> Option<&CertificateRecord> {
        self.certificates.last()
    }

    /// When its last certificate ends or ended, Unix milliseconds.
    #[must_use]
    pub fn ends_at_ms(&self) -> i64 {
        let ends = self.certificates.iter().map(|one| one.not_after_ms);
        ends.max().unwrap_or(self.joined_at_ms)
    }

    /// Has it a certificate that is good, as far as dates go?
    #[must_use]
    pub fn has_good(&self, now_ms: i64) -> bool {
        let mut all = self.certificates.iter();
        self.standing == Standing::Active && all.any(|one| !one.revoked && one.not_after_ms > now_ms)
    }

    /// Is there no reason to remember it any more? A ban is meant to last.
    #[must_use]
    pub fn is_over(&self, now_ms: i64) -> bool {
        !matches!(self.standing, Standing::Banned { .. })
            && now_ms.saturating_sub(self.ends_at_ms()) > REMEMBERED_FOR_MS
    }

    /// The certificate whose join is only asked for again by a join with this key and this token: the newest one, as long
    /// as nobody has used or revoked it.
    #[must_use]
    pub fn asked_again(&self, key: &str, token: Option<&str>) -> Option<&CertificateRecord> {
        let newest = self.newest().filter(|_| self.standing == Standing::Active)?;
        let is_unanswered = !newest.used && !newest.revoked && newest.repeats < MAX_REPEATS;
        (is_unanswered && newest.key == key && newest.token.as_deref() == token).then_some(newest)
    }

    /// Ends every certificate; how many of them were good.
    pub fn end(&mut self, standing: Standing, now_ms: i64) -> u32 {
        let mut ended = 0;
        for one in &mut self.certificates {
            if !one.revoked && one.not_after_ms > now_ms && one.superseded_at_ms.is_none() {
                ended += 1;
            }
            one.revoked = true;
        }
        self.standing = standing;
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(serial: &str, not_after_ms: i64) -> CertificateRecord {
        CertificateRecord {
            serial: serial.into(),
            key: serial.into(),
            line: "1".into(),
            not_before_ms: not_after_ms - 50,
            not_after_ms,
            used: false,
            superseded_at_ms: None,
            revoked: false,
            token: None,
            repeats: 0,
            admission: None,
        }
    }

    fn agent() -> AgentRecord {
        AgentRecord {
            agent_id: "a".into(),
            subject: "s".into(),
            rule: "r".into(),
            pool: "p".into(),
            projects: Vec::new(),
            standing: Standing::Active,
            joined_at_ms: 0,
            certificates: vec![certificate("1", 100), certificate("2", 200)],
        }
    }

    fn admission(pool: &str) -> Admission {
        Admission {
            rule: "r".into(),
            pool: pool.into(),
            projects: Vec::new(),
        }
    }

    #[test]
    fn each_certificate_keeps_what_it_was_given_and_that_of_the_one_in_use_counts() {
        let mut agent = agent();
        agent.used("2", 5);
        agent.add(certificate("3", 300), admission("q"));
        agent.add(certificate("4", 400), admission("p"));
        let of = |agent: &AgentRecord| ["2", "3", "4"].map(|serial| agent.admission_of(serial).expect("known").pool);
        assert_eq!(
            (agent.pool.as_str(), of(&agent)),
            ("p", ["p", "q", "p"].map(Into::into))
        );
        agent.used("3", 20);
        assert_eq!(
            (agent.pool.as_str(), of(&agent)),
            ("q", ["p", "q", "p"].map(Into::into))
        );
        // A newer one that was used counts, and what is the record's is not said twice.
        agent.used("4", 30);
        agent.used("3", 40);
        assert_eq!(
            (agent.pool.as_str(), of(&agent)),
            ("p", ["p", "q", "p"].map(Into::into))
        );
        let said: Vec<bool> = agent.certificates.iter().map(|one| one.admission.is_some()).collect();
        assert_eq!(said, [false, false, true, false]);
        assert_eq!(agent.admission_of("5"), None);
    }

    #[test]
    fn old_and_new_are_good_until_the_new_one_is_used() {
        let mut agent = agent();
        agent.used("1", 5);
        assert_eq!(agent.may_use("1", 10, 10), Use::Good);
        assert_eq!(agent.may_use("2", 10, 10), Use::First);
        agent.used("2", 20);
        assert_eq!(agent.may_use("2", 20, 20), Use::Good);
        assert_eq!(
            agent.may_use("1", 10, 21),
            Use::Good,
            "a connection from before goes on"
        );
        assert!(matches!(agent.may_use("1", 21, 21), Use::Refused(why) if why.contains("replaced by a newer one")));
    }

    #[test]
    fn a_certificate_of_another_key_ends_the_connections_of_the_one_before() {
        let mut agent = agent();
        agent.used("2", 5);
        let other = CertificateRecord {
            line: "other".into(),
            ..certificate("3", 300)
        };
        agent.add(other, admission("p"));
        assert_eq!(agent.may_use("2", 1, 10), Use::Good, "the new one is not in use yet");
        agent.used("3", 20);
        for before in ["1", "2"] {
            assert!(
                matches!(agent.may_use(before, 1, 21), Use::Refused(why) if why.contains("replaced by a newer one"))
            );
        }
        assert_eq!(agent.may_use("3", 20, 21), Use::Good);
        assert_eq!((agent.line_in_use(), agent.line_of("2")), (Some("other"), Some("1")));
        assert_eq!((agent.line_of_key("2"), agent.line_of_key("new")), ("1", "new"));
    }

    #[test]
    fn only_what_is_newer_than_everything_of_its_line_was_lost_with_the_store() {
        let shown = PeerCertificate {
            serial: "3".into(),
            name: PeerName::Agent {
                pool: "p".into(),
                agent: "a".into(),
            },
            key: "k".into(),
            line: "1".into(),
            not_before_ms: 160,
            not_after_ms: 300,
        };
        let mut agent = agent();
        assert!(agent.has_lost(&shown, 170));
        assert!(!agent.has_lost(&shown, 300), "it has ended");
        let changed = |change: fn(&mut PeerCertificate)| {
            let mut other = shown.clone();
            change(&mut other);
            other
        };
        for other in [
            changed(|other| other.line = "other".into()),
            changed(|other| other.line.clear()),
            changed(|other| other.not_before_ms = 150),
            changed(|other| other.serial = "1".into()),
            changed(|other| {
                other.name = PeerName::Agent {
                    pool: "another".into(),
                    agent: "a".into(),
                };
            }),
        ] {
            assert!(!agent.has_lost(&other, 170), "{other:?}");
        }
        agent.add(CertificateRecord::regained(&shown), admission("p"));
        assert!(!agent.has_lost(&shown, 170), "it is known now");
        assert_eq!(agent.may_use("3", 170, 170), Use::First);
        agent.end(Standing::Revoked { reason: "gone".into() }, 180);
        agent.standing = Standing::Active;
        let newer = changed(|other| {
            other.serial = "4".into();
            other.not_before_ms = 170;
        });
        assert!(!agent.has_lost(&newer, 190), "its line was revoked");
    }

    #[test]
    fn a_connection_ends_when_the_agent_has_no_certificate_that_is_good() {
        let mut agent = agent();
        agent.used("1", 5);
        assert_eq!(agent.may_use("1", 10, 150), Use::Good, "the second is good");
        assert!(matches!(agent.may_use("1", 10, 200), Use::Refused(why) if why.contains("expired")));
        assert!(matches!(agent.may_use("3", 10, 10), Use::Refused(_)));
    }

    #[test]
    fn the_certificate_in_use_is_remembered_however_often_it_is_renewed() {
        let mut agent = agent();
        agent.used("1", 5);
        for number in 3..100 {
            agent.add(certificate(&number.to_string(), 1000), admission("p"));
        }
        assert_eq!(agent.certificates.len(), MAX_CERTIFICATES);
        assert_eq!(agent.may_use("1", 10, 10), Use::Good);
        assert_eq!(agent.may_use("99", 10, 10), Use::First);
    }

    #[test]
    fn an_agent_is_over_long_after_its_last_certificate_unless_it_is_banned() {
        let mut agent = agent();
        assert!(agent.has_good(199) && !agent.has_good(200));
        assert!(!agent.is_over(200 + REMEMBERED_FOR_MS));
        assert!(agent.is_over(201 + REMEMBERED_FOR_MS));
        agent.end(Standing::Revoked { reason: "gone".into() }, 10);
        assert!(!agent.has_good(11) && !agent.is_over(11) && agent.is_over(201 + REMEMBERED_FOR_MS));
        agent.standing = Standing::Banned { reason: "evil".into() };
        assert!(!agent.is_over(201 + REMEMBERED_FOR_MS));
    }

    #[test]
    fn a_revoked_agent_has_no_good_certificate() {
        let mut agent = agent();
        let revoked = Standing::Revoked { reason: "gone".into() };
        assert_eq!(agent.end(revoked, 150), 1, "one had expired");
        assert!(matches!(agent.may_use("2", 10, 10), Use::Refused(why) if why.contains("was revoked: gone")));
        agent.standing = Standing::Active;
        agent.add(certificate("3", 300), admission("p"));
        assert!(
            matches!(agent.may_use("2", 10, 10), Use::Refused(_)),
            "the old ones stay revoked"
        );
        assert_eq!(agent.may_use("3", 10, 10), Use::First);
    }
}
