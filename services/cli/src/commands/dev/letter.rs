//! A mail as a person would read it: headers that matter and text, decoded (RFC 2045, RFC 2047).

use data_encoding::BASE64;

/// Headers that are shown.
const HEADERS: [&str; 3] = ["From", "To", "Subject"];

/// Sender, recipient, subject and text of a message as it went over SMTP; `None` if it is none.
pub(super) fn readable(message: &str) -> Option<String> {
    let message = message.replace("\r\n", "\n");
    let (head, body) = message.split_once("\n\n")?;
    let mut text = String::new();
    for name in HEADERS {
        text.push_str(&format!("{name}: {}\n", words(&header(head, name)?)));
    }
    text.push('\n');
    for line in part(head, body).lines().filter(|line| !line.trim().is_empty()) {
        text.push_str(line);
        text.push('\n');
    }
    Some(text)
}

/// A header's content, its folded lines joined.
fn header(head: &str, name: &str) -> Option<String> {
    let unfolded = head.replace("\n ", " ").replace("\n\t", " ");
    unfolded.lines().find_map(|line| {
        let (found, content) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| content.trim().to_owned())
    })
}

/// The text of a message, or of the first part of one that has several.
fn part(head: &str, body: &str) -> String {
    let boundary = header(head, "Content-Type").and_then(|content| {
        let (_, boundary) = content.split_once("boundary=")?;
        Some(format!("--{}", boundary.trim_matches('"').split(['"', ';']).next()?))
    });
    if let Some(boundary) = boundary {
        let first = body.split(boundary.as_str()).nth(1).unwrap_or(body).trim_start();
        if let Some((head, body)) = first.split_once("\n\n") {
            return part(head, body);
        }
    }
    match header(head, "Content-Transfer-Encoding").as_deref() {
        Some("quoted-printable") => quoted(&body.replace("=\n", "")),
        Some("base64") => {
            let bytes = BASE64.decode(body.replace('\n', "").as_bytes()).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        _ => body.to_owned(),
    }
}

/// Encoded words, decoded; blanks between two of them are none.
fn words(text: &str) -> String {
    let mut decoded = String::new();
    let mut rest = text;
    while let Some((before, word)) = rest.split_once("=?") {
        let mut fields = word.splitn(3, '?');
        let (Some(_charset), Some(encoding), Some(tail)) = (fields.next(), fields.next(), fields.next())
        else {
            break;
        };
        let Some((content, after)) = tail.split_once("?=") else { break };
        if decoded.is_empty() || !before.trim().is_empty() {
            decoded.push_str(before);
        }
        if encoding.eq_ignore_ascii_case("b") {
            let bytes = BASE64.decode(content.as_bytes()).unwrap_or_default();
            decoded.push_str(&String::from_utf8_lossy(&bytes));
        } else {
            decoded.push_str(&quoted(&content.replace('_', " ")));
        }
        rest = after;
    }
    decoded.push_str(rest);
    decoded
}

/// Quoted-printable, its soft line ends taken out before.
fn quoted(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match hex.filter(|_| *first == b'=').and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_in_parts_reads_as_its_writer_meant_it() {
        let message = "From: T <t@mail.invalid>\r\nTo: =?utf-8?b?U2lvYmjDoW4=?=\r\n <s@example.com>\r\n\
                       Subject: For =?utf-8?b?RsOqdGU=?= =?utf-8?q?_du_=C3=A9?= now\r\n\
                       Content-Type: multipart/alternative; boundary=\"xyz\"\r\n\r\n--xyz\r\n\
                       Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
                       Dear Siobh=C3=A1n,\r\nsee =\r\nyou = here\r\n--xyz\r\nContent-Type: text/html\r\n\r\n<p>no</p>\r\n--xyz--\r\n";
        let text = readable(message).unwrap();
        assert_eq!(
            text,
            "From: T <t@mail.invalid>\nTo: Siobhán <s@example.com>\nSubject: For Fête du é now\n\nDear Siobhán,\nsee you = here\n"
        );
    }

    #[test]
    fn a_plain_mail_is_taken_as_it_is_and_anything_else_is_none() {
        let plain = "from: a\r\nto: b\r\nsubject: c\r\n\r\n=41\r\n";
        assert_eq!(readable(plain).unwrap(), "From: a\nTo: b\nSubject: c\n\n=41\n");
        assert_eq!(readable("hello"), None);
        assert_eq!(readable("from: a\r\n\r\nhello"), None);
        assert_eq!(words("=?utf-8?b?"), "=?utf-8?b?");
    }
}
