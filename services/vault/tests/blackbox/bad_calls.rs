//! Calls that are wrong as a whole, and items that name what there is not.

use cloakroom_proto::vault::v1::{
    DetokenizeItem, DetokenizeRequest, ErrorCode, ReadMode, TokenizeItem, TokenizeRequest,
};
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};

use crate::setting::{Setting, item, made, purchase, reading, refused, shown};

fn many(count: usize) -> Vec<TokenizeItem> {
    (0..count).map(|at| item(&at.to_string(), "p", "full_name", format!("Name {at}"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_items_are_taken_and_none_or_one_more_are_not() {
    let house = Setting::new().await;
    let mut shop = house.vault("orders").await;
    let answers = shop.tokenize(purchase(many(1_000))).await.unwrap().into_inner().items;
    assert_eq!(answers.len(), 1_000);
    assert_eq!(answers[999].reference, "999");
    let tokens: Vec<String> = answers.iter().map(|answer| made(answer).0).collect();
    let read = house.read(&tokens.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(shown(&read[999]).unwrap(), "Name 999");

    for count in [0, 1_001] {
        let status = shop.tokenize(purchase(many(count))).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{count}");
        let items = vec![DetokenizeItem::default(); count];
        let request = DetokenizeRequest { items, ..reading("ticket_delivery", ReadMode::Plain, &[]) };
        let status = house.vault("mail").await.detokenize(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{count}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn items_of_the_same_reference_are_each_answered_in_their_place() {
    let house = Setting::new().await;
    let answers = house
        .tokenize(vec![
            item("same", "a", "full_name", "First"),
            item("same", "a", "full_name", "Second"),
            item("same", "a", "email", "no address"),
            item("same", "b", "full_name", "First"),
        ])
        .await;
    assert!(answers.iter().all(|answer| answer.reference == "same"));
    assert_eq!(refused(&answers[2]).0, ErrorCode::Invalid);
    let tokens = [0, 1, 3].map(|at| made(&answers[at]).0);
    let read = house.read(&[&tokens[0], &tokens[1], &tokens[2]]).await;
    let read: Vec<String> = read.iter().map(|answer| shown(answer).unwrap()).collect();
    assert_eq!(read, ["First", "Second", "First"]);
    assert_ne!(tokens[0], tokens[2], "two people");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_of_more_than_128_bytes_is_that_items_fault() {
    let house = Setting::new().await;
    let (longest, longer) = ("r".repeat(128), "r".repeat(129));
    let answers = house
        .tokenize(vec![item(&longer, "p", "full_name", "A"), item(&longest, "p", "full_name", "B")])
        .await;
    assert_eq!(refused(&answers[0]).0, ErrorCode::Invalid);
    assert_eq!(answers[0].reference, longer);
    let token = made(&answers[1]).0;
    let items = [longer, longest].map(|reference| DetokenizeItem { reference, token: token.clone() });
    let request =
        DetokenizeRequest { items: items.into(), ..reading("ticket_delivery", ReadMode::Plain, &[]) };
    let read = house.vault("mail").await.detokenize(request).await.unwrap().into_inner().items;
    assert_eq!(shown(&read[0]), Err(ErrorCode::Invalid));
    assert_eq!(shown(&read[1]).unwrap(), "B");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_controller_is_nobodys_and_an_unknown_activity_field_or_shape_is_refused_by_item() {
    let house = Setting::new().await;
    let mut shop = house.vault("orders").await;
    let good = || purchase(vec![item("1", "p", "full_name", "Ann")]);
    let status = shop.tokenize(TokenizeRequest { controller: "nobody".into(), ..good() }).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);

    let request = TokenizeRequest { activity: "wiretapping".into(), ..good() };
    let answers = shop.tokenize(request).await.unwrap().into_inner().items;
    assert_eq!(refused(&answers[0]).0, ErrorCode::Denied);

    let answers = house
        .tokenize(vec![
            item("field", "p", "shoe_size", "43"),
            item("not of this activity", "p", "message", "43"),
            TokenizeItem { shape: 99, ..item("shape", "p", "full_name", "Ann") },
            TokenizeItem { subject: None, ..item("nobody", "p", "full_name", "Ann") },
            item("good", "p", "full_name", "Ann"),
        ])
        .await;
    let codes: Vec<_> = answers[..4].iter().map(|answer| refused(answer).0).collect();
    assert_eq!(codes, [ErrorCode::Denied, ErrorCode::Denied, ErrorCode::Invalid, ErrorCode::Invalid]);
    made(&answers[4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_purpose_is_denied_and_an_unknown_mode_shows_nothing() {
    let house = Setting::new().await;
    let (token, _) = house.person("a@example.com").await;
    let mut reader = house.vault("mail").await;
    for purpose in ["curiosity", "newsletter", "ticket_delivery "] {
        let request = reading(purpose, ReadMode::Plain, &[&token]);
        let read = reader.detokenize(request).await.unwrap().into_inner().items;
        assert_eq!(shown(&read[0]), Err(ErrorCode::Denied), "{purpose}");
    }
    let none = reader.detokenize(reading("", ReadMode::Plain, &[&token])).await.unwrap_err();
    assert_eq!(none.code(), Code::InvalidArgument, "a purpose has to be stated");
    let request = DetokenizeRequest { mode: 7, ..reading("ticket_delivery", ReadMode::Plain, &[&token]) };
    assert_eq!(reader.detokenize(request).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_4_mib_is_taken_and_one_byte_more_is_exhausted() {
    const MIB_4: usize = 4 << 20;
    let house = Setting::new().await;
    let mut shop = house.vault("orders").await;
    let of = |bytes: usize| {
        use prost::Message;
        let mut request = purchase(vec![item("1", "p", "full_name", vec![b'x'; bytes])]);
        let over = request.encoded_len() - bytes;
        request.items[0].value = vec![b'x'; bytes - over].into();
        assert_eq!(request.encoded_len(), bytes);
        request
    };
    let answers = shop.tokenize(of(MIB_4)).await.unwrap().into_inner().items;
    assert_eq!(refused(&answers[0]).0, ErrorCode::Invalid, "the message fits, its value is too long");
    let status = shop.tokenize(of(MIB_4 + 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(!status.message().contains('x') || status.message().len() < 100);
    house.person("still@example.com").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_larger_than_4_mib_is_exhausted() {
    let house = Setting::new().await;
    let value = "x".repeat(64 * 1024);
    let token = made(&house.tokenize(vec![item("1", "p", "full_name", &value)]).await[0]).0;
    let request = reading("ticket_delivery", ReadMode::Plain, &[token.as_str(); 65]);
    let status = house.vault("mail").await.detokenize(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let read = house.read(&[token.as_str(); 60]).await;
    assert_eq!(shown(&read[59]).unwrap().len(), value.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_requests_are_taken_and_one_that_unpacks_to_too_much_is_exhausted() {
    let house = Setting::new().await;
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let mut shop = house.vault("orders").await.send_compressed(encoding);
        let request = purchase(vec![item("1", "p", "full_name", "Ann")]);
        made(&shop.tokenize(request).await.unwrap().into_inner().items[0]);
        let bomb = purchase(vec![item("1", "p", "full_name", vec![b'x'; 6 << 20])]);
        let status = shop.tokenize(bomb).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{encoding:?}: {}", status.message());
    }
}

/// Sends bytes as they are.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        use bytes::BufMut;
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        use bytes::Buf;
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_message_are_the_callers_fault_and_are_not_repeated() {
    let house = Setting::new().await;
    let mut client = tonic::client::Grpc::new(house.vault_channel("orders").await);
    // Field 1 (controller) with bytes that are not UTF-8; then a length that goes nowhere.
    for bytes in [b"\x0a\x04pla\xff".to_vec(), b"\x0a\xff\xff\xff\xff\x0f".to_vec(), b"planted".to_vec()] {
        client.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static("/cloakroom.vault.v1.VaultService/Tokenize");
        let status = client.unary(Request::new(bytes), path, Raw).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(!status.message().contains("pla"), "{}", status.message());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_serves_is_unimplemented() {
    let house = Setting::new().await;
    let mut client = tonic::client::Grpc::new(house.vault_channel("orders").await);
    for path in ["/cloakroom.vault.v1.VaultService/Guess", "/cloakroom.admin.v1.AdminService/GetStatus"] {
        client.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static(path);
        let status = client.unary(Request::new(Vec::new()), path, Raw).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_has_passed_is_said_to_have_passed() {
    let house = Setting::new().await;
    let mut request = Request::new(purchase(many(1_000)));
    request.set_timeout(std::time::Duration::from_nanos(1));
    let status = house.vault("orders").await.tokenize(request).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    assert_eq!(house.person("after@example.com").await.0.len(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_in_the_middle_of_a_call_harms_nobody() {
    let house = Setting::new().await;
    let begun = std::time::Instant::now();
    house.vault("orders").await.tokenize(purchase(many(1_000))).await.unwrap();
    let took = begun.elapsed();
    // Wherever on its way through the vault the call is when its client leaves.
    let mut cut = 0;
    for part in 0..20 {
        let mut shop = house.vault("orders").await;
        let call = tokio::spawn(async move { shop.tokenize(purchase(many(1_000))).await.map(drop) });
        tokio::time::sleep(took * part / 20).await;
        cut += u32::from(!call.is_finished());
        call.abort();
        let _ = call.await;
    }
    assert!(cut >= 10, "only {cut} of 20 calls were still under way");
    let (token, _) = house.person("after@example.com").await;
    assert_eq!(shown(&house.read(&[&token]).await[0]).unwrap(), "after@example.com");
    let verdict =
        house.admin("admin").await.verify_log(cloakroom_proto::admin::v1::VerifyLogRequest {}).await;
    assert!(verdict.unwrap().into_inner().problems.is_empty());
}
