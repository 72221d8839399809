//! The story: its chapters in order, how they are told, and that each step is checked while it is shown.

use std::path::PathBuf;

use super::house::House;
use super::{forgetting, taking_in, using, yesterday};
use crate::error::CliError;
use crate::output::{Output, Tone};

/// Whose customers the story is about.
pub(super) const CONTROLLER: &str = "see-tickets";

/// What the purposes of the example register are called.
pub(super) const SUPPORT_PURPOSE: &str = "customer_support";

/// One order, as the CSV with tokens has it: nothing of anybody.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    pub(super) order_id: String,
    pub(super) event: String,
    pub(super) event_date: String,
    pub(super) amount: String,
    pub(super) currency: String,
    pub(super) affiliate_code: String,
    pub(super) name: String,
    pub(super) email: String,
    pub(super) subject_id: String,
    pub(super) newsletter_email: String,
    pub(super) affiliate_email: String,
}

/// Whom the story is about.
#[derive(Clone, Debug)]
pub(super) struct Cast {
    /// She will be forgotten.
    pub(super) person: Order,
    /// He will not.
    pub(super) other: Order,
    /// Her name and her address, to be looked for where they must not be.
    pub(super) secrets: [String; 2],
}

/// What the tour afterwards needs.
pub(super) struct Held {
    pub(super) other: Order,
    pub(super) erasure_id: String,
}

/// The teller: what was shown, and whether it held.
pub(super) struct Story<'a> {
    pub(super) house: &'a mut House,
    pub(super) output: &'a Output,
    chapters: u32,
}

/// Tells the whole story. Ends at the first step that does not hold.
pub(super) async fn tell(house: &mut House, output: &Output) -> Result<Held, CliError> {
    let mut story = Story { house, output, chapters: 0 };
    story.open().await?;
    taking_in::register(&mut story).await?;
    let cast = taking_in::import(&mut story).await?;
    taking_in::look_at_the_csv(&mut story, &cast)?;
    using::mail_a_ticket(&mut story, &cast).await?;
    using::record_a_conversion(&mut story, &cast).await?;
    using::read_masked(&mut story, &cast).await?;
    using::be_refused(&mut story, &cast).await?;
    yesterday::back_up(&mut story)?;
    let erasure = forgetting::erase(&mut story, &cast).await?;
    forgetting::hear_the_answers(&mut story, &erasure).await?;
    forgetting::verify_the_certificate(&mut story, &cast, &erasure).await?;
    forgetting::read_again(&mut story, &cast).await?;
    forgetting::mail_again(&mut story, &cast).await?;
    forgetting::look_everywhere(&mut story, &cast)?;
    yesterday::restore_it(&mut story, &cast).await?;
    Ok(Held { other: cast.other, erasure_id: erasure.id })
}

impl Story<'_> {
    async fn open(&mut self) -> Result<(), CliError> {
        self.plain("Cloakroom: check personal data in, carry tokens, forget for good.")?;
        let folder = self.house.folder.typed("");
        self.note(&format!(
            "One vault and two stores that hold copies, all on this machine, in {}",
            folder.display()
        ))?;
        self.house.start_vault().await?;
        let ports = self.house.ports;
        self.note(&format!("The vault serves on {}, its admin endpoint on {}.", ports.vault, ports.admin))
    }

    /// Begins a chapter: its title, and why it matters in a line.
    pub(super) fn chapter(&mut self, title: &str, why: &str) -> Result<(), CliError> {
        self.chapters = self.chapters.saturating_add(1);
        let title = self.output.paint(Tone::Strong, &format!("{:>2}  {title}", self.chapters));
        self.output.line(&format!("\n{title}"))?;
        self.note(why)
    }

    /// The command that does what is shown.
    pub(super) fn command(&self, words: &str) -> Result<(), CliError> {
        self.output
            .line(&format!("    {}", self.output.paint(Tone::Warning, &format!("$ cloakroom {words}"))))
    }

    /// Something beside the matter.
    pub(super) fn note(&self, text: &str) -> Result<(), CliError> {
        self.output.line(&format!("    {}", self.output.paint(Tone::Faint, text)))
    }

    /// What is shown, indented.
    pub(super) fn show(&self, text: &str) -> Result<(), CliError> {
        text.lines().try_for_each(|line| self.output.line(&format!("    {line}")))
    }

    fn plain(&self, text: &str) -> Result<(), CliError> {
        self.output.line(&self.output.paint(Tone::Strong, text))
    }

    /// Says that a step held, or ends the story.
    pub(super) fn hold(&self, holds: bool, what: &str) -> Result<(), CliError> {
        if !holds {
            return Err(self.broken(what));
        }
        self.output.line(&format!("    {} {what}", self.output.paint(Tone::Good, "✓")))
    }

    /// A step that did not hold.
    pub(super) fn broken(&self, what: &str) -> CliError {
        CliError::Refused(format!("chapter {}: this did not hold: {what}", self.chapters))
    }

    /// A place in the run folder, as it was typed.
    pub(super) fn typed(&self, name: &str) -> PathBuf {
        self.house.folder.typed(name)
    }
}
