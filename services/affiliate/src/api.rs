//! The gRPC service.

use cloakroom_downstream::daemon::{Callers, Daemon};
use cloakroom_downstream::{DownstreamError, Reader, Token};
use cloakroom_proto::affiliate::v1::affiliate_service_server::AffiliateService;
use cloakroom_proto::affiliate::v1::{
    Customer, GetStatementRequest, GetStatementResponse, ListCustomersRequest, ListCustomersResponse,
    RecordConversionRequest, RecordConversionResponse, StatementLine,
};
use tonic::{Request, Response, Status};

use crate::config::AffiliateConfig;
use crate::ledger::{Conversion, Ledger, Sum};
use crate::{AffiliateError, commission};

/// Ids and codes, in bytes.
const ID_BYTES_MAX: usize = 128;
/// Customers in one answer: some 2 MiB.
const CUSTOMERS_MAX: usize = 20_000;

/// Attributes sales to affiliates.
pub struct Affiliate {
    callers: Callers,
    ledger: Ledger,
    buyers: Reader,
    per_mille: u32,
}

impl Affiliate {
    pub(crate) fn new(daemon: &Daemon, config: &AffiliateConfig) -> Self {
        Self {
            callers: daemon.callers.clone(),
            ledger: Ledger(daemon.copies.clone()),
            buyers: Reader::masked(daemon.vault.clone(), daemon.copies.clone(), &config.purpose),
            per_mille: config.commission_per_mille,
        }
    }

    async fn record(&self, asked: RecordConversionRequest) -> Result<i64, AffiliateError> {
        check(&asked.controller, "controller")?;
        check(&asked.order_reference, "order_reference")?;
        check(&asked.affiliate_code, "affiliate_code")?;
        let invalid = |field, reason| AffiliateError::Invalid { field, reason };
        if asked.amount_minor < 0 {
            return Err(invalid("amount_minor", "negative"));
        }
        if asked.currency.len() != 3 || !asked.currency.bytes().all(|letter| letter.is_ascii_uppercase()) {
            return Err(invalid("currency", "wanted are three capital letters (ISO 4217)"));
        }
        let email = Token::parse(&asked.email_token)?;
        let name = match asked.name_token.as_str() {
            "" => None,
            name => Some(Token::parse(name)?),
        };
        let mut conversion = Conversion::new(
            &asked.affiliate_code,
            &email,
            name.as_ref(),
            asked.amount_minor,
            &asked.currency,
        );
        conversion.commission_minor = commission::of(asked.amount_minor, self.per_mille);
        self.ledger.record(&asked.controller, &asked.order_reference, conversion).await
    }

    async fn customers(&self, asked: &ListCustomersRequest) -> Result<Vec<Customer>, AffiliateError> {
        check(&asked.controller, "controller")?;
        check(&asked.affiliate_code, "affiliate_code")?;
        let conversions =
            self.ledger.conversions(&asked.controller, &asked.affiliate_code, CUSTOMERS_MAX).await?;
        let known = |conversion: &&(String, Conversion)| !conversion.1.email_token.is_empty();
        let tokens: Result<Vec<Token>, DownstreamError> = conversions
            .iter()
            .filter(known)
            .map(|(_, conversion)| Token::parse(&conversion.email_token))
            .collect();
        let mut read = self.buyers.read_all(&asked.controller, &tokens?).await?.into_iter();
        let mut customers = Vec::with_capacity(conversions.len());
        for (order_reference, conversion) in conversions {
            let masked = if conversion.email_token.is_empty() { None } else { read.next() };
            let (email_masked, forgotten) = match masked {
                Some(Ok(held)) => (held.text()?.to_owned(), false),
                None | Some(Err(DownstreamError::Purged)) => (String::new(), true),
                // Not to be had for another reason, for good: unknown, and yet not forgotten.
                Some(Err(DownstreamError::Refused { retryable: false, .. })) => (String::new(), false),
                Some(Err(error)) => return Err(error.into()),
            };
            customers.push(Customer { order_reference, email_masked, forgotten });
        }
        Ok(customers)
    }
}

#[tonic::async_trait]
impl AffiliateService for Affiliate {
    async fn record_conversion(
        &self,
        request: Request<RecordConversionRequest>,
    ) -> Result<Response<RecordConversionResponse>, Status> {
        self.callers.admit(&request)?;
        let commission_minor = self.record(request.into_inner()).await?;
        Ok(Response::new(RecordConversionResponse { commission_minor }))
    }

    async fn get_statement(
        &self,
        request: Request<GetStatementRequest>,
    ) -> Result<Response<GetStatementResponse>, Status> {
        self.callers.admit(&request)?;
        let asked = request.get_ref();
        check(&asked.controller, "controller")?;
        check(&asked.affiliate_code, "affiliate_code")?;
        let sums = self.ledger.sums(&asked.controller, &asked.affiliate_code).await?;
        Ok(Response::new(GetStatementResponse { lines: sums.into_iter().map(line).collect() }))
    }

    async fn list_customers(
        &self,
        request: Request<ListCustomersRequest>,
    ) -> Result<Response<ListCustomersResponse>, Status> {
        self.callers.admit(&request)?;
        let customers = self.customers(request.get_ref()).await?;
        Ok(Response::new(ListCustomersResponse { customers }))
    }
}

fn line(sum: Sum) -> StatementLine {
    StatementLine {
        currency: sum.currency,
        conversions: sum.conversions,
        amount_minor: sum.amount_minor,
        commission_minor: sum.commission_minor,
        anonymous: sum.anonymous,
    }
}

fn check(text: &str, field: &'static str) -> Result<(), AffiliateError> {
    match text.len() {
        0 => Err(AffiliateError::Invalid { field, reason: "empty" }),
        1..=ID_BYTES_MAX => Ok(()),
        _ => Err(AffiliateError::Invalid { field, reason: "too long" }),
    }
}
