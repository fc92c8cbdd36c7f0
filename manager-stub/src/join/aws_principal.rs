//! Who AWS says a caller is. Names are compared exactly: there are no patterns.

use std::fmt;

use super::unproven::Unproven;

/// Who signed, in AWS's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AwsIdentity {
    /// Twelve digits.
    pub(crate) account: String,
    /// For example `arn:aws:sts::222222222222:assumed-role/deputy-agent/i-0abc`.
    pub(crate) arn: String,
    /// The same, taken apart.
    pub(crate) principal: AwsPrincipal,
}

/// What kind of caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AwsPrincipal {
    /// A session of this role; the session's name is the caller's own choice and says nothing.
    Role(String),
    /// An IAM user, with its path: `ci/deployer`. No rule names one: its keys do not end.
    User(String),
    /// The account's root user. No rule names one.
    Root,
}

impl fmt::Display for AwsPrincipal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role(name) => write!(f, "role {name}"),
            Self::User(name) => write!(f, "user {name}"),
            Self::Root => f.write_str("the root user"),
        }
    }
}

impl AwsIdentity {
    /// Takes an ARN of `GetCallerIdentity` apart.
    ///
    /// # Errors
    /// If it is of a kind that no rule can name, or of another account than AWS says beside it.
    pub(crate) fn of(account: &str, arn: &str) -> Result<Self, Unproven> {
        let unknown = || {
            Unproven::denied(
                format!("AWS says that the caller is {arn:?} of account {account:?}, which is no role, user or root"),
                "join with a role",
            )
        };
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        let &["arn", partition, service, "", of, resource] = parts.as_slice() else {
            return Err(unknown());
        };
        let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
        if !partition.starts_with("aws") || of != account || !is_account {
            return Err(unknown());
        }
        let named = |name: &str| !name.is_empty() && name.len() <= 576 && !name.contains(char::is_whitespace);
        let principal = match (service, resource.split_once('/')) {
            ("sts", Some(("assumed-role", session))) => match session.split_once('/') {
                Some((role, name)) if named(role) && named(name) && !name.contains('/') => {
                    AwsPrincipal::Role(role.to_owned())
                }
                _ => return Err(unknown()),
            },
            ("iam", Some(("user", name))) if named(name) => AwsPrincipal::User(name.to_owned()),
            ("iam", None) if resource == "root" => AwsPrincipal::Root,
            _ => return Err(unknown()),
        };
        Ok(Self {
            account: account.to_owned(),
            arn: arn.to_owned(),
            principal,
        })
    }

    /// Is it a session of this role of this account?
    pub(crate) fn is_role(&self, account: &str, role: &str) -> bool {
        self.account == account && matches!(&self.principal, AwsPrincipal::Role(name) if name == role)
    }

    /// The same for every session: `aws:222222222222:role/agent`.
    pub(crate) fn subject(&self) -> String {
        match &self.principal {
            AwsPrincipal::Role(name) => format!("aws:{}:role/{name}", self.account),
            AwsPrincipal::User(name) => format!("aws:{}:user/{name}", self.account),
            AwsPrincipal::Root => format!("aws:{}:root", self.account),
        }
    }
}

impl fmt::Display for AwsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of account {}", self.principal, self.account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: &str = "222222222222";

    fn identity(arn: &str) -> Result<AwsIdentity, Unproven> {
        AwsIdentity::of(ACCOUNT, arn)
    }

    #[test]
    fn a_caller_is_its_role_whatever_the_session_is_called() {
        let arn = "arn:aws:sts::222222222222:assumed-role/agent/i-0abc";
        assert_eq!(
            identity(arn).expect("a role").principal,
            AwsPrincipal::Role("agent".into())
        );
        let user = identity("arn:aws:iam::222222222222:user/ci/eu/bot").expect("a user");
        assert_eq!(user.principal, AwsPrincipal::User("ci/eu/bot".into()));
        assert_eq!(
            identity("arn:aws:iam::222222222222:root").expect("root").principal,
            AwsPrincipal::Root
        );
        for bad in [
            "arn:aws:sts::333333333333:assumed-role/agent/x",
            "arn:aws:sts::222222222222:assumed-role/agent",
            "arn:aws:sts::222222222222:assumed-role//x",
            "arn:aws:sts::222222222222:assumed-role/agent/a/b",
            "arn:aws:sts::222222222222:federated-user/agent",
            "arn:aws:iam::222222222222:role/agent",
            "arn:evil:sts::222222222222:assumed-role/agent/x",
            "agent",
            "",
        ] {
            assert!(identity(bad).is_err(), "{bad}");
        }
        assert!(AwsIdentity::of("2222", "arn:aws:iam::2222:root").is_err());
    }

    #[test]
    fn a_role_is_itself_and_nobody_that_is_called_alike() {
        let is_agent = |arn: &str| identity(arn).expect(arn).is_role(ACCOUNT, "agent");
        assert!(is_agent("arn:aws:sts::222222222222:assumed-role/agent/any"));
        assert!(!is_agent("arn:aws:sts::222222222222:assumed-role/agent2/any"));
        assert!(!is_agent("arn:aws:sts::222222222222:assumed-role/Agent/any"));
        assert!(!is_agent("arn:aws:sts::222222222222:assumed-role/x/agent"));
        assert!(!is_agent("arn:aws:iam::222222222222:user/agent"));
        assert!(!is_agent("arn:aws:iam::222222222222:root"));
        let other = AwsIdentity::of("333333333333", "arn:aws:sts::333333333333:assumed-role/agent/any");
        let other = other.expect("a role");
        assert!(!other.is_role(ACCOUNT, "agent"));
        assert_eq!(other.to_string(), "role agent of account 333333333333");
        assert_eq!(other.subject(), "aws:333333333333:role/agent");
    }
}
