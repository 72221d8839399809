//! The whole story with planted values, and then a look into everything that was written anywhere.

use std::fs;
use std::path::Path;
use std::time::Duration;

use cloakroom_client::{Answer, Client};
use cloakroom_proto::admin::v1::{
    GetCertificateRequest, GetSigningKeysRequest, LegalBasis, RequestErasureRequest, request_erasure_request,
};
use cloakroom_proto::affiliate::v1::{ListCustomersRequest, RecordConversionRequest};
use cloakroom_proto::mail::v1::{SendNewsletterRequest, SendTicketRequest, SubscribeNewsletterRequest};
use cloakroom_proto::vault::v1::{
    DetokenizeItem, DetokenizeRequest, ErrorCode, ReadMode, RectifyItem, RectifyRequest, ReleaseItem,
    ReleaseRequest, TokenizeItem, TokenizeRequest, Tokenized, tokenize_item,
};
use cloakroom_testkit::adversary::spelled::{Planted, Scan};
use cloakroom_testkit::daemons::Daemon;
use cloakroom_testkit::kafka::Kafka;
use cloakroom_testkit::seed::Sequence;
use cloakroom_testkit::wait;

use crate::collector::{Collector, TRACES};
use crate::house::{House, SETTLE_MAX, get};

/// How the span of an erasure's request is called.
const ERASING: &[u8] = b"AdminService/RequestErasure";

/// What everybody may know of a value is a code; everything else of these is random.
struct Garden {
    random: Sequence,
    planted: Vec<Planted>,
}

impl Garden {
    /// Letters that a name could have, in another script each time it is asked for.
    fn letters(&mut self, count: usize, foreign: bool) -> String {
        let scripts: [&[char]; 4] = [
            &['ą', 'ę', 'ł', 'ñ', 'ß', 'ø', 'ž', 'é', 'ü', 'ő'],
            &['б', 'г', 'д', 'ж', 'и', 'л', 'п', 'ф', 'ц', 'щ'],
            &['さ', 'く', 'ら', '髙', '橋', '東', '雲', '舟', '渡', '岬'],
            &['ع', 'ب', 'د', 'ا', 'ل', 'ر', 'ح', 'م', 'ن', 'ي'],
        ];
        let latin: Vec<char> = ('a'..='z').collect();
        let script = if foreign { *self.random.pick(&scripts) } else { latin.as_slice() };
        (0..count).map(|_| *self.random.pick(script)).collect()
    }

    /// A value of this field that the vault takes.
    fn grow(&mut self, what: &str, field: &str, foreign: bool) -> String {
        let value = match field {
            "email" => format!("{}@{}.example", self.letters(14, foreign), self.letters(10, false)),
            // Too few digits for a card.
            "phone" => format!("+44 7700 {:06}", self.random.below(1_000_000)),
            "birth_date" => {
                let (month, day) = (1 + self.random.below(12), 1 + self.random.below(28));
                format!("19{:02}-{month:02}-{day:02}", 10 + self.random.below(60))
            }
            "ip_address" => {
                let mut group = || self.random.below(0xf000) + 0x1000;
                format!(
                    "2001:db8:{:x}:{:x}:{:x}:{:x}:{:x}:{:x}",
                    group(),
                    group(),
                    group(),
                    group(),
                    group(),
                    group()
                )
            }
            "consent" => format!("consent-{:016x}", self.random.next()),
            "postal_address" => {
                format!(
                    "{} {}\n{}",
                    self.random.below(1000),
                    self.letters(12, foreign),
                    self.letters(9, foreign)
                )
            }
            _ => format!("{} {}", self.letters(9, foreign), self.letters(12, foreign)),
        };
        self.plant(what, value)
    }

    /// A number that a payment card could have: Visa's prefix, 16 digits, right by Luhn's sum.
    fn card_number(&mut self) -> String {
        let mut digits: Vec<u64> = vec![4];
        digits.extend((0..14).map(|_| self.random.below(10)));
        let doubled = |(place, digit): (usize, &u64)| match (place % 2, digit * 2) {
            (0, twice) if twice > 9 => twice - 9,
            (0, twice) => twice,
            _ => *digit,
        };
        let sum: u64 = digits.iter().enumerate().map(doubled).sum();
        digits.push((10 - sum % 10) % 10);
        digits.iter().map(u64::to_string).collect()
    }

    fn plant(&mut self, what: &str, value: String) -> String {
        self.planted.push(Planted { what: what.to_owned(), value: value.clone() });
        value
    }
}

/// Somebody with a value in every field there is.
struct Guest {
    subject_id: String,
    /// By `activity/field`.
    tokens: Vec<(String, String)>,
}

impl Guest {
    fn token(&self, place: &str) -> String {
        self.tokens.iter().find(|(known, _)| known == place).unwrap().1.clone()
    }
}

const ORDERS: [(&str, &[&str]); 3] = [
    ("ticket_purchase", &["email", "full_name", "phone", "birth_date", "postal_address", "ip_address"]),
    ("newsletter", &["email", "consent"]),
    ("affiliate_programme", &["email", "full_name"]),
];
const SUPPORT: (&str, &[&str]) = ("customer_service", &["email", "full_name", "message"]);

struct Story {
    house: House,
    garden: Garden,
    orders: Client,
    support: Client,
}

impl Story {
    async fn tokenize(
        &self,
        client: &Client,
        activity: &str,
        key: &str,
        items: Vec<TokenizeItem>,
    ) -> Vec<Answer<Tokenized>> {
        let request = TokenizeRequest {
            controller: self.house.controller.clone(),
            activity: activity.to_owned(),
            idempotency_key: key.to_owned(),
            items,
        };
        client.tokenize(request).await.unwrap()
    }

    async fn check_in(&mut self, who: &str, foreign: bool) -> Guest {
        let mut guest = Guest { subject_id: String::new(), tokens: vec![] };
        for (activity, fields) in ORDERS.into_iter().chain([SUPPORT]) {
            let mut items = Vec::new();
            for field in fields {
                let value = self.garden.grow(&format!("{who}'s {activity}/{field}"), field, foreign);
                let subject = match guest.subject_id.as_str() {
                    "" => tokenize_item::Subject::NewSubject("guest".to_owned()),
                    known => tokenize_item::Subject::SubjectId(known.to_owned()),
                };
                items.push(TokenizeItem {
                    subject: Some(subject),
                    field: (*field).to_owned(),
                    value: value.into(),
                    ..TokenizeItem::default()
                });
            }
            let client = if activity == SUPPORT.0 { &self.support } else { &self.orders };
            let key = format!("{who}-{activity}");
            let answers = self.tokenize(client, activity, &key, items.clone()).await;
            let again = self.tokenize(client, activity, &key, items).await;
            for ((field, answer), again) in fields.iter().zip(answers).zip(again) {
                let tokenized = answer.result.unwrap();
                assert_eq!(again.result.unwrap().token, tokenized.token);
                guest.subject_id = tokenized.subject_id;
                guest.tokens.push((format!("{activity}/{field}"), tokenized.token));
            }
        }
        guest
    }

    /// What the vault must refuse, and must not repeat to anybody.
    async fn refuse(&mut self, guest: &Guest) {
        let wrong = [
            ("email", format!("{} without an at sign", self.garden.letters(16, false))),
            ("birth_date", format!("born {}", self.garden.letters(16, true))),
            ("full_name", self.garden.card_number()),
            ("phone", format!("call {}", self.garden.letters(16, false))),
            ("full_name", format!("{}\0{}", self.garden.letters(8, false), self.garden.letters(8, false))),
            ("no_such_field", self.garden.letters(16, false)),
        ];
        for (field, value) in wrong {
            let value = self.garden.plant(&format!("a refused {field}"), value);
            let item = TokenizeItem {
                subject: Some(tokenize_item::Subject::SubjectId(guest.subject_id.clone())),
                field: field.to_owned(),
                value: value.clone().into(),
                ..TokenizeItem::default()
            };
            let mut answers = self.tokenize(&self.orders, "ticket_purchase", "", vec![item]).await;
            let refusal = answers.remove(0).result.unwrap_err();
            assert!(!refusal.message.contains(&value), "{refusal}");
        }
        // A key used for something else, a value where an id belongs.
        let other = self.garden.grow("a value under a used key", "email", false);
        let item = TokenizeItem {
            subject: Some(tokenize_item::Subject::NewSubject("x".to_owned())),
            field: "email".to_owned(),
            value: other.into(),
            ..TokenizeItem::default()
        };
        let answers = self.tokenize(&self.orders, "newsletter", "Ann-newsletter", vec![item]).await;
        assert_eq!(answers[0].result.as_ref().unwrap_err().code, ErrorCode::Conflict);
        let as_token = self.garden.grow("a value in a token's place", "email", false);
        let refused = self.read(&self.orders, "ticket_delivery", ReadMode::Plain, &as_token).await;
        assert!(refused.is_err());
    }

    async fn read(
        &self,
        client: &Client,
        purpose: &str,
        mode: ReadMode,
        token: &str,
    ) -> Result<cloakroom_client::Value, cloakroom_client::Refusal> {
        let request = DetokenizeRequest {
            controller: self.house.controller.clone(),
            purpose: purpose.to_owned(),
            mode: mode.into(),
            items: vec![DetokenizeItem { reference: String::new(), token: token.to_owned() }],
            ..DetokenizeRequest::default()
        };
        client.detokenize(request).await.unwrap().remove(0).result
    }

    /// Mail and affiliate at work. An address beyond ASCII may not be mailable; what is said of it matters here.
    async fn use_tokens(&self, guest: &Guest, order: &str) {
        let controller = self.house.controller.clone();
        let mut mail = self.house.mail_client();
        let ticket = SendTicketRequest {
            controller: controller.clone(),
            email_token: guest.token("ticket_purchase/email"),
            name_token: guest.token("ticket_purchase/full_name"),
            order_reference: order.to_owned(),
            event_name: "Noc świętojańska".to_owned(),
            idempotency_key: order.to_owned(),
            ..SendTicketRequest::default()
        };
        let _mailable = mail.send_ticket(ticket).await;
        let subscribe = SubscribeNewsletterRequest {
            controller: controller.clone(),
            email_token: guest.token("newsletter/email"),
        };
        mail.subscribe_newsletter(subscribe).await.unwrap();
        let mut affiliate = self.house.affiliate_client();
        let conversion = RecordConversionRequest {
            controller: controller.clone(),
            order_reference: order.to_owned(),
            affiliate_code: "AFF-TEST".to_owned(),
            email_token: guest.token("affiliate_programme/email"),
            name_token: guest.token("affiliate_programme/full_name"),
            amount_minor: 7_400,
            currency: "EUR".to_owned(),
        };
        affiliate.record_conversion(conversion).await.unwrap();
        let list = ListCustomersRequest { controller, affiliate_code: "AFF-TEST".to_owned() };
        affiliate.list_customers(list).await.unwrap();
    }

    async fn correct_and_release(&mut self, guest: &Guest) {
        let controller = self.house.controller.clone();
        let value = self.garden.grow("a corrected name", "full_name", true);
        let token = guest.token("affiliate_programme/full_name");
        let item = RectifyItem { reference: String::new(), token, value: value.into() };
        let request = RectifyRequest { controller: controller.clone(), items: vec![item] };
        self.orders.rectify(request).await.unwrap().remove(0).result.unwrap();
        let item = ReleaseItem { reference: String::new(), token: guest.token("newsletter/consent") };
        let request = ReleaseRequest { controller, items: vec![item] };
        self.orders.release(request).await.unwrap().remove(0).result.unwrap();
    }

    /// Erases, and keeps certificate and keys as an officer would: in files.
    async fn erase(&self, guest: &Guest, papers: &Path) {
        let dpo = self.house.admin("dpo");
        let request = RequestErasureRequest {
            controller: self.house.controller.clone(),
            who: Some(request_erasure_request::Who::Token(guest.token("ticket_purchase/email"))),
            actor: "dsr-2027-1".to_owned(),
            reason: "case-1".to_owned(),
            legal_basis: LegalBasis::Objection.into(),
            ..RequestErasureRequest::default()
        };
        let erasure = dpo.request_erasure(request).await.unwrap().erasure.unwrap();
        self.house.completed(&erasure.erasure_id).await;
        let request = GetCertificateRequest { erasure_id: erasure.erasure_id.clone() };
        let certificate = dpo.get_certificate(request).await.unwrap().certificate;
        fs::write(papers.join(format!("{}.jws", erasure.erasure_id)), &certificate).unwrap();
        let claims = certificate.split('.').nth(1).unwrap();
        let claims = data_encoding::BASE64URL_NOPAD.decode(claims.as_bytes()).unwrap();
        fs::write(papers.join(format!("{}.json", erasure.erasure_id)), claims).unwrap();
        let jwks = dpo.get_signing_keys(GetSigningKeysRequest {}).await.unwrap().jwks;
        fs::write(papers.join("keys.jwks"), jwks).unwrap();
    }

    /// An order export with some of everything, broken rows too, through the command line.
    async fn import(&mut self, source: &Path, papers: &Path) {
        let mut csv = csv::Writer::from_path(source.join("orders.csv")).unwrap();
        let heading = "order_id,event,event_date,name,email,phone,birth_date,address,amount,currency,\
                       affiliate_code,newsletter";
        csv.write_record(heading.split(',')).unwrap();
        for row in 1..=30 {
            let mut cell = |field| self.garden.grow(&format!("row {row}'s {field}"), field, row % 2 == 0);
            let mut name = cell("full_name");
            let email = cell("email");
            let email = if row % 7 == 0 { email.replace('@', " at ") } else { email };
            let (phone, born, address) = (cell("phone"), cell("birth_date"), cell("postal_address"));
            if row % 11 == 0 {
                let card = self.garden.card_number();
                name = self.garden.plant(&format!("row {row}'s card"), card);
            }
            let order = format!("ST-{row}");
            let (code, newsletter) = if row % 2 == 0 { ("AFF-X", "yes") } else { ("", "no") };
            let front = [order.as_str(), "Noc", "2027-06-23", &name, &email, &phone];
            csv.write_record(front.into_iter().chain([&born, &address, "7400", "EUR", code, newsletter]))
                .unwrap();
        }
        csv.flush().unwrap();
        let map = include_str!("../../../../examples/orders/map.toml");
        fs::write(papers.join("map.toml"), map.replace("see-tickets", &self.house.controller)).unwrap();
        let out = |name: &str| papers.join(name).into_os_string();
        let mut import = Daemon::new(
            "cloakroom",
            [
                "--vault".into(),
                self.house.at.vault.to_string().into(),
                "--certs".into(),
                self.house.folder().join("certs").into_os_string(),
                "--as".into(),
                "orders".into(),
                "import".into(),
                source.join("orders.csv").into_os_string(),
                "--map".into(),
                out("map.toml"),
                "--out".into(),
                out("orders.tokens.csv"),
                "--rejects".into(),
                out("orders.rejects.csv"),
                "--state".into(),
                out("orders.state.json"),
            ],
            self.house.folder().join("logs/import.log"),
        );
        import.start();
        let ended = import.wait(Duration::from_secs(60)).await;
        assert!(ended.success(), "{}", import.output());
        let rejects = fs::read_to_string(papers.join("orders.rejects.csv")).unwrap();
        assert!(rejects.contains("malformed") && rejects.contains("card-number"), "{rejects}");
        let tokens = fs::read_to_string(papers.join("orders.tokens.csv")).unwrap();
        assert!(tokens.lines().count() > 20, "{tokens}");
    }

    async fn keep_metrics(&self, papers: &Path) {
        let at = &self.house.at;
        for (name, address) in
            [("vault", at.vault_health), ("mail", at.mail_health), ("affiliate", at.affiliate_health)]
        {
            for page in ["metrics", "readyz"] {
                let (status, text) = get(address, &format!("/{page}")).await.unwrap();
                assert_eq!(status, 200, "{name}");
                fs::write(papers.join(format!("{name}.{page}")), text).unwrap();
            }
        }
    }
}

/// The story is told, daemons are killed in the middle of it, values live and values are erased; then nothing that
/// was planted stands in any file of any data folder, log, trace, metric, Kafka segment, the CSV with tokens or
/// anybody's output, in any spelling. That the look would have found it is shown in the same test.
#[tokio::test]
async fn no_planted_value_is_written_anywhere() {
    let kafka = Kafka::start();
    let mut house = House::prepare(Some(&kafka.bootstrap()));
    let papers = house.folder().join("papers");
    fs::create_dir(&papers).unwrap();
    let collector = Collector::start(house.folder()).await;
    house.tell_everything(collector);
    house.vault.start();
    house.vault_is_ready().await;
    house.apply_register().await;
    house.mail.start();
    house.affiliate.start();
    house.downstreams_are_ready().await;

    let garden = Garden { random: Sequence::from_variable("SYSTEM_SEED"), planted: vec![] };
    let (orders, support) = (house.client("orders"), house.client("support"));
    let mut story = Story { house, garden, orders, support };
    let ann = story.check_in("Ann", false).await;
    let joy = story.check_in("Joy", true).await;
    let leo = story.check_in("Leo", false).await;
    story.refuse(&ann).await;
    for (guest, order) in [(&ann, "order-1"), (&joy, "order-2"), (&leo, "order-3")] {
        story.use_tokens(guest, order).await;
    }
    let message = story.garden.grow("a newsletter nobody keeps", "message", false);
    let newsletter = SendNewsletterRequest {
        controller: story.house.controller.clone(),
        subject: "News".to_owned(),
        body: message,
    };
    story.house.mail_client().send_newsletter(newsletter).await.unwrap();
    story.correct_and_release(&ann).await;
    let email = ann.token("ticket_purchase/email");
    story.read(&story.support, "customer_support", ReadMode::Masked, &email).await.unwrap();
    let source = tempfile::tempdir().unwrap(); // the export itself is in the clear
    story.import(source.path(), &papers).await;
    story.erase(&ann, &papers).await;
    // Spans leave in the order in which they ended, some seconds later; what is killed takes with it what has not
    // left.
    let traces = story.house.folder().join(TRACES);
    wait::until(SETTLE_MAX, "the spans of all so far have left", async || {
        let spans = fs::read(&traces).unwrap();
        spans.windows(ERASING.len()).any(|part| part == ERASING).then_some(())
    })
    .await;
    for daemon in [&mut story.house.vault, &mut story.house.mail, &mut story.house.affiliate] {
        daemon.kill9();
        daemon.start();
    }
    story.house.vault_is_ready().await;
    story.house.downstreams_are_ready().await;
    story.erase(&joy, &papers).await;
    story.use_tokens(&leo, "order-4").await;
    story.keep_metrics(&papers).await;
    for daemon in [&mut story.house.mail, &mut story.house.affiliate, &mut story.house.vault] {
        assert!(daemon.stop().await.success(), "{}", daemon.last_words());
    }
    look(&story, &kafka);
}

fn look(story: &Story, kafka: &Kafka) {
    let scan = Scan::of(&story.garden.planted);
    let kafka = kafka.data_folder();
    let folders = [story.house.folder(), kafka.as_path()];
    for file in [TRACES, "metrics.otlp"] {
        let telemetry = fs::metadata(story.house.folder().join(file)).unwrap().len();
        assert!(telemetry > 10_000, "only {telemetry} bytes came for {file}");
    }
    let (found, bytes) = scan.folders(folders);
    println!("{} values looked for in {} MiB", story.garden.planted.len(), bytes >> 20);
    assert!(found.is_empty(), "{found:#?}");

    let control = story.house.folder().join("vault/data/control");
    let planted = scan.plant(&control);
    let (found, _) = scan.folders(folders);
    for (what, file) in planted {
        let seen = found.iter().any(|found| found.what == what && found.file == file);
        assert!(seen, "the look overlooks {what}");
    }
}
