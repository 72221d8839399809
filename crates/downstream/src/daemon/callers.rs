//! Who may call a downstream: the SPIFFE ids in its configuration, and nobody else.

use std::collections::HashSet;
use std::sync::Arc;

use cloakroom_runtime::identity::Principal;
use tonic::{Request, Status};

use crate::DownstreamError;

/// The callers that are let in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Callers(Arc<HashSet<Principal>>);

impl Callers {
    /// Reads the configured SPIFFE ids; none of them lets nobody in.
    ///
    /// # Errors
    /// [`DownstreamError::Config`] for what is no SPIFFE id.
    pub fn of(ids: &[String]) -> Result<Self, DownstreamError> {
        let wrong =
            DownstreamError::Config { key: "callers", reason: "wanted are SPIFFE ids: spiffe://domain/path" };
        let callers: Option<HashSet<Principal>> = ids.iter().map(|id| Principal::parse(id)).collect();
        Ok(Self(Arc::new(callers.ok_or(wrong)?)))
    }

    /// Lets a call in, or not.
    ///
    /// # Errors
    /// PERMISSION_DENIED
    pub fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let caller = request.extensions().get::<Principal>();
        match caller.is_some_and(|caller| self.0.contains(caller)) {
            true => Ok(()),
            false => Err(Status::permission_denied("this principal may not call here")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_configured_are_let_in() {
        let call = |principal: Option<&str>| {
            let mut request = Request::new(());
            if let Some(principal) = principal {
                request.extensions_mut().insert(Principal::parse(principal).unwrap());
            }
            request
        };
        let callers = Callers::of(&["spiffe://d/shop".to_owned()]).unwrap();
        assert!(callers.admit(&call(Some("spiffe://d/shop"))).is_ok());
        assert!(callers.admit(&call(Some("spiffe://d/shop/x"))).is_err());
        assert!(callers.admit(&call(None)).is_err());
        assert!(Callers::of(&[]).unwrap().admit(&call(Some("spiffe://d/shop"))).is_err());
        assert!(matches!(
            Callers::of(&["shop".to_owned()]),
            Err(DownstreamError::Config { key: "callers", .. })
        ));
    }
}
