//! The mapping file: which columns of a CSV are personal data, and where each belongs. What each key means is
//! told in examples/orders/README.md. Checked whole, against the CSV's heading, before the first row is read.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::input::Shape;

/// The version of mapping files that this program reads.
const VERSION: u32 = 1;

/// Values that one request may carry (docs/api.md).
pub(super) const ITEMS_MAX: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    controller: String,
    #[serde(default)]
    file: Format,
    #[serde(default)]
    subject: Subject,
    #[serde(default)]
    columns: Columns,
    #[serde(default)]
    token: Vec<Token>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Format {
    delimiter: String,
}

impl Default for Format {
    fn default() -> Self {
        Self { delimiter: ",".to_owned() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Subject {
    identified_by: Option<String>,
    compare: Compare,
    column: String,
}

impl Default for Subject {
    fn default() -> Self {
        Self { identified_by: None, compare: Compare::default(), column: "subject_id".to_owned() }
    }
}

/// How two cells that tell who a row is about are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Compare {
    /// Byte for byte.
    #[default]
    Exact,
    /// As e-mail addresses: trimmed, lower case.
    Email,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Columns {
    keep: Vec<String>,
    drop: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    column: String,
    activity: String,
    field: String,
    #[serde(default)]
    shape: Shape,
    into: Option<String>,
    when: Option<Condition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    column: String,
    is: Option<Vec<String>>,
    filled: Option<bool>,
}

/// A mapping file that parsed, not yet held against a heading.
pub(crate) struct Mapping(File);

/// What is wrong with a mapping, or between it and the CSV. Names columns, never cells.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub(crate) struct MappingError(String);

fn wrong<T>(why: impl Into<String>) -> Result<T, MappingError> {
    Err(MappingError(why.into()))
}

impl Mapping {
    /// Reads the file's text.
    pub(crate) fn parse(text: &str) -> Result<Self, MappingError> {
        let file: File = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map_or(1, |before| before.matches('\n').count() + 1);
            MappingError(format!("line {line}: {}", error.message()))
        })?;
        if file.version != VERSION {
            return wrong(format!(
                "version {} is unknown; this program reads version {VERSION}",
                file.version
            ));
        }
        if file.token.is_empty() {
            return wrong("no [[token]]: nothing would go into the vault");
        }
        Ok(Self(file))
    }

    /// The character between cells.
    pub(crate) fn delimiter(&self) -> Result<u8, MappingError> {
        match self.0.file.delimiter.as_bytes() {
            [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r' | 0) => Ok(*byte),
            _ => wrong("file.delimiter must be one ASCII character, other than a quote or a line end"),
        }
    }

    /// Holds the mapping against the CSV's heading.
    pub(crate) fn plan(&self, heading: &[String]) -> Result<Plan, MappingError> {
        let file = &self.0;
        check_heading(heading, file.token.first())?;
        let at = |name: &str| {
            let found = heading.iter().position(|column| column == name);
            found.ok_or_else(|| MappingError(format!("the CSV's heading has no column {name:?}")))
        };
        let keep = file.columns.keep.iter().map(|name| at(name)).collect::<Result<BTreeSet<_>, _>>()?;
        let drop = file.columns.drop.iter().map(|name| at(name)).collect::<Result<BTreeSet<_>, _>>()?;
        let identified_by = file.subject.identified_by.as_deref().map(at).transpose()?;

        let mut activities: Vec<String> = Vec::new();
        let mut tokens = Vec::new();
        for token in &file.token {
            let activity = activities.iter().position(|activity| *activity == token.activity);
            let activity = activity.unwrap_or_else(|| {
                activities.push(token.activity.clone());
                activities.len() - 1
            });
            tokens.push(TokenPlan {
                column: at(&token.column)?,
                activity,
                field: token.field.clone(),
                shape: token.shape,
                into: token.into.clone().filter(|into| *into != token.column),
                when: token.when.as_ref().map(|when| when.plan(at)).transpose()?,
            });
        }
        let plan = Plan {
            controller: file.controller.clone(),
            heading: heading.to_vec(),
            subject_column: file.subject.column.clone(),
            compare: file.subject.compare,
            identified_by,
            activities,
            tokens,
            keep,
        };
        plan.check(&drop)?;
        Ok(plan)
    }
}

fn check_heading(heading: &[String], token: Option<&Token>) -> Result<(), MappingError> {
    let mut seen = BTreeSet::new();
    if let Some(twice) = heading.iter().find(|name| !seen.insert(name.as_str())) {
        return wrong(format!("the CSV's heading has two columns {twice:?}"));
    }
    if let ([only], Some(token)) = (heading, token)
        && *only != token.column
    {
        return wrong(
            "the CSV's heading is a single cell: is this a CSV, and is file.delimiter its delimiter?",
        );
    }
    Ok(())
}

impl Condition {
    fn plan(&self, at: impl Fn(&str) -> Result<usize, MappingError>) -> Result<When, MappingError> {
        let column = at(&self.column)?;
        match (&self.is, self.filled) {
            (Some(values), None) if !values.is_empty() => {
                Ok(When::Is { column, values: values.iter().map(|value| value.trim().to_owned()).collect() })
            }
            (None, Some(true)) => Ok(When::Filled { column }),
            _ => {
                wrong(format!("when.column {:?}: say is = [...] or filled = true, one of them", self.column))
            }
        }
    }
}

/// A mapping that fits its CSV. Columns are places in the CSV's heading, counted from 0.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The controller's slug.
    pub(super) controller: String,
    /// The CSV's heading.
    pub(super) heading: Vec<String>,
    /// The column that tells who a row is about.
    pub(super) identified_by: Option<usize>,
    /// How its cells are compared.
    pub(super) compare: Compare,
    /// Every activity once, in the order in which requests are made.
    pub(super) activities: Vec<String>,
    /// Every value of a row that goes into the vault.
    pub(super) tokens: Vec<TokenPlan>,
    subject_column: String,
    keep: BTreeSet<usize>,
}

/// One value of a row.
#[derive(Debug)]
pub(super) struct TokenPlan {
    pub(super) column: usize,
    /// A place in [`Plan::activities`].
    pub(super) activity: usize,
    pub(super) field: String,
    pub(super) shape: Shape,
    when: Option<When>,
    /// The new column that receives the token; none where it takes the value's own place.
    into: Option<String>,
}

#[derive(Debug)]
enum When {
    Is { column: usize, values: Vec<String> },
    Filled { column: usize },
}

/// What stands in a column of the file written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    /// The CSV's own cell.
    Kept(usize),
    /// A token, by its place in [`Plan::tokens`].
    Token(usize),
    /// The subject id.
    Subject,
}

impl Plan {
    fn check(&self, drop: &BTreeSet<usize>) -> Result<(), MappingError> {
        let mut names: BTreeSet<&str> = self.heading.iter().map(String::as_str).collect();
        let new = self.tokens.iter().filter_map(|token| token.into.as_deref());
        for name in std::iter::once(self.subject_column.as_str()).chain(new) {
            if name.is_empty() || !names.insert(name) {
                return wrong(format!(
                    "the column {name:?} would be written twice; give it a name of its own"
                ));
            }
        }
        for (column, name) in self.heading.iter().enumerate() {
            let of_column = || self.tokens.iter().filter(|token| token.column == column);
            let (all, in_place) =
                (of_column().count(), of_column().filter(|token| token.into.is_none()).count());
            let (kept, dropped) = (self.keep.contains(&column), drop.contains(&column));
            let objection = match (kept, dropped, all, in_place) {
                (true, _, 1.., _) => "is both kept and tokenized",
                (true, true, ..) => "is both kept and dropped",
                (_, true, _, 1..) => "is dropped, and yet a token takes its place",
                (_, _, _, 2..) => "has two tokens for its one place; give one of them an `into`",
                (false, false, 0, _) => {
                    "is named nowhere: keep it, drop it or tokenize it (it would be written back in the clear)"
                }
                _ => continue,
            };
            return wrong(format!("the column {name:?} {objection}"));
        }
        if self.tokens_per_activity() > ITEMS_MAX {
            return wrong(format!("one activity takes more than {ITEMS_MAX} values of a row"));
        }
        Ok(())
    }

    /// The most values of one row that one activity takes.
    pub(super) fn tokens_per_activity(&self) -> usize {
        let of = |activity| self.tokens.iter().filter(|token| token.activity == activity).count();
        (0..self.activities.len()).map(of).max().unwrap_or(0)
    }

    /// The columns of the file written, with their names.
    pub(super) fn columns(&self) -> Vec<(&str, Cell)> {
        let mut columns = Vec::new();
        for (column, name) in self.heading.iter().enumerate() {
            let in_place = |token: &TokenPlan| token.column == column && token.into.is_none();
            if self.keep.contains(&column) {
                columns.push((name.as_str(), Cell::Kept(column)));
            } else if let Some(token) = self.tokens.iter().position(in_place) {
                columns.push((name.as_str(), Cell::Token(token)));
            }
        }
        columns.push((self.subject_column.as_str(), Cell::Subject));
        let new = self.tokens.iter().enumerate();
        columns.extend(new.filter_map(|(at, token)| Some((token.into.as_deref()?, Cell::Token(at)))));
        columns
    }

    /// The columns whose cells must be text: all but the dropped ones that nothing looks at.
    pub(super) fn columns_read(&self) -> BTreeSet<usize> {
        let mut read = self.keep.clone();
        read.extend(self.identified_by);
        for token in &self.tokens {
            read.insert(token.column);
            read.extend(token.when.as_ref().map(|when| match when {
                When::Is { column, .. } | When::Filled { column } => *column,
            }));
        }
        read
    }

    /// Whether a row has this value: its cell is not empty, and its condition holds.
    pub(super) fn has(&self, token: &TokenPlan, cell: impl Fn(usize) -> String) -> bool {
        let holds = match &token.when {
            None => true,
            Some(When::Is { column, values }) => {
                let cell = cell(*column);
                values.iter().any(|value| value == cell.trim())
            }
            Some(When::Filled { column }) => !cell(*column).trim().is_empty(),
        };
        holds && !cell(token.column).is_empty()
    }

    /// A column's name.
    pub(super) fn name(&self, column: usize) -> &str {
        self.heading.get(column).map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn heading(text: &str) -> Vec<String> {
        text.split(',').map(str::to_owned).collect()
    }

    fn planned(mapping: &str, columns: &str) -> Result<Plan, String> {
        let mapping = Mapping::parse(mapping).map_err(|error| error.to_string())?;
        mapping.plan(&heading(columns)).map_err(|error| error.to_string())
    }

    const HEAD: &str = "version = 1\ncontroller = 'shop'\n";
    const EMAIL: &str = "[[token]]\ncolumn = 'email'\nactivity = 'tickets'\nfield = 'email'\n";

    #[test]
    fn the_example_is_read_as_its_readme_says() {
        let example = include_str!("../../../../../examples/orders/map.toml");
        let columns = "order_id,event,event_date,name,email,phone,birth_date,address,amount,currency,affiliate_code,newsletter";
        let plan = planned(example, columns).unwrap();
        let names: Vec<_> = plan.columns().iter().map(|(name, _)| *name).collect();
        assert_eq!(names.join(","), format!("{columns},subject_id,newsletter_email,affiliate_email"));
        assert_eq!(plan.activities, ["ticket_purchase", "newsletter", "affiliate_programme"]);
        assert_eq!(plan.tokens_per_activity(), 5);
        assert_eq!((plan.identified_by, plan.compare), (Some(4), Compare::Email));
    }

    #[test]
    fn a_token_takes_its_place_or_a_new_column_and_a_dropped_column_goes() {
        let mapping = format!("{HEAD}[columns]\nkeep = ['id']\ndrop = ['note']\n{EMAIL}into = 'token'\n");
        let plan = planned(&mapping, "id,email,note").unwrap();
        assert_eq!(
            plan.columns(),
            [("id", Cell::Kept(0)), ("subject_id", Cell::Subject), ("token", Cell::Token(0))]
        );
        assert_eq!(plan.columns_read(), BTreeSet::from([0, 1]));
    }

    #[test]
    fn a_condition_ignores_blanks_and_an_empty_cell_has_no_value() {
        let when = "when = { column = 'news', is = ['yes', 'ja '] }\n";
        let plan =
            planned(&format!("{HEAD}[columns]\nkeep = ['news']\n{EMAIL}{when}"), "email,news").unwrap();
        let has = |email: &str, news: &str| plan.has(&plan.tokens[0], |at| [email, news][at].to_owned());
        assert!(has("a@b.example", " yes") && has(" ", "ja"));
        assert!(!has("a@b.example", "no") && !has("a@b.example", "") && !has("", "yes"));
        let filled = "when = { column = 'news', filled = true }\n";
        let plan =
            planned(&format!("{HEAD}[columns]\nkeep = ['news']\n{EMAIL}{filled}"), "email,news").unwrap();
        assert!(plan.has(&plan.tokens[0], |at| ["x", "1"][at].to_owned()));
        assert!(!plan.has(&plan.tokens[0], |at| ["x", " \t"][at].to_owned()));
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let refusal = |more: &str, columns: &str| planned(&format!("{HEAD}{more}"), columns).unwrap_err();
        for (mapping, columns, names) in [
            (EMAIL.to_owned(), "email,note", "\"note\" is named nowhere"),
            (EMAIL.to_owned(), "mail,note", "no column \"email\""),
            (EMAIL.to_owned(), "email;note", "file.delimiter"),
            (EMAIL.to_owned(), "email,email", "two columns \"email\""),
            (format!("[columns]\nkeep = ['email']\n{EMAIL}"), "email", "both kept and tokenized"),
            (format!("[columns]\ndrop = ['email']\n{EMAIL}"), "email", "is dropped, and yet"),
            (format!("[columns]\nkeep = ['a']\ndrop = ['a']\n{EMAIL}"), "email,a", "both kept and dropped"),
            (format!("{EMAIL}{EMAIL}"), "email", "two tokens for its one place"),
            (
                format!("[columns]\nkeep = ['a']\n{EMAIL}into = 'a'"),
                "email,a",
                "\"a\" would be written twice",
            ),
            (format!("[columns]\nkeep = ['subject_id']\n{EMAIL}"), "email,subject_id", "written twice"),
            (format!("{EMAIL}when = {{ column = 'email' }}"), "email", "one of them"),
            (format!("{EMAIL}when = {{ column = 'x', filled = true }}"), "email", "no column \"x\""),
            (format!("{EMAIL}colour = 1"), "email", "unknown field `colour`"),
            (format!("{EMAIL}shape = 'round'"), "email", "round"),
            (String::new(), "email", "no [[token]]"),
        ] {
            let refusal = refusal(&mapping, columns);
            assert!(refusal.contains(names), "{mapping}\n{refusal}");
        }
        assert!(Mapping::parse("version = 2\ncontroller = 'x'").is_err());
        let broken = Mapping::parse("version = 1\ncontroller = ").err().unwrap().to_string();
        assert!(broken.starts_with("line 2"), "{broken}");
        let mapping = Mapping::parse(&format!("{HEAD}[file]\ndelimiter = '::'\n{EMAIL}")).unwrap();
        assert!(mapping.delimiter().is_err());
    }
}
