//! Chapters in which a person is forgotten, and it is shown that she is.

use std::path::{Path, PathBuf};

use cloakroom_proto::admin::v1::{
    GetCertificateRequest, LegalBasis, PreviewErasureRequest, RequestErasureRequest, preview_erasure_request,
    request_erasure_request,
};
use cloakroom_proto::affiliate::v1::affiliate_service_client::AffiliateServiceClient;
use cloakroom_proto::affiliate::v1::{GetStatementRequest, StatementLine};
use cloakroom_proto::vault::v1::{ErrorCode, ReadMode};

use super::story::{CONTROLLER, Cast, SUPPORT_PURPOSE, Story};
use super::using::{customers, major, messages, read, refused, send_ticket};
use crate::commands::vault::code;
use crate::commands::verify::verify;
use crate::commands::{erase, erasure};
use crate::error::CliError;
use cloakroom_crypto::hash::commitment;

/// An erasure under way, and the salt that its answer gave.
pub(super) struct Requested {
    pub(super) id: String,
    salt: String,
}

/// The officer looks at what would die, then has it die.
pub(super) async fn erase(story: &mut Story<'_>, cast: &Cast) -> Result<Requested, CliError> {
    story.chapter(
        "She asks to be forgotten",
        "The data protection officer looks first. Then the keys of all her values are destroyed: what was sealed under them is noise, in every backup too.",
    )?;
    let subject = &cast.person.subject_id;
    story.command(&format!(
        "--as dpo erase --controller {CONTROLLER} {subject} --actor dsr-2027-1 --reason case-114 --yes"
    ))?;
    let admin = story.house.settings("dpo").admin().await?;
    let preview = PreviewErasureRequest {
        controller: CONTROLLER.to_owned(),
        who: Some(preview_erasure_request::Who::SubjectId(subject.clone())),
        ..PreviewErasureRequest::default()
    };
    let preview = admin.preview_erasure(preview).await?;
    story.show(&erase::text(&preview))?;
    let hers =
        [&cast.person.email, &cast.person.name, &cast.person.newsletter_email, &cast.person.affiliate_email];
    let all = hers.iter().all(|token| preview.tokens.iter().any(|doomed| &doomed.token == *token));
    story.hold(all, "the preview names every token of hers, and changed nothing")?;

    let request = RequestErasureRequest {
        controller: CONTROLLER.to_owned(),
        who: Some(request_erasure_request::Who::SubjectId(subject.clone())),
        activities: Vec::new(),
        actor: "dsr-2027-1".to_owned(),
        reason: "case-114".to_owned(),
        legal_basis: LegalBasis::ConsentWithdrawn.into(),
        idempotency_key: "dsr-2027-1".to_owned(),
    };
    let begun = std::time::Instant::now();
    let done = admin.request_erasure(request).await?;
    let erasure = done.erasure.unwrap_or_default();
    let destroyed = erasure.keys_destroyed_unix_ms > 0 && erasure.epoch > 0;
    let took = begun.elapsed().as_millis();
    let what = format!(
        "{}: the keys of {} values are destroyed after {took} ms, in epoch {}",
        erasure.erasure_id, erasure.tokens, erasure.epoch
    );
    story.hold(destroyed, &what)?;
    Ok(Requested { id: erasure.erasure_id, salt: done.subject_salt })
}

/// Every store that holds copies is told through Kafka, purges, and answers with its signature.
pub(super) async fn hear_the_answers(story: &mut Story<'_>, requested: &Requested) -> Result<(), CliError> {
    story.chapter(
        "Every store that holds copies answers",
        "They are told through Kafka, purge their copies, and answer, signed. Until all have, it is not complete. (Some seconds: a first meeting on Kafka.)",
    )?;
    story.command(&format!("--as dpo erasure watch {}", requested.id))?;
    let admin = story.house.settings("dpo").admin().await?;
    let mut states: Vec<String> = Vec::new();
    let followed = erasure::follow(&admin, &requested.id, |now| {
        let state = erasure::state(now).to_owned();
        if states.last() != Some(&state) {
            states.push(state);
        }
        Ok(())
    });
    let late = |_| story.broken("the erasure completes within a minute");
    let complete =
        tokio::time::timeout(std::time::Duration::from_secs(60), followed).await.map_err(late)??;
    story.show(&states.join(" → "))?;
    for answer in &complete.downstreams {
        story.show(&format!(
            "{:<10} {}, {} copies purged ({})",
            answer.downstream, answer.status, answer.copies_purged, answer.evidence
        ))?;
    }
    let purged = |name: &str| {
        complete
            .downstreams
            .iter()
            .any(|answer| answer.downstream == name && answer.status == "PURGED" && answer.copies_purged > 0)
    };
    story.hold(
        purged("mail") && purged("affiliate"),
        "mail and affiliate have purged; the erasure is complete",
    )
}

/// The certificate is verified against the keys pinned before, without asking anybody.
pub(super) async fn verify_the_certificate(
    story: &mut Story<'_>,
    cast: &Cast,
    requested: &Requested,
) -> Result<(), CliError> {
    story.chapter(
        "A signed certificate says so",
        "Checked offline, against the keys that were pinned at the beginning. It holds no personal data.",
    )?;
    let at = |name: &str| story.typed(name).display().to_string();
    let (file, keys) = (at("certificate.jws"), at("keys.jwks"));
    story.command(&format!("--as dpo certificate {} --out {file}", requested.id))?;
    let request = GetCertificateRequest { erasure_id: requested.id.clone() };
    let certificate = story.house.settings("dpo").admin().await?.get_certificate(request).await?.certificate;
    story.house.folder.write("certificate.jws", certificate.as_bytes())?;
    story.command(&format!("verify {file} --keys {keys}"))?;
    let pinned = story.house.folder.at("keys.jwks");
    let pinned = std::fs::read_to_string(&pinned).map_err(CliError::file(&pinned))?;
    let verified = verify(&certificate, &pinned)?;
    story.show(&verified.text())?;
    story.hold(verified.certificate.erasure_id == requested.id, "the signature holds")?;
    let silent = cast.secrets.iter().all(|secret| !verified.claims.to_string().contains(secret.as_str()));
    story.hold(silent, "it names nobody")?;
    let opened = opens(&requested.salt, &cast.person.subject_id, &verified.certificate.subject_commitment);
    story.hold(
        opened,
        "with the salt that the answer gave, she can show that it is about her; nobody else can",
    )
}

fn opens(salt: &str, subject_id: &str, committed: &str) -> bool {
    let salt = data_encoding::HEXLOWER.decode(salt.as_bytes()).ok();
    let salt: Option<[u8; 32]> = salt.and_then(|salt| salt.try_into().ok());
    salt.is_some_and(|salt| data_encoding::HEXLOWER.encode(&commitment(&salt, subject_id)) == committed)
}

/// The same read as before says ERASED; everybody else is as before.
pub(super) async fn read_again(story: &mut Story<'_>, cast: &Cast) -> Result<(), CliError> {
    story.chapter(
        "Whoever asks now hears ERASED",
        "Not NOT_FOUND and not an error: erased, for good. Everybody else is as before.",
    )?;
    let (hers, his) = (&cast.person.email, &cast.other.email);
    for token in [hers, his] {
        story.command(&format!(
            "--as support detokenize --controller {CONTROLLER} --purpose {SUPPORT_PURPOSE} --masked {token}"
        ))?;
        let answers = read(story, "support", SUPPORT_PURPOSE, ReadMode::Masked, &[token]).await?;
        let refusal = refused(&answers);
        let value =
            answers.first().and_then(|answer| answer.result.as_ref().ok()).and_then(|value| value.as_str());
        let word = match refusal {
            Some(refusal) => code(refusal),
            None => value.unwrap_or_default(),
        };
        story.show(word)?;
        if token == hers {
            story.hold(refusal.is_some_and(|refusal| refusal.code == ErrorCode::Erased), "she is erased")?;
        } else {
            story.hold(value.is_some_and(|value| !value.is_empty()), "the next buyer is not")?;
        }
    }
    Ok(())
}

/// A second mail to her is refused; the affiliate keeps its sums and has lost the person.
pub(super) async fn mail_again(story: &mut Story<'_>, cast: &Cast) -> Result<(), CliError> {
    story.chapter(
        "The stores have forgotten her too",
        "The shop's systems still carry her token. It leads nowhere any more.",
    )?;
    let before = messages(story).await.len();
    let again = send_ticket(story, &cast.person, "ticket-2").await?;
    let word = again.as_ref().err().map(|status| format!("{:?}: {}", status.code(), status.message()));
    story.show(&word.unwrap_or_default())?;
    story.hold(again.is_err() && messages(story).await.len() == before, "mail sends her nothing any more")?;
    let other = send_ticket(story, &cast.other, "ticket-3").await?;
    story.hold(other.is_ok(), "the next buyer still gets his ticket")?;
    let customers = customers(story, cast).await?;
    let hers = customers.iter().find(|customer| customer.order_reference == cast.person.order_id);
    let forgotten = hers.is_none_or(|customer| customer.forgotten && customer.email_masked.is_empty());
    let sums = statement(story, cast).await?;
    let kept =
        sums.iter().any(|line| line.commission_minor > 0 && line.conversions == 1 && line.anonymous == 1);
    for line in &sums {
        story.show(&format!(
            "{}: {} conversion, {} of it anonymous, commission {} {}",
            cast.person.affiliate_code,
            line.conversions,
            line.anonymous,
            major(line.commission_minor),
            line.currency,
        ))?;
    }
    story.hold(forgotten && kept, "the affiliate keeps its commission and no longer knows for whom")
}

async fn statement(story: &Story<'_>, cast: &Cast) -> Result<Vec<StatementLine>, CliError> {
    let channel = story.house.channel(story.house.ports.affiliate, "orders").await?;
    let request = GetStatementRequest {
        controller: CONTROLLER.to_owned(),
        affiliate_code: cast.person.affiliate_code.clone(),
    };
    let answer = AffiliateServiceClient::new(channel).get_statement(request).await;
    let failed = |status: tonic::Status| story.broken(&format!("sums are told ({})", status.message()));
    Ok(answer.map_err(failed)?.into_inner().lines)
}

/// Every byte that the daemons wrote is searched for her name and address.
pub(super) fn look_everywhere(story: &mut Story<'_>, cast: &Cast) -> Result<(), CliError> {
    story.chapter(
        "Nothing of her is on this disk",
        "Every file that the daemons wrote is searched for her name and address, as they are.",
    )?;
    let mut files =
        vec![story.house.folder.at("orders.tokens.csv"), story.house.folder.at("orders.rejects.csv")];
    for folder in ["vault", "mail", "affiliate", "logs", "backups"] {
        gather(&story.house.folder.at(folder), &mut files);
    }
    let holds = |path: &Path| {
        let bytes = std::fs::read(path).unwrap_or_default();
        cast.secrets.iter().any(|secret| contains(&bytes, secret.as_bytes()))
    };
    let found: Vec<&PathBuf> = files.iter().filter(|path| holds(path)).collect();
    found.iter().try_for_each(|path| story.show(&format!("found in {}", path.display())))?;
    story.hold(found.is_empty(), &format!("searched {} files: not found", files.len()))?;
    let source = story.house.folder.at("orders.csv");
    story.hold(holds(&source), "and the search works: it finds her in the export that she came from")
}

fn gather(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => gather(&entry.path(), files),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    let Some((first, _)) = wanted.split_first() else { return false };
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        let Some(here) = rest.get(at..) else { return false };
        if here.starts_with(wanted) {
            return true;
        }
        rest = here.get(1..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_finds_what_is_there_and_nothing_else() {
        assert!(
            contains(b"aab", b"ab") && contains(b"ab", b"ab") && contains("é".as_bytes(), "é".as_bytes())
        );
        assert!(
            !contains(b"aac", b"ab")
                && !contains(b"a", b"ab")
                && !contains(b"", b"a")
                && !contains(b"a", b"")
        );
    }

    #[test]
    fn only_her_salt_opens_the_commitment() {
        let salt = [7; 32];
        let committed = data_encoding::HEXLOWER.encode(&commitment(&salt, "sub_x"));
        let hex = data_encoding::HEXLOWER.encode(&salt);
        assert!(opens(&hex, "sub_x", &committed));
        assert!(!opens(&hex, "sub_y", &committed) && !opens("", "sub_x", &committed));
    }
}
