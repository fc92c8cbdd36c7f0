//! Every method, called without credentials, with the wrong ones and with the right ones. A method that is new in the
//! contract is called too; the table of who may call what has a test of its own that fails until it has a row.

use std::time::Duration;

use deputy_manager::auth::table::{Who, who};
use deputy_manager::registry::Scope;
use deputy_proto::v1;
use prost::Message;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::secured::{Secured, bearer};

/// Path of every method of the contract.
fn methods() -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).expect("descriptors");
    let mut methods = Vec::new();
    for file in &set.file {
        for service in &file.service {
            let path = |method: &prost_types::MethodDescriptorProto| {
                format!("/{}.{}/{}", file.package(), service.name(), method.name())
            };
            methods.extend(service.method.iter().map(path));
        }
    }
    assert!(methods.len() > 20, "{methods:?}");
    methods.push("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo".into());
    methods
}

/// Calls a method with one message; the code of its answer, or of its end if that comes soon.
async fn called<M: Message + Default + 'static>(channel: Channel, path: &str, request: Request<M>) -> (Code, String) {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.expect("ready");
    let codec = tonic_prost::ProstCodec::<M, ()>::default();
    let path = path.parse().expect("a path");
    let answered = client.server_streaming(request, path, codec).await;
    let mut stream = match answered {
        Ok(answer) => answer.into_inner(),
        Err(status) => return (status.code(), status.message().to_owned()),
    };
    match tokio::time::timeout(Duration::from_millis(300), stream.message()).await {
        Ok(Err(status)) => (status.code(), status.message().to_owned()),
        Ok(Ok(_)) | Err(_) => (Code::Ok, String::new()),
    }
}

async fn grant(secured: &Secured, scopes: &[v1::Scope], projects: &[&str], life_ms: i64) -> (String, String) {
    let request = v1::CreateTokenRequest {
        name: "tester".into(),
        scopes: scopes.iter().map(|scope| i32::from(*scope)).collect(),
        projects: projects.iter().map(|project| (*project).to_owned()).collect(),
        life_ms,
        csr: bytes::Bytes::new(),
    };
    let made = secured.fleet().await.create_token(secured.admin(request)).await;
    let made = made.expect("made").into_inner();
    (made.info.expect("info").id, made.token)
}

#[tokio::test]
async fn every_method_is_for_those_whom_the_table_names_and_for_nobody_else() {
    let secured = Secured::start().await;
    let token = secured.join_token("rule", 1).await;
    let member = secured.join("a1", &token).await.expect("joined");
    let nobody = secured.channel(None).await;
    let agent = secured.channel(Some(&member.identity())).await;
    let (_, reads) = grant(&secured, &[v1::Scope::Read], &[], 0).await;
    let (_, submits) = grant(&secured, &[v1::Scope::Submit], &[], 0).await;
    let (_, administers) = grant(&secured, &[v1::Scope::Administer], &[], 0).await;
    let by_scope = [
        (Scope::Read, &reads),
        (Scope::Submit, &submits),
        (Scope::Administer, &administers),
    ];
    for path in methods() {
        let whom = who(&path).unwrap_or_else(|| panic!("{path} has no row"));
        let (code, said) = called(nobody.clone(), &path, Request::new(())).await;
        if whom == Who::Anyone {
            assert!(!said.contains("credentials"), "{path}: {said}");
        } else {
            assert_eq!(code, Code::Unauthenticated, "{path} without credentials: {said}");
            let (code, _) = called(nobody.clone(), &path, bearer((), "dpt_0123456789abcdef_x")).await;
            assert_eq!(code, Code::Unauthenticated, "{path} with a token that is none");
        }
        let (code, said) = called(agent.clone(), &path, Request::new(())).await;
        let refused = matches!(code, Code::Unauthenticated) || said.contains("not for agents");
        assert_eq!(
            refused,
            !matches!(whom, Who::Agent | Who::Anyone),
            "{path} by an agent: {code:?} {said}"
        );
        for (scope, token) in by_scope {
            let (code, said) = called(nobody.clone(), &path, bearer((), token)).await;
            let refused = said.contains("does not have the scope") || said.contains("for agents only");
            let may = match whom {
                Who::User(wanted) => wanted == scope,
                Who::AnyUser | Who::Anyone => true,
                Who::Agent => false,
            };
            assert_eq!(refused, !may, "{path} with the scope {scope}: {code:?} {said}");
            if refused {
                assert_eq!(code, Code::PermissionDenied, "{path}");
            }
        }
    }
}

#[tokio::test]
async fn a_token_for_one_project_is_good_for_no_other_in_any_method() {
    let secured = Secured::start().await;
    let (_, token) = grant(&secured, &[v1::Scope::Read, v1::Scope::Submit], &["shop"], 0).await;
    let channel = secured.channel(None).await;
    let tasks: Vec<String> = methods().into_iter().filter(|path| path.contains(".Tasks/")).collect();
    assert!(!tasks.is_empty());
    for path in tasks {
        // The project is the first field of every request of this service.
        let elsewhere = |project: &str| v1::GetRequest {
            project: project.into(),
            ..v1::GetRequest::default()
        };
        for project in ["other", ""] {
            let (code, said) = called(channel.clone(), &path, bearer(elsewhere(project), &token)).await;
            assert_eq!(code, Code::PermissionDenied, "{path} in {project:?}: {said}");
            assert!(said.contains("is not for the project"), "{path}: {said}");
        }
        let (code, said) = called(channel.clone(), &path, bearer(elsewhere("shop"), &token)).await;
        assert_ne!(code, Code::PermissionDenied, "{path}: {said}");
    }
}

#[tokio::test]
async fn who_administers_is_bound_to_no_project_and_makes_no_token_that_is_more() {
    let secured = Secured::start().await;
    let create = |scopes: &[v1::Scope], projects: &[&str], life_ms: i64| v1::CreateTokenRequest {
        name: "tester".into(),
        scopes: scopes.iter().map(|scope| i32::from(*scope)).collect(),
        projects: projects.iter().map(|project| (*project).to_owned()).collect(),
        life_ms,
        csr: bytes::Bytes::new(),
    };
    let mut fleet = secured.fleet().await;
    let bound = create(&[v1::Scope::Administer], &["shop"], 0);
    let refused = fleet.create_token(secured.admin(bound)).await.expect_err("bound");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("bound by none"), "{refused:?}");
    let (_, short) = grant(&secured, &[v1::Scope::Administer], &[], 60_000).await;
    let more = create(&[v1::Scope::Administer, v1::Scope::Read], &[], 0);
    let refused = fleet.create_token(bearer(more, &short)).await.expect_err("more");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let same = create(&[v1::Scope::Administer], &[], 0);
    let made = fleet.create_token(bearer(same, &short)).await.expect("the same");
    let info = made.into_inner().info.expect("info");
    let left = info.expires_at_ms - info.created_at_ms;
    assert!((1..=60_000).contains(&left), "it ends with its maker: {left}");
}

#[tokio::test]
async fn a_token_ends_when_it_expires_or_is_revoked_and_stays_ended_over_a_restart() {
    let mut secured = Secured::start().await;
    let (id, long) = grant(&secured, &[v1::Scope::Read], &[], 0).await;
    let list = "/deputy.v1.Tasks/List";
    let channel = secured.channel(None).await;
    let (_, short) = grant(&secured, &[v1::Scope::Read], &[], 2000).await;
    // The one that ends soon is asked with at once.
    for token in [&short, &long] {
        let (code, said) = called(channel.clone(), list, bearer((), token)).await;
        assert_eq!(code, Code::Ok, "{said}");
    }
    tokio::time::sleep(Duration::from_millis(2050)).await;
    let (code, said) = called(channel, list, bearer((), &short)).await;
    assert_eq!(code, Code::Unauthenticated);
    assert!(said.contains("has expired"), "{said}");
    let revoke = secured.admin(v1::RevokeTokenRequest { id });
    secured.fleet().await.revoke_token(revoke).await.expect("revoked");
    for _ in 0..2 {
        let (code, said) = called(secured.channel(None).await, list, bearer((), &long)).await;
        assert_eq!(code, Code::Unauthenticated);
        assert!(said.contains("was revoked"), "{said}");
        secured.restart().await;
    }
}

/// Follows a new task with a new token of this life, by both calls that last: how each ends.
async fn followed(secured: &Secured, life_ms: i64, end: impl AsyncFnOnce(String)) -> [Status; 2] {
    let mut tasks = v1::tasks_client::TasksClient::new(secured.channel(None).await);
    let request = crate::agent::submit_request(&format!("for {life_ms}"), "");
    let submitted = tasks
        .submit(secured.admin(request))
        .await
        .expect("submitted")
        .into_inner();
    let watch = v1::WatchRequest {
        task_id: submitted.task_id.clone(),
        ..v1::WatchRequest::default()
    };
    let tail = v1::TailLogsRequest {
        task_id: submitted.task_id,
        follow: true,
        ..v1::TailLogsRequest::default()
    };
    // Made last: nothing but the calls themselves has to come within its life.
    let (id, token) = grant(secured, &[v1::Scope::Read], &[], life_ms).await;
    let mut watched = tasks.watch(bearer(watch, &token)).await.expect("watched").into_inner();
    let mut tailed = tasks
        .tail_logs(bearer(tail, &token))
        .await
        .expect("tailed")
        .into_inner();
    watched.message().await.expect("good until now").expect("submitted");
    end(id).await;
    let within = Duration::from_secs(10);
    let last = async {
        loop {
            if let Err(status) = watched.message().await {
                return status;
            }
        }
    };
    let watched = tokio::time::timeout(within, last).await.expect("the watch ends");
    let tailed = tokio::time::timeout(within, tailed.message())
        .await
        .expect("the tail ends");
    [watched, tailed.expect_err("it does not end in order")]
}

#[tokio::test]
async fn what_follows_a_task_ends_with_its_token() {
    let secured = Secured::start().await;
    let revoked = followed(&secured, 0, async |id| {
        let revoke = secured.admin(v1::RevokeTokenRequest { id });
        secured.fleet().await.revoke_token(revoke).await.expect("revoked");
    });
    let (revoked, expired) = tokio::join!(revoked, followed(&secured, 3000, async |_| ()));
    for (ends, why) in [(revoked, "was revoked"), (expired, "has expired")] {
        for status in ends {
            assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
            assert!(status.message().contains(why), "{status:?}");
        }
    }
}

#[tokio::test]
async fn a_client_certificate_stands_for_the_same_as_a_token_and_ends_with_it() {
    let secured = Secured::start().await;
    let key = crate::secured::key();
    let request = v1::CreateTokenRequest {
        name: "laptop".into(),
        scopes: vec![v1::Scope::Read.into()],
        projects: Vec::new(),
        life_ms: 0,
        csr: crate::secured::csr(&key).into(),
    };
    let made = secured.fleet().await.create_token(secured.admin(request)).await;
    let made = made.expect("made").into_inner();
    assert!(made.token.is_empty());
    let member = crate::secured::Member {
        key,
        certificate: made.certificate.expect("a certificate"),
    };
    let channel = secured.channel(Some(&member.identity())).await;
    let (code, said) = called(channel.clone(), "/deputy.v1.Tasks/List", Request::new(())).await;
    assert_eq!(code, Code::Ok, "{said}");
    let (code, said) = called(channel.clone(), "/deputy.v1.Fleet/List", Request::new(())).await;
    assert_eq!(code, Code::PermissionDenied, "{said}");
    let revoke = v1::RevokeTokenRequest {
        id: made.info.expect("info").id,
    };
    secured
        .fleet()
        .await
        .revoke_token(secured.admin(revoke))
        .await
        .expect("revoked");
    let (code, said) = called(channel, "/deputy.v1.Tasks/List", Request::new(())).await;
    assert_eq!(code, Code::Unauthenticated);
    assert!(said.contains("was revoked"), "{said}");
}

#[tokio::test]
async fn secrets_are_nowhere_in_what_the_manager_keeps() {
    let secured = Secured::start().await;
    let (_, token) = grant(&secured, &[v1::Scope::Read], &[], 0).await;
    let join = secured.join_token("rule", 1).await;
    let mut searched = 0;
    for entry in std::fs::read_dir(secured.folder.path()).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_file() && !path.ends_with("admin-token") {
            let bytes = std::fs::read(&path).expect("read");
            searched += bytes.len();
            for text in [&token, &join, &secured.admin_token()] {
                let secret = text.rsplit('_').next().expect("a secret").as_bytes();
                let found = bytes.windows(secret.len()).any(|window| window == secret);
                assert!(!found, "{} holds a secret", path.display());
            }
        }
    }
    assert!(searched > 4096, "the database was searched");
}

#[tokio::test]
async fn what_is_submitted_bears_the_name_of_the_token_and_not_what_the_request_says() {
    let secured = Secured::start().await;
    let (_, token) = grant(&secured, &[v1::Scope::Read, v1::Scope::Submit], &[], 0).await;
    let mut tasks = v1::tasks_client::TasksClient::new(secured.channel(None).await);
    let request = v1::SubmitRequest {
        submitter: "root".into(),
        ..crate::agent::submit_request("r1", "")
    };
    let id = tasks
        .submit(bearer(request, &token))
        .await
        .expect("submitted")
        .into_inner()
        .task_id;
    let get = v1::GetRequest {
        task_id: id,
        ..v1::GetRequest::default()
    };
    let task = tasks.get(bearer(get, &token)).await.expect("found").into_inner().task;
    assert_eq!(task.expect("a task").submitter, "tester");
}

#[tokio::test]
async fn health_is_answered_to_anybody_and_the_clear_text_port_is_none() {
    let secured = Secured::start().await;
    let (code, said) = called(
        secured.channel(None).await,
        "/grpc.health.v1.Health/Check",
        Request::new(()),
    )
    .await;
    assert_eq!(code, Code::Ok, "{said}");
    let address = secured.manager.as_ref().expect("up").address();
    let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address");
    // The connection is made lazily enough that only a call shows it.
    if let Ok(channel) = endpoint.connect().await {
        let mut client = tonic::client::Grpc::new(channel);
        let ready = client.ready().await;
        if ready.is_ok() {
            let codec = tonic_prost::ProstCodec::<(), ()>::default();
            let path = "/grpc.health.v1.Health/Check".parse().expect("a path");
            client
                .unary(Request::new(()), path, codec)
                .await
                .expect_err("clear text is not served");
        }
    }
}
