//! `deputy fleet join-rule`, `join-token` and `token`: who may join and who may call.

use std::path::Path;
use std::time::Duration;

use deputy_proto::v1;
use deputy_proto::v1::join_rule::Proof;
use serde_json::{Value, json};

use super::context::Context;
use super::new_key::NewKey;
use crate::args::{JoinRule, JoinToken, NewJoinRule, Scope, Token};
use crate::client::Manager;
use crate::error::{CliError, Exit};
use crate::render::{access_table, moment, safe};
use crate::screen::{stderr_colour, to_stderr};

pub(super) async fn join_rule(context: &mut Context, manager: &Manager, args: JoinRule) -> Result<Exit, CliError> {
    let mut fleet = manager.fleet();
    match args {
        JoinRule::Create(new) => {
            let rule = Some(rule_of(*new)?);
            let request = Manager::call(v1::CreateJoinRuleRequest { rule });
            let answer = fleet.create_join_rule(request).await;
            let answer = answer.map_err(manager.failed("make the join rule"))?.into_inner();
            let rule = answer.rule.unwrap_or_default();
            let line = format!(
                "{}: {} may join the pool {}",
                safe(&rule.name),
                who(&rule),
                safe(&rule.pool)
            );
            context.tell(&[line], || rule_json(&rule))
        }
        JoinRule::List => {
            let answer = fleet.list_join_rules(Manager::call(v1::ListJoinRulesRequest {})).await;
            let rules = answer
                .map_err(manager.failed("list the join rules"))?
                .into_inner()
                .rules;
            let row = |rule: &v1::JoinRule| vec![safe(&rule.name), safe(&rule.pool), who(rule), safe(&rule.created_by)];
            let lines = access_table(&["RULE", "POOL", "WHO", "MADE BY"], rules.iter().map(row).collect());
            context.tell(
                &lines,
                || json!({ "joinRules": rules.iter().map(rule_json).collect::<Vec<_>>() }),
            )
        }
        JoinRule::Remove { name } => {
            let request = Manager::call(v1::RemoveJoinRuleRequest { name: name.clone() });
            let answer = fleet.remove_join_rule(request).await;
            answer.map_err(manager.failed("remove the join rule"))?;
            let line = format!("{} is removed; agents that joined by it stay", safe(&name));
            context.tell(&[line], || json!({ "removed": name }))
        }
    }
}

pub(super) async fn join_token(context: &mut Context, manager: &Manager, args: JoinToken) -> Result<Exit, CliError> {
    let mut fleet = manager.fleet();
    match args {
        JoinToken::Create { rule, uses, life } => {
            let life_ms = millis(life);
            let request = Manager::call(v1::CreateJoinTokenRequest { rule, uses, life_ms });
            let answer = fleet.create_join_token(request).await;
            let answer = answer.map_err(manager.failed("make the join token"))?.into_inner();
            let info = answer.info.unwrap_or_default();
            shown_once(
                context,
                &info.id,
                &format!("good for {} joins until {}", info.max_uses, moment(info.expires_at_ms)),
            );
            context.tell(
                std::slice::from_ref(&answer.token),
                || json!({ "token": answer.token, "info": join_token_json(&info) }),
            )
        }
        JoinToken::List => {
            let answer = fleet
                .list_join_tokens(Manager::call(v1::ListJoinTokensRequest {}))
                .await;
            let tokens = answer
                .map_err(manager.failed("list the join tokens"))?
                .into_inner()
                .tokens;
            let row = |token: &v1::JoinTokenInfo| {
                let uses = format!("{} of {}", token.uses, token.max_uses);
                vec![
                    safe(&token.id),
                    safe(&token.rule),
                    uses,
                    standing(token.expires_at_ms, token.revoked.then_some("revoked")),
                    safe(&token.created_by),
                ]
            };
            let lines = access_table(
                &["ID", "RULE", "USED", "ENDS", "MADE BY"],
                tokens.iter().map(row).collect(),
            );
            context.tell(
                &lines,
                || json!({ "joinTokens": tokens.iter().map(join_token_json).collect::<Vec<_>>() }),
            )
        }
        JoinToken::Revoke { id } => {
            let request = Manager::call(v1::RevokeJoinTokenRequest { id: id.clone() });
            let answer = fleet.revoke_join_token(request).await;
            answer.map_err(manager.failed("revoke the join token"))?;
            context.tell(&[format!("{} is revoked", safe(&id))], || json!({ "revoked": id }))
        }
    }
}

pub(super) async fn token(context: &mut Context, manager: &Manager, args: Token) -> Result<Exit, CliError> {
    let mut fleet = manager.fleet();
    match args {
        Token::Create {
            name,
            scope,
            for_project,
            life,
            certificate,
        } => {
            if let Some(path) = certificate.as_ref().filter(|path| path.exists()) {
                return Err(CliError::bad_input(format!("{} is there already", path.display()))
                    .hint("nothing is overwritten; name another file"));
            }
            let key = certificate.as_ref().map(|_| NewKey::make()).transpose()?;
            let request = Manager::call(v1::CreateTokenRequest {
                csr: key.as_ref().map(|key| key.request.clone().into()).unwrap_or_default(),
                name,
                scopes: scope.into_iter().map(|scope| i32::from(scope_of(scope))).collect(),
                projects: for_project,
                life_ms: life.map_or(0, millis),
            });
            let answer = fleet.create_token(request).await;
            let answer = answer.map_err(manager.failed("make the token"))?.into_inner();
            let info = answer.info.unwrap_or_default();
            if let (Some(path), Some(key)) = (certificate, key) {
                key.write(&path, &answer.certificate.unwrap_or_default())?;
                let line = format!("{} is written, {}", path.display(), ends(info.expires_at_ms));
                return context.tell(&[line], || json!({ "file": path, "info": token_json(&info) }));
            }
            shown_once(
                context,
                &info.id,
                &format!("for {}, {}", scopes(&info), ends(info.expires_at_ms)),
            );
            context.tell(
                std::slice::from_ref(&answer.token),
                || json!({ "token": answer.token, "info": token_json(&info) }),
            )
        }
        Token::List => {
            let answer = fleet.list_tokens(Manager::call(v1::ListTokensRequest {})).await;
            let tokens = answer.map_err(manager.failed("list the tokens"))?.into_inner().tokens;
            let row = |token: &v1::TokenInfo| {
                let projects = if token.projects.is_empty() {
                    "all".to_owned()
                } else {
                    safe(&token.projects.join(" "))
                };
                vec![
                    safe(&token.id),
                    safe(&token.name),
                    scopes(token),
                    projects,
                    standing(token.expires_at_ms, token.revoked.then_some("revoked")),
                    safe(&token.created_by),
                ]
            };
            let lines = access_table(
                &["ID", "NAME", "SCOPES", "PROJECTS", "ENDS", "MADE BY"],
                tokens.iter().map(row).collect(),
            );
            context.tell(
                &lines,
                || json!({ "tokens": tokens.iter().map(token_json).collect::<Vec<_>>() }),
            )
        }
        Token::Revoke { id } => {
            let request = Manager::call(v1::RevokeTokenRequest { id: id.clone() });
            let answer = fleet.revoke_token(request).await;
            answer.map_err(manager.failed("revoke the token"))?;
            context.tell(&[format!("{} is revoked", safe(&id))], || json!({ "revoked": id }))
        }
    }
}

/// The secret alone is on standard output, so that it can go into a file; what is known of it is beside it.
fn shown_once(context: &Context, id: &str, about: &str) {
    if !context.is_json() {
        let note = format!("{} {about}; it is shown this once\n", safe(id));
        to_stderr(&stderr_colour().faint(&note));
    }
}

fn rule_of(new: NewJoinRule) -> Result<v1::JoinRule, CliError> {
    let proof = if let (Some(account), Some(role)) = (new.aws_account, new.aws_role) {
        Proof::AwsIdentity(v1::AwsIdentityRule { account, role })
    } else if let Some(issuer) = new.issuer {
        Proof::Kubernetes(v1::KubernetesRule {
            issuer,
            jwks: read_file(new.jwks.as_deref(), "the issuer's keys")?,
            namespace: new.namespace.unwrap_or_default(),
            service_account: new.service_account.unwrap_or_default(),
            jwks_url: new.jwks_url.unwrap_or_default(),
            jwks_ca_pem: read_file(new.jwks_ca.as_deref(), "the certificates of the keys' server")?,
        })
    } else {
        Proof::Token(v1::TokenRule {})
    };
    Ok(v1::JoinRule {
        name: new.name,
        pool: new.pool,
        projects: new.projects,
        proof: Some(proof),
        ..v1::JoinRule::default()
    })
}

/// The text of a file, if one was named.
fn read_file(path: Option<&Path>, what: &str) -> Result<String, CliError> {
    let Some(path) = path else { return Ok(String::new()) };
    std::fs::read_to_string(path)
        .map_err(|error| CliError::bad_input(format!("cannot read {} for {what}", path.display())).caused_by(&error))
}

/// Whom a rule lets in, for people.
fn who(rule: &v1::JoinRule) -> String {
    match &rule.proof {
        Some(Proof::Token(_)) => "who has a join token of it".to_owned(),
        Some(Proof::AwsIdentity(aws)) => {
            format!("the role {} of the AWS account {}", safe(&aws.role), safe(&aws.account))
        }
        Some(Proof::Kubernetes(kubernetes)) => format!(
            "the service account {}/{} of {}",
            safe(&kubernetes.namespace),
            safe(&kubernetes.service_account),
            safe(&kubernetes.issuer)
        ),
        None => "nobody that this version knows".to_owned(),
    }
}

const fn scope_of(scope: Scope) -> v1::Scope {
    match scope {
        Scope::Read => v1::Scope::Read,
        Scope::Submit => v1::Scope::Submit,
        Scope::Administer => v1::Scope::Administer,
    }
}

fn scope_names(token: &v1::TokenInfo) -> Vec<&'static str> {
    let name = |scope| match scope {
        v1::Scope::Read => "read",
        v1::Scope::Submit => "submit",
        v1::Scope::Administer => "administer",
        v1::Scope::Unspecified => "unknown",
    };
    token.scopes().map(name).collect()
}

fn scopes(token: &v1::TokenInfo) -> String {
    scope_names(token).join(" ")
}

fn ends(expires_at_ms: i64) -> String {
    match expires_at_ms {
        0 => "never ends".to_owned(),
        at => moment(at),
    }
}

/// When it ends, or that it has been ended.
fn standing(expires_at_ms: i64, revoked: Option<&str>) -> String {
    revoked.map_or_else(|| ends(expires_at_ms), str::to_owned)
}

fn millis(life: Duration) -> i64 {
    i64::try_from(life.as_millis()).unwrap_or(i64::MAX)
}

fn rule_json(rule: &v1::JoinRule) -> Value {
    let proof = match &rule.proof {
        Some(Proof::Token(_)) => json!({ "token": {} }),
        Some(Proof::AwsIdentity(aws)) => json!({ "awsIdentity": { "account": aws.account, "role": aws.role } }),
        Some(Proof::Kubernetes(kubernetes)) => json!({ "kubernetes": {
            "issuer": kubernetes.issuer, "namespace": kubernetes.namespace, "serviceAccount": kubernetes.service_account,
        } }),
        None => Value::Null,
    };
    json!({ "name": rule.name, "pool": rule.pool, "projects": rule.projects, "proof": proof, "createdAtMs": rule.created_at_ms, "createdBy": rule.created_by })
}

fn join_token_json(token: &v1::JoinTokenInfo) -> Value {
    json!({
        "id": token.id, "rule": token.rule, "uses": token.uses, "maxUses": token.max_uses, "createdAtMs": token.created_at_ms,
        "expiresAtMs": token.expires_at_ms, "revoked": token.revoked, "createdBy": token.created_by,
    })
}

fn token_json(token: &v1::TokenInfo) -> Value {
    json!({
        "id": token.id, "name": token.name, "scopes": scope_names(token), "projects": token.projects,
        "createdAtMs": token.created_at_ms, "expiresAtMs": token.expires_at_ms, "revoked": token.revoked,
        "createdBy": token.created_by,
    })
}
