//! Conversions and sums. A conversion knows its buyer by tokens; when those die it keeps its sum.
//!
//! | kind | key | row |
//! | --- | --- | --- |
//! | `o` | controller, order | the conversion |
//! | `a` | controller, affiliate, order | – : an affiliate's orders |
//! | `s` | controller, affiliate, currency | the sum |
//! | `t` | controller, token, order | – : a token's orders |

use async_trait::async_trait;
use cloakroom_downstream::{Copies, DownstreamError, Erasure, Forget, RowEdit, Token, read_row, row_key};
use futures_util::FutureExt;
use prost::Message as _;

use crate::AffiliateError;

const VERSION: u32 = 1;
/// Rows read at once.
const AT_ONCE: usize = 500;

/// One sale that an affiliate brought.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Conversion {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    pub(crate) affiliate: String,
    /// Empty once it is dead.
    #[prost(string, tag = "3")]
    pub(crate) email_token: String,
    /// Empty once it is dead, or where none was given.
    #[prost(string, tag = "4")]
    pub(crate) name_token: String,
    #[prost(int64, tag = "5")]
    pub(crate) amount_minor: i64,
    #[prost(string, tag = "6")]
    pub(crate) currency: String,
    #[prost(int64, tag = "7")]
    pub(crate) commission_minor: i64,
}

/// What an affiliate has earned in one currency.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Sum {
    #[prost(uint64, tag = "1")]
    pub(crate) conversions: u64,
    #[prost(int64, tag = "2")]
    pub(crate) amount_minor: i64,
    #[prost(int64, tag = "3")]
    pub(crate) commission_minor: i64,
    /// Conversions whose buyer is forgotten.
    #[prost(uint64, tag = "4")]
    pub(crate) anonymous: u64,
    #[prost(string, tag = "5")]
    pub(crate) currency: String,
}

impl Conversion {
    pub(crate) fn new(
        affiliate: &str,
        email: &Token,
        name: Option<&Token>,
        amount_minor: i64,
        currency: &str,
    ) -> Self {
        Self {
            version: VERSION,
            affiliate: affiliate.to_owned(),
            email_token: email.to_string(),
            name_token: name.map(Token::to_string).unwrap_or_default(),
            amount_minor,
            currency: currency.to_owned(),
            commission_minor: 0,
        }
    }

    pub(crate) fn is_anonymous(&self) -> bool {
        self.email_token.is_empty() && self.name_token.is_empty()
    }

    /// Whether `again` says the same; a token that has died since is no contradiction.
    fn is_same(&self, again: &Self) -> bool {
        let token = |known: &str, again: &str| known.is_empty() || known == again;
        self.affiliate == again.affiliate
            && (self.amount_minor, &self.currency) == (again.amount_minor, &again.currency)
            && token(&self.email_token, &again.email_token)
            && token(&self.name_token, &again.name_token)
    }

    /// Without a token that is dead; whether it had it.
    fn lose(&mut self, token: &str) -> bool {
        let mut lost = false;
        for known in [&mut self.email_token, &mut self.name_token] {
            if known == token {
                known.clear();
                lost = true;
            }
        }
        lost
    }

    fn tokens(&self) -> Vec<String> {
        [&self.email_token, &self.name_token].into_iter().filter(|token| !token.is_empty()).cloned().collect()
    }
}

/// The rows, for the API.
#[derive(Clone)]
pub(crate) struct Ledger(pub(crate) Copies);

impl Ledger {
    /// Records a conversion, or finds it recorded; gives its commission. A buyer who is forgotten already
    /// leaves the sum alone.
    pub(crate) async fn record(
        &self,
        controller: &str,
        order: &str,
        conversion: Conversion,
    ) -> Result<i64, AffiliateError> {
        let (controller, order) = (controller.to_owned(), order.to_owned());
        let recorded = self.0.edit_rows(move |rows| {
            async move {
                let row = row_key(b'o', &[&controller, &order]);
                if let Some(known) = rows.get(&row).await? {
                    let known: Conversion = read_row(&known)?;
                    return Ok(known.is_same(&conversion).then_some(known.commission_minor));
                }
                let mut conversion = conversion;
                for token in conversion.tokens() {
                    if rows.is_purged(&Token::parse(&token)?).await? {
                        conversion.lose(&token);
                    } else {
                        rows.put(&row_key(b't', &[&controller, &token, &order]), order.clone());
                    }
                }
                rows.put(&row_key(b'a', &[&controller, &conversion.affiliate, &order]), order);
                rows.put(&row, conversion.encode_to_vec());
                add(rows, &controller, &conversion, |sum| {
                    sum.conversions = sum.conversions.saturating_add(1);
                    sum.amount_minor = sum.amount_minor.saturating_add(conversion.amount_minor);
                    sum.commission_minor = sum.commission_minor.saturating_add(conversion.commission_minor);
                    sum.anonymous = sum.anonymous.saturating_add(conversion.is_anonymous().into());
                })
                .await?;
                Ok(Some(conversion.commission_minor))
            }
            .boxed()
        });
        recorded.await?.ok_or(AffiliateError::Conflict)
    }

    /// What an affiliate has earned, by currency.
    pub(crate) async fn sums(&self, controller: &str, affiliate: &str) -> Result<Vec<Sum>, AffiliateError> {
        // As many rows as there are currencies.
        let found = self.0.rows().scan(&row_key(b's', &[controller, affiliate]), None, AT_ONCE).await?;
        Ok(found.iter().map(|(_, row)| read_row(row)).collect::<Result<_, _>>()?)
    }

    /// An affiliate's conversions with their orders, up to `most`.
    pub(crate) async fn conversions(
        &self,
        controller: &str,
        affiliate: &str,
        most: usize,
    ) -> Result<Vec<(String, Conversion)>, AffiliateError> {
        let (rows, prefix) = (self.0.rows(), row_key(b'a', &[controller, affiliate]));
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = rows.scan(&prefix, after.as_deref(), AT_ONCE).await?;
            let Some((last, _)) = page.last() else { return Ok(all) };
            after = Some(last.to_vec());
            for (_, order) in &page {
                let order = String::from_utf8_lossy(order).into_owned();
                let Some(row) = rows.get(&row_key(b'o', &[controller, &order])).await? else { continue };
                if all.len() >= most {
                    return Err(AffiliateError::TooMany);
                }
                all.push((order, read_row(&row)?));
            }
        }
    }
}

/// What affiliate forgets with a token: whose conversions they were.
pub(crate) struct Conversions;

#[async_trait]
impl Forget for Conversions {
    async fn forget(&self, rows: &mut RowEdit, what: &Erasure) -> Result<u32, DownstreamError> {
        let (controller, token) = (what.controller.as_str(), what.token.as_str());
        let mut forgotten = 0_u32;
        for (key, order) in rows.scan(&row_key(b't', &[controller, token])).await? {
            rows.remove(&key);
            let row = row_key(b'o', &[controller, &String::from_utf8_lossy(&order)]);
            let Some(known) = rows.get(&row).await? else { continue };
            let mut conversion: Conversion = read_row(&known)?;
            if !conversion.lose(token) {
                continue;
            }
            rows.put(&row, conversion.encode_to_vec());
            forgotten = forgotten.saturating_add(1);
            if conversion.is_anonymous() {
                let one_more = |sum: &mut Sum| sum.anonymous = sum.anonymous.saturating_add(1);
                add(rows, controller, &conversion, one_more).await?;
            }
        }
        Ok(forgotten)
    }
}

/// Changes the sum that a conversion counts in.
async fn add(
    rows: &mut RowEdit,
    controller: &str,
    conversion: &Conversion,
    change: impl FnOnce(&mut Sum) + Send,
) -> Result<(), DownstreamError> {
    let row = row_key(b's', &[controller, &conversion.affiliate, &conversion.currency]);
    let mut sum = match rows.get(&row).await? {
        Some(known) => read_row(&known)?,
        None => Sum { currency: conversion.currency.clone(), ..Sum::default() },
    };
    change(&mut sum);
    rows.put(&row, sum.encode_to_vec());
    Ok(())
}
