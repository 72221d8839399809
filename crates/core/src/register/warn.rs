//! Contradictions in a register: allowed, but worth a look.

use std::collections::BTreeSet;

use super::Register;
use super::model::{Activity, Recipient, TransferBasis, Verb, is_in_eea};

/// Everything in a register that contradicts itself or leads nowhere, one sentence each.
pub fn warnings(register: &Register) -> Vec<String> {
    let mut all = Vec::new();
    for activity in &register.activities {
        transfers(register, activity, &mut all);
        access(register, activity, &mut all);
    }
    for downstream in register.downstreams.iter().filter(|downstream| !downstream.may_receive()) {
        all.push(format!(
            "downstream {}: {} is outside the EEA and no transfer basis is stated, so it can read nothing",
            downstream.id, downstream.region
        ));
    }
    let used: BTreeSet<&String> = register.activities.iter().flat_map(|activity| &activity.fields).collect();
    for field in register.fields.iter().filter(|field| !used.contains(&field.id)) {
        all.push(format!("field {}: no activity uses it", field.id));
    }
    if !register.roles.iter().any(|(_, role)| *role == super::Role::Dpo) {
        all.push("nobody has the role dpo, so nobody can ask for erasures".to_owned());
    }
    all
}

fn transfers(register: &Register, activity: &Activity, all: &mut Vec<String>) {
    for recipient in &activity.recipients {
        let Some((name, region, basis)) =
            destination(register, recipient).filter(|(_, region, _)| !is_in_eea(region))
        else {
            continue;
        };
        if activity.says_no_transfers() {
            all.push(format!(
                "activity {}: says that there are no transfers, but the recipient {name} is in {region}, outside the EEA",
                activity.id
            ));
        }
        if basis.is_none() {
            all.push(format!(
                "activity {}: the recipient {name} is in {region}, outside the EEA, and no transfer basis is stated",
                activity.id
            ));
        }
    }
}

/// A recipient's name, region and transfer basis, where they are known.
pub(super) fn destination<'a>(
    register: &'a Register,
    recipient: &Recipient,
) -> Option<(&'a str, &'a str, Option<TransferBasis>)> {
    match recipient {
        Recipient::Downstream(id) => register
            .downstream(id)
            .map(|found| (found.name.as_str(), found.region.as_str(), found.transfer_basis)),
        Recipient::ThirdParty(id) => register
            .third_parties
            .iter()
            .find(|found| found.id == *id)
            .map(|found| (found.name.as_str(), found.region.as_str(), found.transfer_basis)),
        Recipient::Named(_) => None,
    }
}

fn access(register: &Register, activity: &Activity, all: &mut Vec<String>) {
    for access in &activity.access {
        if access.purposes.is_empty() && access.may.iter().any(|verb| verb.reads()) {
            all.push(format!(
                "activity {}: {} may read, but for no purpose, so it can read nothing",
                activity.id, access.principal
            ));
        }
    }
    for downstream in register.required_downstreams(&activity.id) {
        let reads = |access: &&super::Access| {
            access.principal == downstream.principal && access.may.iter().any(|verb| verb.reads())
        };
        if !activity.access.iter().any(|rule| reads(&rule)) {
            all.push(format!(
                "activity {}: the downstream {} must answer for erasures but may read nothing",
                activity.id, downstream.id
            ));
        }
    }
    if !activity.access.is_empty() && !activity.access.iter().any(|access| access.may.contains(&Verb::Write))
    {
        all.push(format!("activity {}: nobody may write, so nothing can be stored", activity.id));
    }
}
