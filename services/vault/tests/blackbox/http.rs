//! The admin endpoint over HTTP/JSON, held to its own description.

use std::sync::Arc;

use bytes::Bytes;
use cloakroom_proto::vault::v1::ErrorCode;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::setting::{ALONE, SEE, Setting, item, made, purchase, shipped, until};

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {:?}", self.body))
    }

    fn kind(&self) -> &str {
        self.headers.get("content-type").map_or("", |kind| kind.to_str().unwrap())
    }
}

async fn connected(house: &Setting, who: &str, protocol: &[u8]) -> TokioIo<TlsStream<TcpStream>> {
    let certs = house.certs();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certs.join("ca.pem")).unwrap()).unwrap();
    let chain = vec![CertificateDer::from_pem_file(certs.join(format!("{who}.pem"))).unwrap()];
    let key = PrivateKeyDer::from_pem_file(certs.join(format!("{who}.key"))).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    let tcp = TcpStream::connect(house.running().admin_address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TokioIo::new(TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap())
}

async fn asked(house: &Setting, who: &str, method: Method, path: &str, body: impl Into<Bytes>) -> Answer {
    let (mut sender, connection) = http1::handshake(connected(house, who, b"http/1.1").await).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .body(Full::new(body.into()))
        .unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer { status: head.status, headers: head.headers, body }
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_spoken_as_well() {
    let house = Setting::bare().await;
    let io = connected(&house, "admin", b"h2").await;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    for (path, status) in [("/v1/status", 200), ("/v1/nowhere", 404)] {
        let request = Request::get(format!("https://localhost{path}"));
        let answer = sender.send_request(request.body(Full::new(Bytes::new())).unwrap()).await.unwrap();
        assert_eq!(answer.status().as_u16(), status);
    }
}

async fn get(house: &Setting, who: &str, path: &str) -> Answer {
    asked(house, who, Method::GET, path, "").await
}

async fn post(house: &Setting, who: &str, path: &str, body: &Value) -> Answer {
    asked(house, who, Method::POST, path, body.to_string()).await
}

fn problem(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status.as_u16(), status, "{:?}", answer.body);
    assert_eq!(answer.kind(), "application/problem+json");
    let document = answer.json();
    assert_eq!((&document["status"], &document["code"]), (&json!(status), &json!(code)));
    assert!(document["title"].is_string() && document["detail"].is_string());
}

fn request(subject: &str) -> Value {
    json!({
        "controller": SEE, "subject_id": subject, "actor": "dsr-1", "reason": "case-1",
        "legal_basis": "CONSENT_WITHDRAWN", "idempotency_key": "dsr-1",
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_forgotten_over_http_and_the_erasure_followed() {
    let house = Setting::new().await;
    let (token, subject) = house.person("a@example.com").await;
    let preview = json!({ "controller": SEE, "token": token });
    let preview = post(&house, "dpo", "/v1/erasures/preview", &preview).await;
    assert_eq!((preview.status, &preview.json()["tokens"][0]["token"]), (StatusCode::OK, &json!(token)));

    let made = post(&house, "dpo", "/v1/erasures", &request(&subject)).await;
    assert_eq!(made.status, StatusCode::CREATED, "{:?}", made.body);
    let body = made.json();
    assert_eq!(body["subject_salt"].as_str().unwrap().len(), 64);
    let place = made.headers["location"].to_str().unwrap().to_owned();
    let id = body["erasure"]["erasure_id"].as_str().unwrap();
    assert_eq!(place, format!("/v1/erasures/{id}"));
    assert_eq!(body["erasure"]["legal_basis"], "CONSENT_WITHDRAWN");
    let again = post(&house, "dpo", "/v1/erasures", &request(&subject)).await;
    assert_eq!((again.status, &again.json()["subject_salt"]), (StatusCode::OK, &json!("")));

    let found = get(&house, "auditor", &place).await.json();
    assert_eq!((&found["erasure_id"], &found["tokens"]), (&json!(id), &json!(1)));
    let list = get(&house, "auditor", &format!("/v1/erasures?controller={SEE}&page_size=1")).await.json();
    assert_eq!(list["erasures"][0]["erasure_id"], id);
    let next = list["next_page_token"].as_str().unwrap();
    let next =
        get(&house, "auditor", &format!("/v1/erasures?controller={SEE}&page_token={next}")).await.json();
    assert_eq!(next, json!({ "erasures": [], "next_page_token": "" }));
    let none = get(&house, "auditor", &format!("/v1/erasures?controller={SEE}&state=COMPLETED")).await.json();
    assert_eq!(none["erasures"], json!([]));
    problem(&get(&house, "auditor", &format!("{place}/certificate")).await, 409, "CONFLICT");
    let redriven = asked(&house, "dpo", Method::POST, &format!("{place}/redrive"), "").await;
    assert_eq!((redriven.status, &redriven.json()["erasure_id"]), (StatusCode::OK, &json!(id)));
    let list = get(&house, "auditor", &format!("/v1/downstreams?controller={SEE}")).await.json();
    assert_eq!(list["downstreams"][0]["open_purges"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_problem_documents_that_repeat_nothing() {
    let house = Setting::new().await;
    let (_, subject) = house.person("a@example.com").await;
    let planted = "planted-7f3a";
    let with = |key: &str, value: Value| {
        let mut body = request(&subject);
        body[key] = value;
        body
    };
    let invalid = [
        with(planted, json!(1)),
        with("actor", json!({ planted: planted })),
        with("legal_basis", json!(planted)),
        with("token", json!(planted)),
        with("actor", json!(format!("{planted} with blanks"))),
        json!(planted),
        json!({}),
    ];
    for body in invalid {
        let answer = post(&house, "dpo", "/v1/erasures", &body).await;
        problem(&answer, 400, "INVALID");
        assert!(!answer.body.windows(planted.len()).any(|part| part == planted.as_bytes()), "{body}");
    }
    problem(&asked(&house, "dpo", Method::POST, "/v1/erasures", "{").await, 400, "INVALID");
    problem(&asked(&house, "dpo", Method::POST, "/v1/erasures", vec![0xff]).await, 400, "INVALID");
    problem(&post(&house, "orders", "/v1/erasures", &request(&subject)).await, 403, "DENIED");
    problem(
        &post(&house, "dpo", "/v1/erasures", &with("subject_id", json!("sub_x"))).await,
        404,
        "NOT_FOUND",
    );
    for query in
        ["", "?state=COMPLETED", "?controller=see-tickets&state=DONE", "?controller=a&planted-7f3a=1"]
    {
        let answer = get(&house, "auditor", &format!("/v1/erasures{query}")).await;
        problem(&answer, 400, "INVALID");
        assert!(!String::from_utf8_lossy(&answer.body).contains(planted));
    }
    problem(
        &get(&house, "auditor", "/v1/erasures?controller=see-tickets&page_size=1001").await,
        400,
        "INVALID",
    );
    problem(&get(&house, "auditor", "/v1/erasures/era_nothing").await, 404, "NOT_FOUND");
    problem(&get(&house, "auditor", "/v1/nowhere").await, 404, "NOT_FOUND");
    problem(&get(&house, "auditor", "/").await, 404, "NOT_FOUND");
    problem(&asked(&house, "dpo", Method::DELETE, "/v1/erasures", "").await, 405, "INVALID");
    let large = vec![b' '; (4 << 20) + 1];
    problem(&asked(&house, "dpo", Method::POST, "/v1/erasures", large).await, 413, "EXHAUSTED");
    let now = cloakroom_core::clock::Clock::now_unix_ms(&cloakroom_core::clock::SystemClock);
    house.authority.issue(&crate::setting::holder("nameless", None), now, 1).unwrap();
    let nameless = get(&house, "nameless", "/v1/status").await;
    assert_eq!((nameless.status.as_u16(), nameless.kind()), (401, "application/problem+json"));
}

#[tokio::test(flavor = "multi_thread")]
async fn registers_are_shown_applied_and_refused_over_http() {
    let house = Setting::new().await;
    made(&house.tokenize(vec![item("1", "p", "ip_address", "192.0.2.7")]).await[0]);
    let shown = get(&house, "auditor", "/v1/registers/see-tickets").await.json();
    assert_eq!((shown["toml"].as_str().unwrap(), &shown["version"]), (shipped(SEE).as_str(), &json!(1)));
    let longer = shipped(SEE).replace("deadline_hours = 24", "deadline_hours = 48");
    for (path, version) in [("/v1/registers?dry_run=true", 1), ("/v1/registers", 2)] {
        let answer = asked(&house, "dpo", Method::POST, path, longer.clone()).await;
        assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
        assert!(!answer.json()["changes"].as_array().unwrap().is_empty());
        let in_force = get(&house, "auditor", "/v1/registers/see-tickets").await.json();
        assert_eq!(in_force["version"], version);
    }
    let stranding = longer.replace(", \"ip_address\"]", "]");
    problem(&asked(&house, "dpo", Method::POST, "/v1/registers", stranding).await, 409, "CONFLICT");
    problem(&asked(&house, "dpo", Method::POST, "/v1/registers", "planted =").await, 400, "INVALID");
    problem(&asked(&house, "orders", Method::POST, "/v1/registers", longer).await, 403, "DENIED");
    problem(&get(&house, "auditor", "/v1/registers/active-tickets").await, 403, "DENIED");
}

/// A replay that was decided is done before anything is shown, whoever stops the vault in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_owes_a_replay_serves_nothing_before_it_is_done() {
    let mut house = Setting::new().await;
    let (kept, _) = house.person("kept@example.com").await;
    let (gone, subject) = house.person("gone@example.com").await;
    house.erase(&subject).await;
    let ledger = get(&house, "admin", "/v1/ledger").await;
    assert_eq!((ledger.status, ledger.kind()), (StatusCode::OK, "text/plain; charset=utf-8"));
    let ledger = String::from_utf8(ledger.body.to_vec()).unwrap();
    let lines: Vec<&str> = ledger.lines().collect();
    assert_eq!(lines.len(), 1, "{ledger}");
    assert_eq!(get(&house, "admin", "/v1/ledger?since=1000000").await.body, "");
    assert_eq!(get(&house, "admin", "/v1/gate").await.json()["open"], true);

    let _ = house.stop().await;
    let owed = house.config().data.join("REPLAY-OWED");
    std::fs::write(&owed, "").unwrap();
    house.start().await;
    let shut = get(&house, "admin", "/v1/gate").await.json();
    assert_eq!(shut["open"], false);
    assert!(shut["reason"].as_str().unwrap().contains("not replayed"), "{shut}");
    let request = json!({ "lines": lines });
    problem(&post(&house, "dpo", "/v1/restore", &request).await, 403, "DENIED");
    problem(&post(&house, "admin", "/v1/restore", &json!({})).await, 503, "UNAVAILABLE");
    let forged = format!("{}x", lines[0]);
    let refused = post(&house, "admin", "/v1/restore", &json!({ "lines": [forged] })).await;
    assert!(refused.status.is_client_error(), "{:?}", refused.body);
    let counted = post(&house, "admin", "/v1/restore", &json!({ "lines": lines, "dry_run": true })).await;
    assert_eq!((counted.status, &counted.json()["accepted"]), (StatusCode::OK, &json!(false)));
    assert_eq!(get(&house, "admin", "/v1/gate").await.json()["open"], false, "nothing was replayed yet");
    assert!(owed.exists());
    assert_eq!(crate::watching::figure(&house, "cloakroom_gate_closed").await, Some(1.0));

    let done = post(&house, "admin", "/v1/restore", &request).await.json();
    assert_eq!((&done["accepted"], &done["entries"], &done["dead"]), (&json!(true), &json!(1), &json!(1)));
    assert!(!owed.exists());
    let read: Vec<_> = house.read(&[&kept, &gone]).await.iter().map(crate::setting::shown).collect();
    assert_eq!(read, [Ok("kept@example.com".to_owned()), Err(ErrorCode::Erased)]);
    assert_eq!(crate::watching::figure(&house, "cloakroom_gate_closed").await, Some(0.0));
}

/// Holds an answer to what `openapi.json` says of the operation.
fn as_described(document: &Value, (method, path): (&str, &str), answer: &Answer) {
    let status = answer.status.as_u16().to_string();
    let mut said = &document["paths"][path][method]["responses"][&status];
    assert!(!said.is_null(), "{method} {path}: {status} is not described: {:?}", answer.body);
    if let Some(place) = said["$ref"].as_str() {
        said = document.pointer(place.trim_start_matches('#')).unwrap();
    }
    let kind = answer.kind().split(';').next().unwrap();
    assert!(said["content"].get(kind).is_some(), "{method} {path}: {kind}");
}

/// Whom a value names is shown and forgotten, over both routes; for any other value, and for whoever may not, nobody
/// is; and every answer is one that is described.
#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_shown_and_forgotten_by_a_value_and_nobody_else_is() {
    const ROUTES: [&str; 2] = ["/v1/erasures/preview", "/v1/erasures"];
    let mut house = Setting::bare().await;
    let _drained = house.stop().await;
    let mut config = house.config();
    (config.lookup.per_second, config.lookup.burst) = (1, 40);
    house.start_with(config).await.unwrap();
    house.apply(&shipped(SEE)).await;
    let document = get(&house, "stranger", "/openapi.json").await.json();
    let (ada, subject) = house.person("ada.planted@example.com").await;
    let (bob, _) = house.person("bob.planted@example.com").await;
    for _ in 0..2 {
        house.person("twin.planted@example.com").await;
    }
    let sought = |route: &str, field: &str, value: &str| {
        let mut body = json!({
            "controller": SEE, "reason": "case-1", "lookup": { "field": field, "value": value },
        });
        if route == "/v1/erasures" {
            body["actor"] = json!("dsr-1");
            body["legal_basis"] = json!("CONSENT_WITHDRAWN");
        }
        body
    };
    let ask = async |who: &str, route: &str, body: &Value| {
        let answer = post(&house, who, route, body).await;
        as_described(&document, ("post", route), &answer);
        assert!(!String::from_utf8_lossy(&answer.body).contains("planted"), "{:?}", answer.body);
        answer
    };
    let read = async |token: &str| crate::setting::shown(&house.read(&[token]).await[0]);
    let shown = until(async || {
        let answer = ask("dpo", ROUTES[0], &sought(ROUTES[0], "email", " Ada.Planted@EXAMPLE.com")).await;
        (answer.status != StatusCode::SERVICE_UNAVAILABLE).then_some(answer)
    })
    .await;
    let tokens = json!([{ "token": ada, "activity": "ticket_purchase", "field": "email" }]);
    assert_eq!(shown.status, StatusCode::OK, "{:?}", shown.body);
    assert_eq!((&shown.json()["subject_id"], &shown.json()["tokens"]), (&json!(subject), &tokens));

    for route in ROUTES {
        let of = |field, value| sought(route, field, value);
        problem(&ask("dpo", route, &of("email", "never.planted@example.com")).await, 404, "NOT_FOUND");
        problem(&ask("dpo", route, &of("email", "twin.planted@example.com")).await, 409, "CONFLICT");
        problem(&ask("dpo", route, &of("full_name", "Ada planted")).await, 400, "INVALID");
        let mut unexplained = of("email", "ada.planted@example.com");
        unexplained["reason"] = json!("");
        problem(&ask("dpo", route, &unexplained).await, 400, "INVALID");
        for who in ["orders", "auditor", "lumen-dpo", "stranger"] {
            problem(&ask(who, route, &of("email", "ada.planted@example.com")).await, 403, "DENIED");
        }
        // Beyond the rate the right value names nobody either.
        let exhausted = until(async || {
            let answer = ask("admin", route, &of("email", "never.planted@example.com")).await;
            (answer.status == StatusCode::TOO_MANY_REQUESTS).then_some(answer)
        })
        .await;
        problem(&exhausted, 429, "EXHAUSTED");
        assert!(exhausted.headers.contains_key("retry-after"));
    }
    for token in [&ada, &bob] {
        assert!(read(token).await.is_ok(), "somebody was forgotten whom nobody named");
    }

    let made = ask("dpo", ROUTES[1], &sought(ROUTES[1], "email", "ADA.planted@example.com")).await;
    assert_eq!((made.status, &made.json()["erasure"]["tokens"]), (StatusCode::CREATED, &json!(1)));
    assert_eq!(read(&ada).await, Err(ErrorCode::Erased));
    assert_eq!(read(&bob).await.as_deref(), Ok("bob.planted@example.com"));
    for route in ROUTES {
        let gone = ask("dpo", route, &sought(route, "email", "ada.planted@example.com")).await;
        let never = ask("dpo", route, &sought(route, "email", "never.planted@example.com")).await;
        problem(&gone, 404, "NOT_FOUND");
        assert_eq!(gone.body, never.body, "what was erased is what never was");
    }
}

/// Calls every operation that `openapi.json` has, once so that it succeeds and once so that it does not, and
/// holds the answers to it.
#[tokio::test(flavor = "multi_thread")]
async fn every_operation_of_the_openapi_document_answers_as_it_says() {
    let house = Setting::new().await;
    let document = get(&house, "stranger", "/openapi.json").await;
    assert_eq!((document.status, document.kind()), (StatusCode::OK, "application/json"));
    let document = document.json();
    let lone = cloakroom_proto::vault::v1::TokenizeRequest {
        controller: ALONE.into(),
        activity: "sales".into(),
        ..purchase(vec![item("1", "p", "email", "a@example.com")])
    };
    let (_, subject) = made(&house.vault("orders").await.tokenize(lone).await.unwrap().into_inner().items[0]);
    let body = json!({
        "controller": ALONE, "subject_id": subject, "actor": "dsr-1", "reason": "", "legal_basis": "OBJECTION",
    });
    let erasure = post(&house, "dpo", "/v1/erasures", &body).await.json()["erasure"].clone();
    let id = erasure["erasure_id"].as_str().unwrap();
    until(async || {
        let found = get(&house, "dpo", &format!("/v1/erasures/{id}/certificate")).await;
        (found.status == StatusCode::OK).then_some(())
    })
    .await;
    let preview = json!({ "controller": ALONE, "subject_id": subject });
    let mut seen = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let concrete = path.replace("{erasure_id}", id).replace("{controller}", ALONE);
            let concrete = concrete.replace("{level}", "0").replace("{tile}", "000.p/1");
            let controller = operation["parameters"].as_array().is_some_and(|parameters| {
                parameters.iter().any(|parameter| parameter["in"] == "query" && parameter["required"] == true)
            });
            let concrete = if controller { format!("{concrete}?controller={ALONE}") } else { concrete };
            let body = match path.as_str() {
                "/v1/erasures" if method == "post" => body.to_string(),
                "/v1/erasures/preview" => preview.to_string(),
                "/v1/registers" => shipped(SEE),
                "/v1/restore" => json!({ "dry_run": true }).to_string(),
                _ => String::new(),
            };
            let verb = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            for who in ["admin", "stranger"] {
                let answer = asked(&house, who, verb.clone(), &concrete, body.clone()).await;
                as_described(&document, (method, path), &answer);
                // Nothing is configured to move to.
                let moves = path == "/v1/keys/move" && answer.status == StatusCode::CONFLICT;
                assert!(
                    who != "admin" || moves || answer.status.is_success(),
                    "{method} {path}: {:?}",
                    answer.body
                );
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 23);
    // What is not described is not served.
    for method in [Method::PUT, Method::PATCH, Method::DELETE] {
        for path in document["paths"].as_object().unwrap().keys() {
            let path = path.replace("{erasure_id}", id).replace("{controller}", ALONE);
            let path = path.replace("{level}", "0").replace("{tile}", "000.p/1");
            assert_eq!(asked(&house, "admin", method.clone(), &path, "").await.status.as_u16(), 405);
        }
    }
}
