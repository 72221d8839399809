//! The chapters of yesterday's backup: it is made, and after the erasure it comes back.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cloakroom_client::{AdminClient, Client};
use cloakroom_engine::backup::Until;
use cloakroom_proto::vault::v1::{DetokenizeItem, DetokenizeRequest, ErrorCode, ReadMode};

use super::child::Child;
use super::house::{Beside, LOOK_EVERY, READY_WITHIN, beside};
use super::http;
use super::story::{CONTROLLER, Cast, Story};
use crate::commands::{backup, restore};
use crate::error::CliError;

/// Where the story keeps, on purpose, what nobody else may: yesterday's keys and their root.
const ON_PURPOSE: &str = "on-purpose";
const BACKUPS: &str = "backups";
/// Whoever mails tickets reads addresses.
const PURPOSE: &str = "ticket_delivery";

/// A backup is made while the vault runs.
pub(super) fn back_up(story: &mut Story<'_>) -> Result<(), CliError> {
    story.chapter(
        "The nightly backup is made",
        "The log as it is, while the vault runs: ciphertext alone, to lie anywhere. Keys are in no backup.",
    )?;
    let at = |name: &str| story.typed(name).display().to_string();
    story.command(&format!("backup create --data {} --target {}", at("vault/data"), at(BACKUPS)))?;
    let folder = &story.house.folder;
    let made = backup::create(&folder.at("vault/data"), &folder.at(BACKUPS), None)?;
    story.show(&backup::created(&made))?;
    story.hold(made.manifest.events > 0, "the backup is whole")?;
    for part in ["keys", "roots"] {
        still_copy(&folder.at("vault").join(part), &folder.at(ON_PURPOSE).join(part))?;
    }
    story.note("Aside, and for the last chapter only, the story keeps a copy of the keys and of their root.")
}

/// After the erasure: the backup beside today's keys, and beside yesterday's.
pub(super) async fn restore_it(story: &mut Story<'_>, cast: &Cast) -> Result<(), CliError> {
    story.chapter(
        "Yesterday's backup comes back",
        "The backup knows nothing of the erasure. Restored beside the vault, with a copy of today's keys, it has her ciphertext and no key to it.",
    )?;
    let folder = &story.house.folder;
    for part in ["keys", "roots"] {
        still_copy(&folder.at("vault").join(part), &folder.at("restored").join(part))?;
    }
    restored(story, "restored")?;
    let mut vault = Restored::start(story, "restored")?;
    let reason = vault.is_gated(story).await?;
    story.show(&format!("/readyz: {reason}"))?;
    story.hold(
        reason.contains("the log lacks"),
        "the gate is closed: nothing is served before somebody decides",
    )?;
    story.command(&format!("--admin {} --as dpo restore --accept-older-log --yes", vault.beside.admin))?;
    let (gate, done) = restore::accept(&vault.admin(story, "dpo").await?).await?;
    story.show(&restore::standing(&gate))?;
    vault.is_ready(story).await?;
    story.hold(done.accepted, "it serves what the backup has")?;
    let hers = vault.read(story, &cast.person.email).await?;
    story.hold(hers == Err(ErrorCode::Erased), "she is ERASED there too")?;
    let his = vault.read(story, &cast.other.email).await?;
    story.hold(his.is_ok_and(|value| !value.is_empty()), "the next buyer is not")?;
    vault.child.stop().await;

    story.note(
        "And had yesterday's root not been destroyed? The story kept it, on purpose, with yesterday's keys:",
    )?;
    restored(story, ON_PURPOSE)?;
    let mut vault = Restored::start(story, ON_PURPOSE)?;
    vault.is_ready(story).await?;
    let hers = vault.read(story, &cast.person.email).await?;
    let [_, address] = &cast.secrets;
    if let Ok(value) = &hers {
        story.show(value)?;
    }
    story.hold(
        hers.as_ref() == Ok(address),
        "with yesterday's root her address is back: destroying that root is what forgot her",
    )?;
    vault.child.stop().await;
    for name in ["restored", ON_PURPOSE] {
        let path = story.house.folder.at(name);
        fs::remove_dir_all(&path).map_err(CliError::file(&path))?;
    }
    story.note("The story removes both vaults, and the root that it should never have kept.")
}

fn restored(story: &Story<'_>, name: &str) -> Result<(), CliError> {
    let data = format!("{name}/data");
    let at = |name: &str| story.typed(name).display().to_string();
    story.command(&format!("backup restore --target {} --data {} --yes", at(BACKUPS), at(&data)))?;
    let folder = &story.house.folder;
    let (place, target) = (folder.at(&data), folder.at(BACKUPS));
    let (manifest, end) = backup::restore(None, &target, &place, Until::End, true)?;
    story.show(&backup::restored(&manifest, &end, &story.typed(&data), true))
}

/// A vault beside the vault.
struct Restored {
    beside: Beside,
    child: Child,
}

impl Restored {
    fn start(story: &Story<'_>, name: &'static str) -> Result<Self, CliError> {
        let (config, beside_it) = story.house.beside(name)?;
        let log = story.house.folder.at("logs").join(format!("{name}.log"));
        Ok(Self {
            beside: beside_it,
            child: Child::start("cloakroomd", &beside("cloakroomd")?, &config, log)?,
        })
    }

    /// Waits for an answer of its health port, and gives it.
    async fn answer(&mut self, story: &Story<'_>, wanted: fn(u16, &str) -> bool) -> Result<String, CliError> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if let Some((code, body)) = http::get(self.beside.health, "/readyz").await
                && wanted(code, &body)
            {
                return Ok(body);
            }
            if let Some(died) = self.child.ended() {
                return Err(died);
            }
            if Instant::now() > deadline {
                return Err(story.broken("the restored vault answers"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn is_gated(&mut self, story: &Story<'_>) -> Result<String, CliError> {
        self.answer(story, |code, body| code != 200 && !body.contains("starting")).await
    }

    async fn is_ready(&mut self, story: &Story<'_>) -> Result<(), CliError> {
        self.answer(story, |code, _| code == 200).await.map(drop)
    }

    async fn admin(&self, story: &Story<'_>, name: &str) -> Result<AdminClient, CliError> {
        let settings = story.house.settings(name);
        crate::settings::Settings { admin: self.beside.admin.to_string(), ..settings }.admin().await
    }

    async fn read(&self, story: &Story<'_>, token: &str) -> Result<Result<String, ErrorCode>, CliError> {
        let settings = story.house.settings("mail");
        let vault: Client =
            crate::settings::Settings { vault: self.beside.vault.to_string(), ..settings }.vault().await?;
        let request = DetokenizeRequest {
            controller: CONTROLLER.to_owned(),
            purpose: PURPOSE.to_owned(),
            reason: "story".to_owned(),
            mode: ReadMode::Plain.into(),
            items: vec![DetokenizeItem { reference: String::new(), token: token.to_owned() }],
        };
        let answer = vault.detokenize(request).await?.into_iter().next();
        let answer = answer.ok_or_else(|| story.broken("a token is answered"))?;
        Ok(match answer.result {
            Ok(value) => Ok(value.as_str().unwrap_or_default().to_owned()),
            Err(refusal) => Err(refusal.code),
        })
    }
}

/// Copies a folder that something may be writing to, until two copies in a row are the same: then nothing was
/// written between them, and they are what a kill at that moment would have left.
fn still_copy(from: &Path, to: &Path) -> Result<(), CliError> {
    const TRIES: usize = 200;
    let mut before = None;
    for _ in 0..TRIES {
        let now = read_all(from)?;
        if before.as_ref() == Some(&now) {
            return write_all(&now, to);
        }
        before = Some(now);
        std::thread::sleep(Duration::from_millis(20)); // the writer is another process
    }
    Err(CliError::Refused(format!("{} does not come to rest", from.display())))
}

type Files = Vec<(PathBuf, Vec<u8>)>;

fn read_all(folder: &Path) -> Result<Files, CliError> {
    let mut files = vec![];
    let mut folders = vec![PathBuf::new()];
    while let Some(inner) = folders.pop() {
        let path = folder.join(&inner);
        for entry in fs::read_dir(&path).map_err(CliError::file(&path))? {
            let entry = entry?;
            let name = inner.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                folders.push(name);
            } else if let Ok(bytes) = fs::read(entry.path()) {
                files.push((name, bytes)); // one that just went is seen at the next look
            }
        }
    }
    files.sort();
    Ok(files)
}

fn write_all(files: &Files, to: &Path) -> Result<(), CliError> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    let make = |path: &Path| {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(CliError::file(path))
    };
    make(to)?;
    for (name, bytes) in files {
        let path = to.join(name);
        path.parent().map(make).transpose()?;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(CliError::file(&path))?;
        std::io::Write::write_all(&mut file, bytes).map_err(CliError::file(&path))?;
    }
    Ok(())
}
