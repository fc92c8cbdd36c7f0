//! `deputy submit`: check, pack, store, queue, and perhaps follow.

use std::path::Path;

use deputy_proto::v1::{Bundle, GetRequest, SubmitRequest};
use deputy_task::document::{self, Diagnostics, ReadDocument, Severity};

use super::context::{Context, FollowsLog, read_task};
use crate::args::Submit;
use crate::bundle::{Packed, pack};
use crate::client::Manager;
use crate::error::{CliError, Exit};
use crate::screen::{stderr_colour, to_stderr};
use crate::signing;
use crate::values::{given, read_file};

pub(crate) async fn submit(context: &mut Context, args: Submit) -> Result<Exit, CliError> {
    let bytes = read_file(&args.file)?;
    let inputs = given(&args.values)?.unwrap_or_default();
    let name = args.file.display().to_string();
    let ReadDocument { checked, warnings } = document::read(&name, &bytes, &inputs).map_err(refused)?;
    let packed = pack_sources(&args.file, &checked.document)?;
    if !warnings.is_empty() && !context.is_json() {
        let warnings = Diagnostics {
            source: name,
            items: warnings,
        };
        to_stderr(&warnings.rendered(stderr_colour().paint()));
    }
    let manager = context.manager().await?;
    if !context.is_json() {
        note(&packed);
    }
    let bundles = store(&manager, packed).await?;
    let mut request = SubmitRequest {
        project: manager.project.clone(),
        client_request_id: args
            .request_id
            .clone()
            .unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
        document: bytes.into(),
        inputs: serde_json::to_vec(&inputs).unwrap_or_default().into(),
        bundles,
        submitter: submitter(),
        signature: None,
    };
    if let Some(key) = &args.sign {
        signing::sign_request(&mut request, key, &args.sign_for).await?;
    }
    let answer = manager.submit(request).await?;
    let follows = if args.follow {
        Some(FollowsLog::Yes)
    } else {
        args.wait.then_some(FollowsLog::No)
    };
    let colour = context.screen.colour;
    let word = if answer.existed {
        "was submitted before as"
    } else {
        "submitted as"
    };
    let line = format!(
        "{} {word} {}",
        colour.strong(&checked.document.metadata.name),
        answer.task_id
    );
    let Some(follows) = follows else {
        let hint = colour.faint(&format!("  follow it: deputy watch {}", answer.task_id));
        return context.tell(
            &[line, hint],
            || serde_json::json!({ "taskId": answer.task_id, "existed": answer.existed, "warnings": answer.warnings }),
        );
    };
    if !context.is_json() {
        context.screen.say(&[line])?;
    }
    let (task, _) = read_task(
        &manager,
        GetRequest {
            task_id: answer.task_id,
            ..GetRequest::default()
        },
    )
    .await?;
    let show = context.show(follows);
    context.follow(&manager, task, show).await
}

fn refused(errors: Diagnostics) -> CliError {
    let count = errors
        .items
        .iter()
        .filter(|item| item.severity == Severity::Error)
        .count();
    let how_many = if count == 1 {
        "an error".to_owned()
    } else {
        format!("{count} errors")
    };
    let message = format!("the task document has {how_many}; nothing was submitted");
    CliError::bad_documents(message, vec![errors])
}

fn pack_sources(file: &Path, document: &document::Document) -> Result<Vec<(String, Packed)>, CliError> {
    let beside = file.parent().unwrap_or(Path::new(""));
    document
        .spec
        .sources
        .iter()
        .filter_map(|source| Some((source.name.clone(), source.bundle()?)))
        .map(|(name, folder)| Ok((name, pack(&beside.join(folder))?)))
        .collect()
}

fn note(packed: &[(String, Packed)]) {
    for (name, packed) in packed {
        let size = packed.bytes.len().div_ceil(1024);
        let note = format!("packed the source {name}: {} files, {size} KiB\n", packed.files);
        to_stderr(&stderr_colour().faint(&note));
    }
}

async fn store(manager: &Manager, packed: Vec<(String, Packed)>) -> Result<Vec<Bundle>, CliError> {
    let mut bundles = Vec::new();
    for (name, packed) in packed {
        bundles.push(manager.put_bundle(&name, packed).await?);
    }
    Ok(bundles)
}

/// For people; an authenticated name comes with identities.
fn submitter() -> String {
    std::env::var("USER")
        .or_else(|_| std::env::var("LOGNAME"))
        .unwrap_or_default()
}
