//! A question in Cedar's words: principal, action, resource, context, and the entities with their
//! attributes. What a policy may be asked is in `schema.cedarschema`.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;
use std::sync::OnceLock;

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression, Schema,
};

use crate::image::ImageName;
use crate::question::{Asking, Question, SecretPlace, Wish};
use crate::questions::is_opaque;

/// The schema, as committed.
pub(crate) const SCHEMA: &str = include_str!("../schema.cedarschema");

/// Whether the manager's word is in the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ManagersWord {
    With,
    Without,
}

type Attributes = HashMap<String, RestrictedExpression>;

/// The parsed schema.
///
/// # Errors
/// It is not one: a fault of ours.
pub(crate) fn schema() -> Result<&'static Schema, String> {
    static PARSED: OnceLock<Result<Schema, String>> = OnceLock::new();
    let parsed = PARSED.get_or_init(|| {
        Schema::from_cedarschema_str(SCHEMA)
            .map(|(schema, _)| schema)
            .map_err(|error| error.to_string())
    });
    parsed.as_ref().map_err(Clone::clone)
}

/// What is asked, and every entity that it names.
///
/// # Errors
/// The schema does not allow it: a fault of ours.
pub(crate) fn request(asking: &Asking, question: &Question, word: ManagersWord) -> Result<(Request, Entities), String> {
    let schema = schema()?;
    let mut built = Built::default();
    let principal = match asking.signer_for(question) {
        Some(name) => built.entity("Signer", name)?,
        None => uid("Unsigned", "anyone")?,
    };
    let (action, resource) = built.resource(&question.wish)?;
    let action = uid("Action", action)?;
    let pool = built.entity("Pool", &asking.pool)?;
    let mut context = common(asking, question, pool, word)?;
    context.extend(particular(&question.wish));
    let context = Context::from_pairs(context).map_err(shown)?;
    let request = Request::new(principal, action, resource, context, Some(schema)).map_err(shown)?;
    let entities = Entities::from_entities(built.entities, Some(schema)).map_err(shown)?;
    Ok((request, entities))
}

#[derive(Default)]
struct Built {
    entities: Vec<Entity>,
}

impl Built {
    fn entity(&mut self, kind: &str, id: &str) -> Result<EntityUid, String> {
        self.with(uid(kind, id)?, Attributes::new(), None)
    }

    fn with(&mut self, uid: EntityUid, attributes: Attributes, parent: Option<EntityUid>) -> Result<EntityUid, String> {
        let parents: HashSet<EntityUid> = parent.into_iter().collect();
        self.entities
            .push(Entity::new(uid.clone(), attributes, parents).map_err(shown)?);
        Ok(uid)
    }

    fn step_kind(&mut self, kind: &str) -> Result<EntityUid, String> {
        let attributes = [("opaque".into(), RestrictedExpression::new_bool(is_opaque(kind)))];
        self.with(uid("StepKind", kind)?, attributes.into(), None)
    }

    fn eks_cluster(&mut self, cluster: &str, region: &str) -> Result<EntityUid, String> {
        self.with(uid("EksCluster", cluster)?, [text("region", region)].into(), None)
    }

    fn ecs_cluster(&mut self, cluster: &str, region: &str) -> Result<EntityUid, String> {
        // arn:aws:ecs:eu-west-1:222222222222:cluster/prod
        let arn: Vec<&str> = cluster.splitn(6, ':').collect();
        let (name, region, account) = match arn.as_slice() {
            ["arn", _, "ecs", region, account, name] => {
                (name.strip_prefix("cluster/").unwrap_or(name), *region, Some(*account))
            }
            _ => (cluster, region, None),
        };
        let mut attributes = Attributes::from([text("region", region)]);
        attributes.extend(account.map(|account| text("account", account)));
        self.with(uid("EcsCluster", name)?, attributes, None)
    }

    fn role(&mut self, arn: &str) -> Result<EntityUid, String> {
        // arn:aws:iam::222222222222:role/path/name
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        let (account, name) = match parts.as_slice() {
            [_, _, _, _, account, name] => (*account, name.strip_prefix("role/").unwrap_or(name)),
            _ => ("", arn),
        };
        let attributes = [text("account", account), text("name", name)];
        self.with(uid("Role", arn)?, attributes.into(), None)
    }

    fn image(&mut self, reference: &str) -> Result<EntityUid, String> {
        let name = ImageName::of(reference);
        let registry = self.entity("Registry", &name.registry)?;
        let mut attributes = Attributes::from([text("registry", &name.registry), text("repository", &name.repository)]);
        attributes.extend(name.tag.as_deref().map(|tag| text("tag", tag)));
        attributes.extend(name.digest.as_deref().map(|digest| text("digest", digest)));
        self.with(uid("Image", reference)?, attributes, Some(registry))
    }

    fn namespace(&mut self, cluster: &str, namespace: &str, region: &str) -> Result<EntityUid, String> {
        let parent = self.eks_cluster(cluster, region)?;
        let id = format!("{cluster}/{namespace}");
        self.with(uid("Namespace", &id)?, [text("name", namespace)].into(), Some(parent))
    }

    fn secret(&mut self, secret: &SecretPlace) -> Result<EntityUid, String> {
        let mut attributes = Attributes::from([text("kind", secret.kind), text("name", &secret.name)]);
        attributes.extend(secret.cluster.as_deref().map(|cluster| text("cluster", cluster)));
        attributes.extend(
            secret
                .namespace
                .as_deref()
                .map(|namespace| text("namespace", namespace)),
        );
        self.with(uid("Secret", &secret.to_string())?, attributes, None)
    }

    fn origin(&mut self, kind: &str, from: &str) -> Result<EntityUid, String> {
        let attributes = [text("kind", kind), text("name", from)];
        self.with(uid("Origin", &format!("{kind}:{from}"))?, attributes.into(), None)
    }

    fn resource(&mut self, wish: &Wish) -> Result<(&'static str, EntityUid), String> {
        Ok(match wish {
            Wish::RunStep { kind } => ("runStep", self.step_kind(kind)?),
            Wish::Effect { kind, .. } => ("effect", self.step_kind(kind)?),
            Wish::UseAgentIdentity { kind } => ("useAgentIdentity", self.step_kind(kind)?),
            Wish::AssumeRole { role } => ("assumeRole", self.role(role)?),
            Wish::UseEcsCluster { cluster, region } => ("useCluster", self.ecs_cluster(cluster, region)?),
            Wish::UseEksCluster { cluster, region } => ("useCluster", self.eks_cluster(cluster, region)?),
            Wish::UseClusterScope { cluster, region } => ("useClusterScope", self.eks_cluster(cluster, region)?),
            Wish::UseNamespace {
                cluster,
                namespace,
                region,
            } => ("useNamespace", self.namespace(cluster, namespace, region)?),
            Wish::RunCommand { program, .. } => ("runCommand", self.entity("Command", program)?),
            Wish::SetVariable { name, .. } => {
                let uid = uid("Variable", name)?;
                ("setVariable", self.with(uid, [text("name", name)].into(), None)?)
            }
            Wish::PullImage { image } => ("pullImage", self.image(image)?),
            Wish::PassRole { role } => ("passRole", self.role(role)?),
            Wish::UseServiceAccount {
                cluster,
                namespace,
                name,
                region,
            } => {
                let parent = self.namespace(cluster, namespace, region)?;
                let uid = uid("ServiceAccount", &format!("{cluster}/{namespace}/{name}"))?;
                (
                    "useServiceAccount",
                    self.with(uid, [text("name", name)].into(), Some(parent))?,
                )
            }
            Wish::UseSecret { secret, .. } => ("useSecret", self.secret(secret)?),
            Wish::FetchSource { kind, from, .. } => ("fetchSource", self.origin(kind, from)?),
        })
    }
}

/// What every question has.
fn common(asking: &Asking, question: &Question, pool: EntityUid, word: ManagersWord) -> Result<Attributes, String> {
    let agent = [
        text("id", &asking.agent),
        ("pool".into(), RestrictedExpression::new_entity_uid(pool)),
    ];
    let mut context = Attributes::from([text("step", &question.step), record("agent", agent)?]);
    let said = &asking.said;
    if asking.signer_for(question).is_some() {
        let signed = [text("project", &said.project), text("task", &said.task)];
        context.extend([record("signed", signed)?]);
    }
    if word == ManagersWord::With {
        let asserted = [
            text("project", &said.project),
            text("task", &said.task),
            text("submitter", &said.submitter),
        ];
        context.extend([record("asserted", asserted)?]);
    }
    Ok(context)
}

/// What only some questions have.
fn particular(wish: &Wish) -> Attributes {
    match wish {
        Wish::RunCommand { script, .. } => [text("script", script)].into(),
        Wish::UseSecret { shown_to, .. } => [text("shownTo", shown_to)].into(),
        Wish::SetVariable { kind, value, .. } => {
            let is_secret = RestrictedExpression::new_bool(value.is_none());
            let mut context = Attributes::from([text("kind", kind), ("secret".into(), is_secret)]);
            context.extend(value.as_deref().map(|value| text("value", value)));
            context
        }
        Wish::FetchSource {
            url, key, reference, ..
        } => {
            let mut context = Attributes::from([text("url", url)]);
            context.extend(key.as_deref().map(|key| text("key", key)));
            context.extend(reference.as_deref().map(|reference| text("reference", reference)));
            context
        }
        Wish::Effect {
            verb,
            target,
            undo,
            adopted,
            task_definition,
            ..
        } => {
            let mut context = Attributes::from([
                text("verb", verb),
                text("target", target),
                ("undo".into(), RestrictedExpression::new_bool(*undo)),
                ("adopted".into(), RestrictedExpression::new_bool(*adopted)),
            ]);
            context.extend(task_definition.as_deref().map(|arn| text("taskDefinition", arn)));
            context
        }
        Wish::RunStep { .. }
        | Wish::AssumeRole { .. }
        | Wish::UseAgentIdentity { .. }
        | Wish::UseEcsCluster { .. }
        | Wish::UseEksCluster { .. }
        | Wish::UseNamespace { .. }
        | Wish::UseClusterScope { .. }
        | Wish::PullImage { .. }
        | Wish::PassRole { .. }
        | Wish::UseServiceAccount { .. } => Attributes::new(),
    }
}

fn text(name: &str, value: &str) -> (String, RestrictedExpression) {
    (name.to_owned(), RestrictedExpression::new_string(value.to_owned()))
}

fn record<const N: usize>(
    name: &str,
    fields: [(String, RestrictedExpression); N],
) -> Result<(String, RestrictedExpression), String> {
    let record = RestrictedExpression::new_record(fields).map_err(shown)?;
    Ok((name.to_owned(), record))
}

fn uid(kind: &str, id: &str) -> Result<EntityUid, String> {
    let kind = EntityTypeName::from_str(kind).map_err(shown)?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

fn shown(error: impl std::fmt::Display) -> String {
    error.to_string()
}
