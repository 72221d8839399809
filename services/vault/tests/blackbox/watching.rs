//! What whoever watches sees: health, readiness, metrics, reflection, and a gate that stays closed.

use bytes::Bytes;
use cloakroom_proto::admin::v1::{GetStatusRequest, VerifyLogRequest};
use cloakroom_proto::vault::v1::{ErrorCode, ReadMode};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::setting::{Setting, item, reading, said, shown, until};

async fn watched(house: &Setting, path: &str) -> (u16, String) {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let uri = format!("http://{}{path}", house.running().health_address).parse().unwrap();
    let answer = client.get(uri).await.unwrap();
    let status = answer.status().as_u16();
    (status, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

/// What `/metrics` says of `name`, without labels.
pub(crate) async fn figure(house: &Setting, name: &str) -> Option<f64> {
    let text = watched(house, "/metrics").await.1;
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} ")));
    line?.rsplit_once(' ')?.1.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_in_service_is_alive_and_ready_over_http_and_grpc() {
    let house = Setting::bare().await;
    assert_eq!(watched(&house, "/livez").await, (200, "alive\n".to_owned()));
    assert_eq!(watched(&house, "/readyz").await.0, 200);
    let (vault, admin) = (house.vault_channel("orders").await, house.admin_channel("admin").await);
    for (channel, service) in
        [(vault, "cloakroom.vault.v1.VaultService"), (admin, "cloakroom.admin.v1.AdminService")]
    {
        for service in ["", service] {
            let request = HealthCheckRequest { service: service.into() };
            let answer = HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner();
            assert_eq!(answer.status, 1, "{service}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_calls_items_and_the_vault_and_label_nothing_with_a_value() {
    let house = Setting::new().await;
    let planted = "planted-7f3a@example.com";
    let (token, subject) = house.person(planted).await;
    house.read(&[&token, "tok_nobody"]).await;
    let _ = house.tokenize(vec![item("1", "p", planted, "planted-7f3a")]).await;
    house.erase(&subject).await;
    let text = until(async || {
        let text = watched(&house, "/metrics").await.1;
        let erased =
            text.lines().any(|line| line.starts_with("cloakroom_erasures_open") && line.ends_with(" 1"));
        erased.then_some(text)
    })
    .await;
    let names = [
        "cloakroom_events",
        "cloakroom_slots",
        "cloakroom_epoch",
        "cloakroom_announce_lag",
        "cloakroom_subtrees",
    ];
    for name in names {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} is missing:\n{text}");
    }
    let has = |wanted: &[&str]| text.lines().any(|line| wanted.iter().all(|part| line.contains(part)));
    assert!(has(&["rpc_server_call_duration", "VaultService/Tokenize", "\"Ok\""]), "{text}");
    assert!(has(&["cloakroom_items", "\"detokenize\"", "\"NOT_FOUND\""]), "{text}");
    assert!(has(&["cloakroom_items", "\"tokenize\"", "\"DENIED\""]), "{text}");
    for secret in ["planted", "example.com", &token, &subject, "see-tickets", "tok_nobody"] {
        assert!(!text.contains(secret), "{secret} is a label");
    }
}

async fn reflected(channel: tonic::transport::Channel, ask: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
    let mut client = ServerReflectionClient::new(channel);
    let answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
    let answer: ServerReflectionResponse = answers.into_inner().message().await.unwrap().unwrap();
    answer.message_response.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_each_ports_services_and_describes_their_messages() {
    let house = Setting::bare().await;
    let (vault, admin) = (house.vault_channel("orders").await, house.admin_channel("admin").await);
    for (channel, own, other) in [
        (vault, "cloakroom.vault.v1.VaultService", "cloakroom.admin.v1.AdminService"),
        (admin, "cloakroom.admin.v1.AdminService", "cloakroom.vault.v1.VaultService"),
    ] {
        let answer = reflected(channel.clone(), MessageRequest::ListServices(String::new())).await;
        let MessageResponse::ListServicesResponse(list) = answer else { panic!("no list") };
        let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
        assert!(names.contains(&own) && names.contains(&"grpc.health.v1.Health"), "{names:?}");
        assert!(!names.contains(&other), "{names:?}");
        let answer = reflected(channel, MessageRequest::FileContainingSymbol(own.into())).await;
        assert!(
            matches!(answer, MessageResponse::FileDescriptorResponse(file) if !file.file_descriptor_proto.is_empty())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_tells_how_the_vault_is_to_those_with_a_role() {
    let house = Setting::new().await;
    house.person("a@example.com").await;
    let status = house.admin("auditor").await.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
    assert!(status.events > 3 && status.slots > 0 && status.epoch > 0, "{}", status.events);
    assert_eq!(status.subtrees, 2, "the vault's own and one controller's: the others hold nothing yet");
    assert_eq!((status.root_holder.as_str(), status.destroy_class.as_str()), ("file", "overwritten"));
    assert!(status.checks.contains_key("memory-lock"));
    let status = house.admin("stranger").await.get_status(GetStatusRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let verdict = house.admin("auditor").await.verify_log(VerifyLogRequest {}).await.unwrap().into_inner();
    assert!(verdict.problems.is_empty() && verdict.digest.len() == 64 && verdict.events > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_closed_gate_the_vault_lives_says_why_and_calls_nothing_erased() {
    let mut house = Setting::new().await;
    let (token, _) = house.person("a@example.com").await;
    let _ = house.stop().await;
    let older = house.folder.path().join("older-data");
    copy(&house.folder.path().join("data"), &older);
    house.start().await;
    house.person("b@example.com").await;
    let _ = house.stop().await;
    let data = house.folder.path().join("data");
    std::fs::remove_dir_all(&data).unwrap();
    copy(&older, &data);

    house.start().await;
    assert_eq!(watched(&house, "/livez").await.0, 200);
    let (status, why) = watched(&house, "/readyz").await;
    assert_eq!(status, 503);
    assert!(why.contains("gate"), "{why}");
    let request = HealthCheckRequest { service: String::new() };
    let health = HealthClient::new(house.vault_channel("orders").await).check(request).await.unwrap();
    assert_eq!(health.into_inner().status, 2);

    let request = reading("ticket_delivery", ReadMode::Plain, &[&token, "tok_nobody"]);
    let read = house.vault("mail").await.detokenize(request).await.unwrap().into_inner().items;
    for answer in &read {
        assert_eq!(shown(answer), Err(ErrorCode::KeyUnavailable));
    }
    let answers = house.tokenize(vec![item("1", "p", "full_name", "Ann")]).await;
    match answers[0].result.as_ref().unwrap() {
        cloakroom_proto::vault::v1::tokenize_result::Result::Error(error) => {
            assert_eq!(said(error).0, ErrorCode::KeyUnavailable);
            assert!(error.retryable && error.message.contains("gate"), "{}", error.message);
        }
        _ => panic!("tokenized behind a closed gate"),
    }
    let status = house.admin("admin").await.get_status(GetStatusRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(house.stop().await, cloakroom_vault::Ended::Drained);
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() { copy(&from, &to) } else { std::fs::copy(&from, &to).map(drop).unwrap() }
    }
}
