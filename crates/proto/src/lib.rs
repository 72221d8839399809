//! Generated from the .proto files: what services, the bus and disk see. Types only, no behaviour.
//!
//! A module per package; no two share a message, even where they look alike today. `Debug` of every
//! message is its name: values never reach a log through here.

macro_rules! package {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub mod $name {
            /// Version 1.
            #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/cloakroom.", stringify!($name), ".v1.rs"));
                include!(concat!(env!("OUT_DIR"), "/debug_", stringify!($name), ".rs"));
            }
        }
    };
}

package!(
    /// The services' API.
    vault
);
package!(
    /// The officer's API.
    admin
);
package!(
    /// What Kafka carries.
    bus
);
package!(
    /// What disk holds.
    record
);
package!(
    /// The mail downstream's API.
    mail
);
package!(
    /// The affiliate downstream's API.
    affiliate
);
package!(
    /// The keyholder's API.
    keyholder
);

/// All descriptors, encoded, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

#[cfg(test)]
mod tests {
    use super::vault::v1::{TokenizeItem, TokenizeRequest, tokenize_item};

    #[test]
    fn debug_never_prints_a_value() {
        let request = TokenizeRequest {
            items: vec![TokenizeItem {
                value: "planted".into(),
                subject: Some(tokenize_item::Subject::NewSubject("planted".into())),
                ..Default::default()
            }],
            ..Default::default()
        };
        assert_eq!(format!("{request:?}"), "cloakroom.vault.v1.TokenizeRequest(..)");
        assert!(!format!("{:?}", request.items).contains("planted"));
        assert!(!format!("{:?}", request.items[0].subject).contains("planted"));
    }
}
