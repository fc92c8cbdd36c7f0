//! Which method is for whom. A method that is not in the table is for nobody.

use crate::registry::Scope;

/// Whom a method is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Anybody who reaches the manager.
    Anyone,
    /// Agents with a certificate.
    Agent,
    /// People and pipelines with any scope.
    AnyUser,
    /// People and pipelines with this scope.
    User(Scope),
}

/// Every method that is served.
pub const TABLE: &[(&str, Who)] = &[
    // Joining is how one gets credentials; the proof is in the call.
    ("/deputy.v1.Enrollment/Challenge", Who::Anyone),
    ("/deputy.v1.Enrollment/Join", Who::Anyone),
    ("/deputy.v1.Enrollment/CheckJoin", Who::Anyone),
    ("/deputy.v1.Enrollment/RenewExpired", Who::Anyone),
    ("/deputy.v1.Agent/Session", Who::Agent),
    ("/deputy.v1.Agent/PushLogs", Who::Agent),
    ("/deputy.v1.Agent/PutBlob", Who::Agent),
    ("/deputy.v1.Agent/FetchBlob", Who::Agent),
    ("/deputy.v1.Agent/Exchange", Who::Agent),
    ("/deputy.v1.Agent/MintToken", Who::Agent),
    ("/deputy.v1.Agent/RenewCertificate", Who::Agent),
    ("/deputy.v1.Tasks/Submit", Who::User(Scope::Submit)),
    ("/deputy.v1.Tasks/PutBundle", Who::User(Scope::Submit)),
    ("/deputy.v1.Tasks/Cancel", Who::User(Scope::Submit)),
    ("/deputy.v1.Tasks/Retry", Who::User(Scope::Submit)),
    ("/deputy.v1.Tasks/Resolve", Who::User(Scope::Submit)),
    ("/deputy.v1.Tasks/Get", Who::User(Scope::Read)),
    ("/deputy.v1.Tasks/List", Who::User(Scope::Read)),
    ("/deputy.v1.Tasks/Watch", Who::User(Scope::Read)),
    ("/deputy.v1.Tasks/TailLogs", Who::User(Scope::Read)),
    ("/deputy.v1.Tasks/Explain", Who::User(Scope::Read)),
    ("/deputy.v1.Fleet/List", Who::User(Scope::Administer)),
    ("/deputy.v1.Fleet/Explain", Who::User(Scope::Administer)),
    ("/deputy.v1.Fleet/Drain", Who::User(Scope::Administer)),
    ("/deputy.v1.Fleet/Revoke", Who::User(Scope::Administer)),
    ("/deputy.v1.Fleet/Ban", Who::User(Scope::Administer)),
    ("/deputy.v1.Fleet/Unban", Who::User(Scope::Administer)),
    ("/deputy.v1.Fleet/Forget", Who::User(Scope::Administer)),
    ("/deputy.v1.Fleet/CreateJoinRule", Who::User(Scope::Administer)),
    ("/deputy.v1.Fleet/ListJoinRules", Who::User(Scope::Administer)),
    ("/deputy.v1.Fleet/RemoveJoinRule", Who::User(Scope::Administer)),
    ("/deputy.v1.Fleet/CreateJoinToken", Who::User(Scope::Administer)),
    ("/deputy.v1.Fleet/ListJoinTokens", Who::User(Scope::Administer)),
    ("/deputy.v1.Fleet/RevokeJoinToken", Who::User(Scope::Administer)),
    ("/deputy.v1.Fleet/CreateToken", Who::User(Scope::Administer)),
    ("/deputy.v1.Fleet/ListTokens", Who::User(Scope::Administer)),
    ("/deputy.v1.Fleet/RevokeToken", Who::User(Scope::Administer)),
    // What a load balancer asks, without credentials; the answer says only that the process serves.
    ("/grpc.health.v1.Health/Check", Who::Anyone),
    ("/grpc.health.v1.Health/Watch", Who::Anyone),
    (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        Who::AnyUser,
    ),
];

/// Whom the method at this path is for; `None` if there is no such method.
#[must_use]
pub fn who(path: &str) -> Option<Who> {
    TABLE.iter().find(|(method, _)| *method == path).map(|(_, who)| *who)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn every_method_of_the_contract_has_a_row_and_every_row_a_method() {
        let set = prost_types::FileDescriptorSet::decode(deputy_proto::v1::FILE_DESCRIPTOR_SET).expect("descriptors");
        let mut methods = Vec::new();
        for file in set.file {
            for service in &file.service {
                let of = |method: &prost_types::MethodDescriptorProto| {
                    format!("/{}.{}/{}", file.package(), service.name(), method.name())
                };
                methods.extend(service.method.iter().map(of));
            }
        }
        for method in &methods {
            assert!(
                who(method).is_some(),
                "{method} has no row in the table of who may call what"
            );
        }
        for (row, _) in TABLE.iter().filter(|(row, _)| row.starts_with("/deputy.")) {
            assert!(methods.iter().any(|method| method == row), "{row} is no method");
        }
    }
}
