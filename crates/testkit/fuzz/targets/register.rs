//! A register of processing activities, and what is made of one that holds.
#![no_main]

use cloakroom_core::register::{self, Register, report};

libfuzzer_sys::fuzz_target!(|toml: &str| {
    if let Ok(register) = Register::parse(toml) {
        let _ = register::warnings(&register);
        let _ = register::diff(None, &register);
        assert!(register::diff(Some(&register), &register).is_empty(), "a register differs from itself");
        let _ = report::html(&register, "1");
        let _ = report::markdown(&register, "1");
        let _ = report::csv(&register);
    }
});
