//! Chapters in which services do their work with tokens, each seeing what the register lets it.

use cloakroom_client::{Answer, Refusal, Value};
use cloakroom_proto::affiliate::v1::affiliate_service_client::AffiliateServiceClient;
use cloakroom_proto::affiliate::v1::{ListCustomersRequest, RecordConversionRequest};
use cloakroom_proto::mail::v1::mail_service_client::MailServiceClient;
use cloakroom_proto::mail::v1::{SendTicketRequest, SendTicketResponse, SubscribeNewsletterRequest};
use cloakroom_proto::vault::v1::{DetokenizeItem, DetokenizeRequest, ErrorCode, ReadMode};

use super::http;
use super::letter::readable;
use super::story::{CONTROLLER, Cast, Order, SUPPORT_PURPOSE, Story};
use crate::commands::vault::code;
use crate::error::CliError;

/// The shop has a ticket mailed; it hands over tokens alone.
pub(super) async fn mail_a_ticket(story: &mut Story<'_>, cast: &Cast) -> Result<(), CliError> {
    story.chapter(
        "A ticket is mailed to a token",
        "The shop asks mail by token. mail reads address and name under its own activity, and keeps a sealed copy.",
    )?;
    let sent = send_ticket(story, &cast.person, "ticket-1").await?.map_err(|status| {
        story.broken(&format!("mail sends the ticket ({:?}: {})", status.code(), status.message()))
    })?;
    let [name, email] = &cast.secrets;
    let message = message_to(story, email).await;
    story.show(&message.clone().unwrap_or_default())?;
    story.hold(message.is_some(), &format!("the message {} reached {email} ({name})", sent.message_id))?;

    let channel = story.house.channel(story.house.ports.mail, "orders").await?;
    let request = SubscribeNewsletterRequest {
        controller: CONTROLLER.to_owned(),
        email_token: cast.person.newsletter_email.clone(),
    };
    let subscribed = MailServiceClient::new(channel).subscribe_newsletter(request).await;
    story.hold(subscribed.is_ok(), "she is on the newsletter list too, by a token of that activity")
}

/// Asks mail for a ticket mail, as the shop does.
pub(super) async fn send_ticket(
    story: &Story<'_>,
    order: &Order,
    key: &str,
) -> Result<Result<SendTicketResponse, tonic::Status>, CliError> {
    let channel = story.house.channel(story.house.ports.mail, "orders").await?;
    let request = SendTicketRequest {
        controller: CONTROLLER.to_owned(),
        email_token: order.email.clone(),
        name_token: order.name.clone(),
        order_reference: order.order_id.clone(),
        event_name: order.event.clone(),
        event_date: order.event_date.clone(),
        idempotency_key: key.to_owned(),
    };
    Ok(MailServiceClient::new(channel).send_ticket(request).await.map(tonic::Response::into_inner))
}

/// The messages that the development sink holds, as JSON.
pub(super) async fn messages(story: &Story<'_>) -> Vec<serde_json::Value> {
    let answer = http::get(story.house.ports.mail_health, "/messages").await;
    let list = answer.and_then(|(_, body)| serde_json::from_str::<serde_json::Value>(&body).ok());
    list.and_then(|list| list.as_array().cloned()).unwrap_or_default()
}

/// The newest message to an address, as it would be read.
async fn message_to(story: &Story<'_>, email: &str) -> Option<String> {
    let to = |message: &&serde_json::Value| message["to"].to_string().contains(email);
    let messages = messages(story).await;
    let letter = readable(messages.iter().rev().find(to)?["message"].as_str()?)?;
    Some(letter.lines().map(|line| format!("| {line}\n")).collect())
}

/// The affiliate programme attributes the sale to whoever brought the buyer.
pub(super) async fn record_a_conversion(story: &mut Story<'_>, cast: &Cast) -> Result<(), CliError> {
    story.chapter(
        "An affiliate earns a commission",
        "The affiliate programme knows the buyer by a token of its own activity; it can read no ticket.",
    )?;
    let channel = story.house.channel(story.house.ports.affiliate, "orders").await?;
    let mut affiliate = AffiliateServiceClient::new(channel);
    let order = &cast.person;
    let minor = order.amount.replace('.', "").parse().unwrap_or_default();
    let request = RecordConversionRequest {
        controller: CONTROLLER.to_owned(),
        order_reference: order.order_id.clone(),
        affiliate_code: order.affiliate_code.clone(),
        email_token: order.affiliate_email.clone(),
        name_token: String::new(),
        amount_minor: minor,
        currency: order.currency.clone(),
    };
    let recorded = affiliate.record_conversion(request).await;
    let recorded = recorded.map_err(|status| {
        story.broken(&format!("the conversion is recorded ({:?}: {})", status.code(), status.message()))
    })?;
    let commission = recorded.into_inner().commission_minor;
    story.show(&format!(
        "{} earned {} of {} {}",
        order.affiliate_code,
        major(commission),
        order.amount,
        order.currency
    ))?;
    let customers = customers(story, cast).await?;
    let hers = customers.iter().find(|customer| customer.order_reference == order.order_id);
    let masked = hers.map(|customer| customer.email_masked.clone()).unwrap_or_default();
    story.show(&format!("its customers: {} {masked}", order.order_id))?;
    let known = !masked.is_empty() && masked != cast.secrets[1];
    story.hold(known, "the affiliate sees its customer masked, and is owed its commission")
}

/// Pounds of pence: what the person of the story paid in has hundredths.
pub(super) fn major(minor: i64) -> String {
    format!("{}.{:02}", minor.div_euclid(100), minor.rem_euclid(100))
}

/// The affiliate's customers, as far as they are still known.
pub(super) async fn customers(
    story: &Story<'_>,
    cast: &Cast,
) -> Result<Vec<cloakroom_proto::affiliate::v1::Customer>, CliError> {
    let channel = story.house.channel(story.house.ports.affiliate, "orders").await?;
    let request = ListCustomersRequest {
        controller: CONTROLLER.to_owned(),
        affiliate_code: cast.person.affiliate_code.clone(),
    };
    let listed = AffiliateServiceClient::new(channel).list_customers(request).await;
    let failed =
        |status: tonic::Status| story.broken(&format!("customers are listed ({})", status.message()));
    Ok(listed.map_err(failed)?.into_inner().customers)
}

/// Reads tokens as somebody, for a purpose.
pub(super) async fn read(
    story: &Story<'_>,
    name: &str,
    purpose: &str,
    mode: ReadMode,
    tokens: &[&str],
) -> Result<Vec<Answer<Value>>, CliError> {
    let item = |token: &&str| DetokenizeItem { reference: String::new(), token: (*token).to_owned() };
    let request = DetokenizeRequest {
        controller: CONTROLLER.to_owned(),
        purpose: purpose.to_owned(),
        reason: "case-114".to_owned(),
        mode: mode.into(),
        items: tokens.iter().map(item).collect(),
    };
    Ok(story.house.settings(name).vault().await?.detokenize(request).await?)
}

/// The refusal that all answers share, if they do.
pub(super) fn refused(answers: &[Answer<Value>]) -> Option<&Refusal> {
    let mut refusals = answers.iter().map(|answer| answer.result.as_ref().err());
    let first = refusals.next()??;
    refusals.all(|refusal| refusal.is_some_and(|refusal| refusal.code == first.code)).then_some(first)
}

/// The support desk sees enough to know whom it speaks with.
pub(super) async fn read_masked(story: &mut Story<'_>, cast: &Cast) -> Result<(), CliError> {
    story.chapter(
        "The support desk reads masked",
        "Enough to know whom one speaks with. The access log has a line for it.",
    )?;
    let tokens = [cast.person.name.as_str(), cast.person.email.as_str()];
    story.command(&format!(
        "--as support detokenize --controller {CONTROLLER} --purpose {SUPPORT_PURPOSE} --masked {} {}",
        tokens[0], tokens[1]
    ))?;
    let answers = read(story, "support", SUPPORT_PURPOSE, ReadMode::Masked, &tokens).await?;
    let mut differ = answers.len() == tokens.len();
    for (answer, secret) in answers.iter().zip(&cast.secrets) {
        let value = answer.result.as_ref().ok().and_then(Value::as_str).unwrap_or_default();
        story.show(value)?;
        differ &= !value.is_empty() && value != secret;
    }
    story.hold(differ, "the desk sees her masked")
}

/// Whoever the register does not name for it reads nothing.
pub(super) async fn be_refused(story: &mut Story<'_>, cast: &Cast) -> Result<(), CliError> {
    story.chapter(
        "Others are refused",
        "The desk asks for the whole address; the affiliate programme asks for a ticket buyer's. The register lets neither.",
    )?;
    let cases = [("support", SUPPORT_PURPOSE), ("affiliate", "ticket_delivery")];
    for (name, purpose) in cases {
        story.command(&format!(
            "--as {name} detokenize --controller {CONTROLLER} --purpose {purpose} {}",
            cast.person.email
        ))?;
        let answers = read(story, name, purpose, ReadMode::Plain, &[&cast.person.email]).await?;
        let refusal = refused(&answers);
        let word = refusal.map_or("a value", code);
        story.hold(
            refusal.is_some_and(|refusal| refusal.code == ErrorCode::Denied),
            &format!("{name} gets {word}"),
        )?;
    }
    Ok(())
}
