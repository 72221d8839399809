//! Chapters in which a register is applied and an order export goes in.

use csv::StringRecord;

use super::story::{CONTROLLER, Cast, Order, Story};
use crate::commands::import::Import;
use crate::commands::register;
use crate::error::CliError;
use cloakroom_proto::admin::v1::{ApplyRegisterRequest, GetSigningKeysRequest};

/// The example, as it lies in the folder examples/.
const REGISTER: &str = include_str!("../../../../../examples/registers/see-tickets/register.toml");
const MAP: &str = include_str!("../../../../../examples/orders/map.toml");
const ORDERS: &[u8] = include_bytes!("../../../../../examples/orders/orders.csv");

/// Lines of the register's differences that are shown.
const CHANGES_SHOWN: usize = 8;

/// The register says who may store and read what; without it nobody may do anything.
pub(super) async fn register(story: &mut Story<'_>) -> Result<(), CliError> {
    story.chapter(
        "The register says who may do what",
        "A ticketing company's register of processing activities (GDPR Art. 30): what is not in it cannot be stored or read.",
    )?;
    let register = story.house.folder.write("register.toml", REGISTER.as_bytes())?;
    story.command(&format!("--as dpo register apply {}", story.typed("register.toml").display()))?;
    let admin = story.house.settings("dpo").admin().await?;
    let (toml, _) = register::read(&register)?;
    let answer = admin.apply_register(ApplyRegisterRequest { toml, dry_run: false }).await?;
    let text = register::text(&answer, false, story.output);
    let lines: Vec<&str> = text.lines().collect();
    let (changes, last) = lines.split_at(lines.len().saturating_sub(1));
    changes.iter().take(CHANGES_SHOWN).try_for_each(|line| story.show(&shortened(line)))?;
    if changes.len() > CHANGES_SHOWN {
        story.show(&format!("... and {} lines more", changes.len().saturating_sub(CHANGES_SHOWN)))?;
    }
    last.iter().try_for_each(|line| story.show(line))?;
    story.hold(answer.controller == CONTROLLER && answer.version >= 1, "the register is in force")?;

    story.command(&format!("--as auditor keys jwks --out {}", story.typed("keys.jwks").display()))?;
    let keys =
        story.house.settings("auditor").admin().await?.get_signing_keys(GetSigningKeysRequest {}).await?;
    story.house.folder.write("keys.jwks", keys.jwks.as_bytes())?;
    story.show(
        "The auditor pins the vault's public keys now, to check its certificates later without asking it.",
    )?;

    story.house.start_downstreams().await?;
    story.hold(true, "mail and affiliate, which the register names, have registered and follow Kafka")
}

fn shortened(line: &str) -> String {
    const WIDTH: usize = 110;
    if line.chars().count() <= WIDTH {
        return line.to_owned();
    }
    line.chars().take(WIDTH).chain(" ...".chars()).collect()
}

/// An order export goes in; what comes back carries tokens.
pub(super) async fn import(story: &mut Story<'_>) -> Result<Cast, CliError> {
    story.chapter(
        "An order export goes in",
        "Orders of some 1,770 invented buyers in 18 languages, with a dozen broken rows among them on purpose.",
    )?;
    let folder = &story.house.folder;
    let (csv, map) = (folder.write("orders.csv", ORDERS)?, folder.write("map.toml", MAP.as_bytes())?);
    let (folder, register) = (folder.at(""), folder.at("register.toml"));
    let at = |name: &str| story.typed(name).display().to_string();
    story.command(&format!("--as orders import {} --map {}", at("orders.csv"), at("map.toml")))?;
    let vault = story.house.settings("orders").vault().await?;
    let begun = std::time::Instant::now();
    let done = Import::into_folder(csv.clone(), map, register, &folder).with(&vault).await?;
    story.show(&format!(
        "{} rows in {:.1} s: {} taken, {} tokens, {} people recognised; {} broken rows are in {}",
        done.rows,
        begun.elapsed().as_secs_f64(),
        done.taken,
        done.tokens,
        done.people,
        done.rejected,
        at("orders.rejects.csv"),
    ))?;
    story.hold(
        done.taken.saturating_add(done.rejected) == done.rows,
        "every row is in one of the two files",
    )?;
    cast(story, &csv)
}

/// The buyer of row 1, who came through an affiliate and wants the newsletter; and the buyer of row 2.
fn cast(story: &Story<'_>, csv: &std::path::Path) -> Result<Cast, CliError> {
    let missing = || story.broken("the first two rows are in the file with tokens");
    let (heading, written) = first_rows(&story.house.folder.at("orders.tokens.csv")).ok_or_else(missing)?;
    let (source_heading, source) = first_rows(csv).ok_or_else(missing)?;
    let order = |row: &StringRecord| {
        let cell = |name: &str| cell(&heading, row, name);
        Order {
            order_id: cell("order_id"),
            event: cell("event"),
            event_date: cell("event_date"),
            amount: cell("amount"),
            currency: cell("currency"),
            affiliate_code: cell("affiliate_code"),
            name: cell("name"),
            email: cell("email"),
            subject_id: cell("subject_id"),
            newsletter_email: cell("newsletter_email"),
            affiliate_email: cell("affiliate_email"),
        }
    };
    let ([person, other, ..], [first, ..]) = (written.as_slice(), source.as_slice()) else {
        return Err(missing());
    };
    let secrets = ["name", "email"].map(|name| cell(&source_heading, first, name));
    Ok(Cast { person: order(person), other: order(other), secrets })
}

fn first_rows(path: &std::path::Path) -> Option<(StringRecord, Vec<StringRecord>)> {
    let mut reader = csv::Reader::from_path(path).ok()?;
    let heading = reader.headers().ok()?.clone();
    let rows = reader.records().take(3).collect::<Result<_, _>>().ok()?;
    Some((heading, rows))
}

fn cell(heading: &StringRecord, row: &StringRecord, name: &str) -> String {
    let at = heading.iter().position(|column| column == name);
    at.and_then(|at| row.get(at)).unwrap_or_default().to_owned()
}

/// Three lines of what comes back: the company's systems carry these.
pub(super) fn look_at_the_csv(story: &mut Story<'_>, cast: &Cast) -> Result<(), CliError> {
    story.chapter(
        "What comes back carries tokens",
        "The shop keeps this file. An e-mail token is still a valid address, so that the shop's own checks accept it.",
    )?;
    let path = story.house.folder.at("orders.tokens.csv");
    let text = std::fs::read_to_string(&path).map_err(CliError::file(&path))?;
    let (heading, rows) = first_rows(&path).ok_or_else(|| story.broken("the file with tokens is a CSV"))?;
    for row in &rows {
        let cell = |name: &str| cell(&heading, row, name);
        story.show(&format!("{}  {}  {}", cell("order_id"), cell("event"), cell("amount")))?;
        story.show(&format!("    name {}  email {}", cell("name"), cell("email")))?;
        story.show(&format!("    subject {}", cell("subject_id")))?;
    }
    let [name, email] = &cast.secrets;
    let absent = !name.is_empty() && !text.contains(name.as_str()) && !text.contains(email.as_str());
    story.hold(absent, &format!("neither {name:?} nor {email:?} is in it: they are in the export alone"))?;
    let hers = text.lines().filter(|line| line.contains(&cast.person.subject_id)).count();
    story.hold(hers >= 2, &format!("her {hers} orders bear one subject id: a repeated buyer was recognised"))
}
