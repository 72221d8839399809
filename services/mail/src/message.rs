//! A mail as text and HTML. Names and texts come from people: in headers they are encoded, in HTML escaped,
//! and no line break of theirs begins a header.

use lettre::message::{Mailbox, MultiPart};
use lettre::{Address, Message};

use crate::MailError;

/// What stands in a ticket mail besides its recipient.
pub(crate) struct Ticket<'a> {
    pub(crate) event: &'a str,
    pub(crate) date: &'a str,
    pub(crate) order: &'a str,
}

/// A new Message-ID at the sender's domain.
pub(crate) fn message_id(sender: &Mailbox) -> String {
    format!("{}@{}", cloakroom_downstream::random_id(), sender.email.domain())
}

/// The mail that brings a ticket.
pub(crate) fn ticket(
    sender: &Mailbox,
    email: &str,
    name: &str,
    ticket: &Ticket<'_>,
    message_id: &str,
) -> Result<Message, MailError> {
    let name = one_line(name);
    let (event, date, order) = (one_line(ticket.event), one_line(ticket.date), one_line(ticket.order));
    let text = format!(
        "Dear {name},\r\n\r\nhere is your ticket for {event} on {date}.\r\n\r\nOrder: {order}\r\n\r\n\
         Please show this mail at the entrance.\r\n"
    );
    let html = format!(
        "<p>Dear <bdi>{}</bdi>,</p><p>here is your ticket for <b><bdi>{}</bdi></b> on {}.</p>\
         <p>Order: {}</p><p>Please show this mail at the entrance.</p>",
        escaped(&name),
        escaped(&event),
        escaped(&date),
        escaped(&order)
    );
    let to = Mailbox::new(Some(name).filter(|name| !name.is_empty()), address(email)?);
    built(sender, to, &format!("Your ticket for {event}"), text, &html, message_id)
}

/// One subscriber's copy of the newsletter.
pub(crate) fn newsletter(
    sender: &Mailbox,
    email: &str,
    subject: &str,
    body: &str,
    message_id: &str,
) -> Result<Message, MailError> {
    let paragraphs = body.split("\n\n").map(|text| format!("<p>{}</p>", escaped(text).replace('\n', "<br>")));
    let html: String = paragraphs.collect();
    let to = Mailbox::new(None, address(email)?);
    built(sender, to, &one_line(subject), body.to_owned(), &html, message_id)
}

fn built(
    sender: &Mailbox,
    to: Mailbox,
    subject: &str,
    text: String,
    html: &str,
    message_id: &str,
) -> Result<Message, MailError> {
    let html = format!(
        "<!doctype html><html><head><meta charset=\"utf-8\"></head><body dir=\"auto\">{html}</body></html>"
    );
    Message::builder()
        .from(sender.clone())
        .to(to)
        .subject(subject)
        .message_id(Some(format!("<{message_id}>")))
        .multipart(MultiPart::alternative_plain_html(text, html))
        .map_err(|_| MailError::Unmailable)
}

/// An address as people type it, blanks around it included.
fn address(email: &str) -> Result<Address, MailError> {
    email.trim().parse().map_err(|_| MailError::Unmailable)
}

/// The text without control characters, line breaks among them.
fn one_line(text: &str) -> String {
    let spaced: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    spaced.trim().to_owned()
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(email: &str, name: &str, event: &str) -> Result<String, MailError> {
        let sender: Mailbox = "Tickets <tickets@mail.example>".parse().unwrap();
        let facts = Ticket { event, date: "2027-06-21", order: "ST-1" };
        let message = ticket(&sender, email, name, &facts, "id@mail.example")?;
        Ok(String::from_utf8(message.formatted()).unwrap())
    }

    fn header_names(message: &str) -> Vec<&str> {
        let (head, _) = message.split_once("\r\n\r\n").unwrap();
        let begins = |line: &&str| !line.starts_with([' ', '\t']);
        head.split("\r\n").filter(begins).map(|line| line.split(':').next().unwrap()).collect()
    }

    #[test]
    fn nobody_s_name_or_event_begins_a_header() {
        let plain = sent("a@b.example", "Ada", "Fair").unwrap();
        let names = header_names(&plain);
        for (name, event) in [
            ("Ada\r\nBcc: all@b.example", "Fair"),
            ("Ada", "Fair\r\nBcc: all@b.example\r\n\r\nbody"),
            ("Ada\nX: y", "\u{85}X: y\u{0}"),
            ("\"Ada\" <x@y.example>, Eve", "a\rb"),
        ] {
            let message = sent("a@b.example", name, event).unwrap();
            assert_eq!(header_names(&message), names, "{name:?} {event:?}");
        }
        for email in [
            "a@b.example\r\nBcc: x@y.example",
            "a@b.example, x@y.example",
            "<a@b.example>",
            "",
            "a b@c.example",
        ] {
            assert!(matches!(sent(email, "Ada", "Fair"), Err(MailError::Unmailable)), "{email:?}");
        }
    }

    #[test]
    fn names_of_every_script_and_length_are_sent() {
        let long = "ß".repeat(200);
        for name in
            ["Zoë van 't Hoff", "שירה בן-דוד", "さくら", "X", "👩‍🎤", "  blank  ", "", &long, "e\u{301}"]
        {
            let message = sent(" a@b.example ", name, "Fête du Demi-Jour").unwrap();
            assert!(message.is_ascii(), "{name:?}");
            assert!(message.split("\r\n").all(|line| line.len() <= 998), "{name:?}"); // RFC 5322, 2.1.1
        }
    }

    #[test]
    fn html_is_escaped() {
        let message = sent("a@b.example", "<script>&\"'", "Fair").unwrap();
        assert!(!message.split("text/html").nth(1).unwrap().contains("<script>"));
        assert_eq!(escaped("<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
    }
}
