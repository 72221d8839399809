//! The register from its file to its decisions, its differences and its report.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const SEE: &str = include_str!("../../../../examples/registers/see-tickets/register.toml");
const ACTIVE: &str = include_str!("../../../../examples/registers/active-tickets/register.toml");

const SEE_US: &str = include_str!("../../../../examples/registers/see-tickets-us/register.toml");
const HELLO: &str = include_str!("../../../../examples/registers/hellotickets/register.toml");
const CARTEL: &str = include_str!("../../../../examples/registers/live-cartel/register.toml");

const ORDERS: &str = "spiffe://cloakroom.local/service/orders";
const SUPPORT: &str = "spiffe://cloakroom.local/service/support";
const MAIL: &str = "spiffe://cloakroom.local/downstream/mail";
const AFFILIATE: &str = "spiffe://cloakroom.local/downstream/affiliate";
const DPO: &str = "spiffe://cloakroom.local/person/dpo";
const AUDITOR: &str = "spiffe://cloakroom.local/person/auditor";
const OPERATOR: &str = "spiffe://cloakroom.local/person/operator";
const STRANGER: &str = "spiffe://cloakroom.local/service/box-office";

fn see() -> Register {
    Register::parse(SEE).expect("the example is valid")
}

/// The example with one thing said otherwise, which must stand in it.
fn see_with(old: &str, new: &str) -> String {
    assert!(SEE.contains(old), "{old} does not stand in the example");
    SEE.replacen(old, new, 1)
}

#[test]
fn examples_are_valid_and_free_of_contradictions() {
    let examples = [
        (SEE, "see-tickets", 4),
        (ACTIVE, "active-tickets", 4),
        (SEE_US, "see-tickets-us", 5),
        (CARTEL, "live-cartel", 5),
    ];
    for (toml, controller, activities) in examples {
        let register = Register::parse(toml).expect(controller);
        assert_eq!(register.controller(), controller);
        assert_eq!(register.activities().len(), activities);
        assert_eq!(warnings(&register), Vec::<String>::new(), "{controller}");
    }
}

#[test]
fn the_contradictions_of_hellotickets_are_found() {
    let register = Register::parse(HELLO).expect("valid");
    assert_eq!(register.activities().len(), 18);
    let found = warnings(&register);
    for vendor in ["Zendesk", "Microsoft Clarity", "Google Ads", "Impact"] {
        let says_none = format!("says that there are no transfers, but the recipient {vendor} is in US");
        let no_basis =
            format!("the recipient {vendor} is in US, outside the EEA, and no transfer basis is stated");
        assert!(found.iter().any(|warning| warning.contains(&says_none)), "{vendor}: {found:#?}");
        assert!(found.iter().any(|warning| warning.contains(&no_basis)), "{vendor}: {found:#?}");
    }
    assert!(found.iter().all(|warning| warning.contains("outside the EEA")), "{found:#?}");
}

#[test]
fn writes_are_denied_unless_granted() {
    let register = see();
    for (principal, activity, field, answer) in [
        (ORDERS, "ticket_purchase", "email", Ok(())),
        (ORDERS, "newsletter", "consent", Ok(())),
        (ORDERS, "customer_service", "message", Err(Denied::NotGranted)),
        (ORDERS, "newsletter", "phone", Err(Denied::UnknownField)),
        (ORDERS, "newsletter", "shoe_size", Err(Denied::UnknownField)),
        (ORDERS, "raffle", "email", Err(Denied::UnknownActivity)),
        (MAIL, "ticket_purchase", "email", Err(Denied::NotGranted)),
        (SUPPORT, "ticket_purchase", "email", Err(Denied::NotGranted)),
        (DPO, "ticket_purchase", "email", Err(Denied::NotGranted)),
        (STRANGER, "ticket_purchase", "email", Err(Denied::NotGranted)),
        (STRANGER, "raffle", "shoe_size", Err(Denied::NotGranted)),
        ("", "ticket_purchase", "email", Err(Denied::NotGranted)),
    ] {
        assert_eq!(register.may_write(principal, activity, field), answer, "{principal} {activity} {field}");
    }
}

#[test]
fn reads_need_the_purpose_and_the_mode() {
    let register = see();
    let plain = ReadMode::Plain;
    let masked = ReadMode::Masked;
    for (principal, activity, field, purpose, mode, answer) in [
        (MAIL, "ticket_purchase", "email", "ticket_delivery", plain, Ok(())),
        (MAIL, "ticket_purchase", "email", "ticket_delivery", masked, Ok(())),
        (MAIL, "ticket_purchase", "phone", "ticket_delivery", plain, Err(Denied::NotGranted)),
        (MAIL, "ticket_purchase", "email", "customer_support", plain, Err(Denied::NotGranted)),
        (MAIL, "ticket_purchase", "email", "newsletter", plain, Err(Denied::UnknownPurpose)),
        (MAIL, "ticket_purchase", "email", "", plain, Err(Denied::UnknownPurpose)),
        (MAIL, "newsletter", "email", "newsletter", plain, Ok(())),
        (MAIL, "affiliate_programme", "email", "commission_attribution", plain, Err(Denied::NotGranted)),
        (AFFILIATE, "affiliate_programme", "email", "commission_attribution", plain, Ok(())),
        (AFFILIATE, "ticket_purchase", "email", "ticket_delivery", plain, Err(Denied::NotGranted)),
        (SUPPORT, "ticket_purchase", "email", "customer_support", masked, Ok(())),
        (SUPPORT, "ticket_purchase", "email", "customer_support", plain, Err(Denied::NotGranted)),
        (SUPPORT, "ticket_purchase", "birth_date", "customer_support", masked, Err(Denied::NotGranted)),
        (ORDERS, "ticket_purchase", "email", "ticket_delivery", masked, Err(Denied::NotGranted)),
        (DPO, "ticket_purchase", "email", "ticket_delivery", masked, Err(Denied::NotGranted)),
        (STRANGER, "nothing", "email", "ticket_delivery", masked, Err(Denied::NotGranted)),
    ] {
        let found = register.may_read(principal, activity, field, purpose, mode);
        assert_eq!(found, answer, "{principal} {activity} {field} {purpose} {mode:?}");
    }
}

#[test]
fn other_verbs_and_roles_are_decided_alike() {
    let register = see();
    assert_eq!(register.may_rectify(ORDERS, "ticket_purchase", "email"), Ok(()));
    assert_eq!(register.may_rectify(SUPPORT, "ticket_purchase", "email"), Err(Denied::NotGranted));
    assert_eq!(register.may_release(ORDERS, "ticket_purchase", "email"), Ok(()));
    assert_eq!(register.may_release(MAIL, "ticket_purchase", "email"), Err(Denied::NotGranted));
    assert_eq!(register.may_record_fact(SUPPORT, "customer_service"), Ok(()));
    assert_eq!(register.may_record_fact(SUPPORT, "newsletter"), Err(Denied::NotGranted));
    assert_eq!(register.may_record_fact(ORDERS, "raffle"), Err(Denied::UnknownActivity));
    assert_eq!(register.may_describe(SUPPORT, "ticket_purchase"), Ok(()));
    assert_eq!(register.may_describe(SUPPORT, "newsletter"), Err(Denied::NotGranted));
    assert_eq!(register.may_describe(DPO, "newsletter"), Ok(()));
    assert_eq!(register.may_describe(AUDITOR, "newsletter"), Ok(()));
    assert_eq!(register.may_describe(OPERATOR, "newsletter"), Err(Denied::NotGranted));
    for (principal, may) in
        [(DPO, true), (AUDITOR, false), (OPERATOR, false), (ORDERS, false), (STRANGER, false)]
    {
        assert_eq!(register.may_erase(principal), may, "{principal}");
    }
    assert!(register.roles_of(AUDITOR).contains(Role::Auditor));
    assert!(register.roles_of(STRANGER).is_empty());
    assert!(register.knows(MAIL) && register.knows(DPO) && register.knows(ORDERS));
    assert!(!register.knows(STRANGER));
}

#[test]
fn downstreams_that_receive_must_answer() {
    let register = see();
    let of =
        |activity| register.required_downstreams(activity).map(|one| one.id.as_str()).collect::<Vec<_>>();
    assert_eq!(of("ticket_purchase"), ["mail"]);
    assert_eq!(of("affiliate_programme"), ["affiliate"]);
    assert_eq!(of("customer_service"), Vec::<&str>::new());
    assert_eq!(of("raffle"), Vec::<&str>::new());
    assert_eq!(register.downstream("mail").map(|mail| mail.deadline_hours), Some(24));
    let active = Register::parse(ACTIVE).expect("valid");
    let ids: Vec<_> = active.required_downstreams("visitor_accounts").map(|one| one.id.as_str()).collect();
    assert_eq!(ids, ["mail"], "third parties are not waited for");
}

#[test]
fn a_downstream_outside_the_eea_without_a_basis_reads_nothing() {
    let register = Register::parse(&see_with("region = \"IE\"", "region = \"US\"")).expect("valid");
    let read =
        |register: &Register| register.may_read(MAIL, "newsletter", "email", "newsletter", ReadMode::Masked);
    assert_eq!(read(&register), Err(Denied::NotGranted));
    let found = warnings(&register);
    assert!(found.iter().any(|w| w.contains("downstream mail: US is outside the EEA")), "{found:?}");
    assert!(
        found.iter().any(|w| w.contains("activity newsletter: says that there are no transfers")),
        "{found:?}"
    );
    let with_basis = see_with("region = \"IE\"", "region = \"US\"\ntransfer_basis = \"scc\"");
    assert_eq!(read(&Register::parse(&with_basis).expect("valid")), Ok(()));
}

#[test]
fn what_is_wrong_is_named_by_line_and_key() {
    for (old, new, expected) in [
        ("controller = \"see-tickets\"", "controller = \"See\"", "line 4: controller: a slug has"),
        ("controller = \"see-tickets\"", "controller = \"see_tickets\"", "line 4: controller: a slug has"),
        ("controller = \"see-tickets\"", "colour = \"see\"", "line 4: unknown field `colour`"),
        (
            "time_zone = \"Europe/London\"",
            "time_zone = \"Europe/Londom\"",
            "line 6: time_zone: no such time zone",
        ),
        ("token_domain = \"tokens", "token_domain = \"to kens", "line 7: token_domain: a domain"),
        ("type = \"phone\"", "type = \"telefone\"", "unknown variant `telefone`"),
        ("id = \"phone\"", "id = \"email\"", "field.id: stands twice: email"),
        ("id = \"phone\"", "id = \"Phone\"", "field.id: an id has"),
        ("region = \"IE\"", "region = \"Ireland\"", "downstream.mail.region: a region is"),
        ("deadline_hours = 24", "deadline_hours = 0", "downstream.mail.deadline_hours: a deadline is 1"),
        ("deadline_hours = 24", "deadline_hours = -1", "invalid value"),
        (
            "downstream/affiliate\"\nregion",
            "downstream/mail\"\nregion",
            "downstream.affiliate.principal: stands twice",
        ),
        ("role = \"dpo\"", "role = \"king\"", "unknown variant `king`"),
        ("legal_basis = \"6.1.b\"", "legal_basis = \"6.1.g\"", "unknown variant `6.1.g`"),
        (
            "legal_basis = \"6.1.b\"",
            "legal_basis = []",
            "activity.ticket_purchase.legal_basis: must not be empty",
        ),
        (
            "fields = [\"email\", \"consent\"]",
            "fields = [\"emial\"]",
            "activity.newsletter.fields: no such field: emial",
        ),
        ("fields = [\"email\", \"consent\"]", "fields = []", "activity.newsletter.fields: must not be empty"),
        (
            "recipients = [\"affiliate\"]",
            "recipients = [\"afiliate\"]",
            "no such downstream or third party: afiliate",
        ),
        (
            "purposes = [\"newsletter\"]",
            "purposes = [\"newsletter\", \"newsletter\"]",
            "stands twice: newsletter",
        ),
        ("id = \"newsletter\"", "id = \"ticket_purchase\"", "activity.id: stands twice: ticket_purchase"),
        (
            "retention = \"Until consent is withdrawn\"",
            "retention = \" \"",
            "newsletter.retention: must not be empty",
        ),
        (
            "purposes = [\"ticket_delivery\"]",
            "purposes = [\"delivery\"]",
            "no such purpose of this activity: delivery",
        ),
        (
            "fields = [\"email\", \"full_name\"]\n\n[[activity.access]]",
            "fields = [\"message\"]\n\n[[activity.access]]",
            "no such field of this activity: message",
        ),
        (
            "may = [\"read_masked\"]",
            "may = [\"read\"]",
            "activity.ticket_purchase.access.may: the role support excludes read",
        ),
        ("may = [\"read_masked\"]", "may = []", "activity.ticket_purchase.access.may: must not be empty"),
        ("recipients = [\"affiliate\"]", "recipients = []", "not among the activity's recipients"),
        ("category = \"free_text\"", "category = \"special\"", "the field message is of a special category"),
        ("spiffe://cloakroom.local/service/orders", "orders", "role.principal: a principal is a SPIFFE URI"),
        ("[[role]]", "[[role]", "line "),
    ] {
        let error = Register::parse(&see_with(old, new)).expect_err(new);
        assert!(error.to_string().contains(expected), "{new}: {error}");
    }
}

#[test]
fn the_line_is_the_one_where_it_stands() {
    let toml = see_with("region = \"NL\"", "region = \"Holland\"");
    let at = toml.lines().position(|line| line.contains("Holland")).expect("there") + 1;
    let Err(RegisterError::Invalid { line, .. }) = Register::parse(&toml) else { panic!("not refused") };
    assert_eq!(line, at);
}

#[test]
fn size_is_bounded() {
    let long = format!("{SEE}#{}", "x".repeat(REGISTER_BYTES_MAX));
    assert_eq!(Register::parse(&long).expect_err("too long"), RegisterError::TooLarge);
    let grant = |purposes: usize, rules: usize| {
        let ids = |letter: char, count: usize| (0..count).map(|n| format!("{letter}{n}")).collect::<Vec<_>>();
        let (fields, purposes) = (ids('f', 600), ids('p', purposes));
        let mut toml = String::from("controller = \"big\"\nname = \"Big\"\ntime_zone = \"UTC\"\n");
        for id in &fields {
            toml += &format!("[[field]]\nid = \"{id}\"\ntype = \"text\"\ncategory = \"contact\"\n");
        }
        toml += &format!(
            "[[activity]]\nid = \"a\"\nname = \"A\"\npurposes = {purposes:?}\nlegal_basis = \"6.1.a\"\nfields = {fields:?}\n\
             origin = \"o\"\nretention = \"r\"\nrecipients = []\ntransfers = \"none\"\nsecurity = \"s\"\n"
        );
        let rule = "[[activity.access]]\nprincipal = \"spiffe://a/b\"\nmay = [\"read\"]\npurposes = ";
        toml += &format!("{rule}{purposes:?}\n").repeat(rules);
        Register::parse(&toml).map(|_| ())
    };
    assert_eq!(grant(400, 1), Ok(()));
    assert_eq!(grant(600, 1), Err(RegisterError::TooManyGrants), "360,000 grants");
    assert_eq!(grant(1, 500), Err(RegisterError::TooManyGrants), "600 grants, 500 times over");
}

#[test]
fn differences_are_one_line_each() {
    let old = see();
    assert_eq!(diff(Some(&old), &old), []);
    assert!(diff(None, &old).iter().all(|change| change.kind == ChangeKind::Added));
    for (was, is, expected) in [
        ("name = \"See Tickets\"", "name = \"See\"", "~ controller see-tickets: name: See Tickets → See"),
        ("lookup = true\n", "", "~ field email: lookup: yes → no"),
        ("deadline_hours = 24", "deadline_hours = 12", "~ downstream mail: deadline: 24 h → 12 h"),
        (
            "role = \"auditor\"",
            "role = \"dpo\"",
            "~ roles of spiffe://cloakroom.local/person/auditor: dpo: yes (new)",
        ),
        (
            "may = [\"read_masked\"]\n",
            "may = [\"read_masked\", \"rectify\"]\n",
            "~ access of spiffe://cloakroom.local/service/support under ticket_purchase: rectify: email, full_name, phone, postal_address (new)",
        ),
        (
            "[[activity.access]]",
            "[[activity.access]]\nprincipal = \"spiffe://cloakroom.local/new\"\nmay = [\"read\"]\nfields = [\"email\"]\n\n[[activity.access]]",
            "+ access of spiffe://cloakroom.local/new under ticket_purchase (read for no purpose: email)",
        ),
        (
            "retention = \"Until consent is withdrawn\"",
            "retention = \"1\\nyear\"",
            "~ activity newsletter: retention: Until consent is withdrawn → 1 year",
        ),
        (
            "[[activity]]",
            "[[field]]\nid = \"x\"\ntype = \"text\"\ncategory = \"contact\"\n\n[[activity]]",
            "+ field x (category: contact; lookup: no; type: text)",
        ),
    ] {
        let new = Register::parse(&see_with(was, is)).expect(is);
        let lines: Vec<String> = diff(Some(&old), &new).iter().map(ToString::to_string).collect();
        assert!(lines.contains(&expected.to_owned()), "{is}: {lines:#?}");
        assert!(lines.len() <= 2 && lines.iter().all(|line| !line.contains('\n')), "{lines:#?}");
    }
    let only_fields = SEE.split("[[activity]]").next().expect("a beginning");
    let new = Register::parse(only_fields).expect("valid");
    let lines: Vec<String> = diff(Some(&old), &new).iter().map(ToString::to_string).collect();
    assert!(lines.contains(&"- activity newsletter".to_owned()), "{lines:#?}");
    assert!(lines.contains(&format!("- access of {MAIL} under newsletter")), "{lines:#?}");
}

#[test]
fn living_values_are_not_stranded() {
    let old = see();
    let used: BTreeSet<_> = [("ticket_purchase", "phone"), ("newsletter", "consent")]
        .map(|(activity, field)| (activity.to_owned(), field.to_owned()))
        .into();
    assert_eq!(strands(&old, &old, &used), Ok(()));
    for (was, is, expected) in [
        ("id = \"newsletter\"", "id = \"news\"", "the activity newsletter is gone"),
        (
            "fields = [\"email\", \"consent\"]",
            "fields = [\"email\"]",
            "the activity newsletter lacks the field consent",
        ),
        ("type = \"phone\"", "type = \"text\"", "the field phone turns from phone into text"),
        ("controller = \"see-tickets\"", "controller = \"see\"", "this is the register of see"),
        ("token_domain = \"tokens.", "token_domain = \"t.", "the token domain may not change"),
    ] {
        let new = Register::parse(&see_with(was, is)).expect(is);
        let Err(RegisterError::Strands(why)) = strands(&old, &new, &used) else {
            panic!("{is}: not refused")
        };
        assert!(why.contains(expected), "{is}: {why}");
        let unrelated: BTreeSet<_> = [("customer_service".to_owned(), "message".to_owned())].into();
        if !is.contains("controller") && !is.contains("token_domain") {
            assert_eq!(strands(&old, &new, &unrelated), Ok(()), "{is}");
        }
    }
}

#[test]
fn contradictions_are_found() {
    for (was, is, expected) in [
        (
            "purposes = [\"customer_support\"]\nfields = [\"email\", \"full_name\", \"phone\"",
            "fields = [\"email\", \"full_name\", \"phone\"",
            "may read, but for no purpose",
        ),
        (
            "may = [\"read\"]\npurposes = [\"commission_attribution\"]",
            "may = [\"record_fact\"]",
            "the downstream affiliate must answer for erasures but may read nothing",
        ),
        ("role = \"dpo\"", "role = \"auditor\"", "nobody has the role dpo"),
        ("fields = [\"email\", \"consent\"]", "fields = [\"email\"]", "field consent: no activity uses it"),
        (
            "may = [\"write\", \"read_masked\", \"record_fact\"]",
            "may = [\"read_masked\"]",
            "customer_service: nobody may write",
        ),
    ] {
        let found = warnings(&Register::parse(&see_with(was, is)).expect(is));
        assert!(found.iter().any(|warning| warning.contains(expected)), "{is}: {found:?}");
    }
}

#[test]
fn the_report_has_nine_columns_in_three_formats() {
    let toml = see_with("name = \"See Tickets\"", "name = \"<b>|See|</b>\"");
    let toml =
        toml.replacen("origin = \"The buyer, at the checkout\"", "origin = \"=HYPERLINK(1) \\\"x\\\"\"", 1);
    let register = Register::parse(&toml).expect("valid");

    let html = report::html(&register, "version 1");
    assert!(html.starts_with("<!DOCTYPE html>\n<html lang=\"en\">") && html.contains("<caption"));
    assert_eq!(html.matches("<th scope=\"col\">").count(), 9);
    assert_eq!(html.matches("<th scope=\"row\">").count(), register.activities().len());
    assert_eq!(html.matches("<td>").count(), register.activities().len() * 8);
    assert!(html.contains("&lt;b&gt;|See|&lt;/b&gt;") && !html.contains("<b>"));
    assert!(!html.contains("http") && !html.contains("<script"), "nothing from outside");
    assert!(html.contains("<td>Art. 6.1.b (contract)</td>"));
    assert!(html.contains("Ticket and newsletter mail (IE)") && html.contains("No contradictions found."));

    let markdown = report::markdown(&register, "version 1");
    let row = markdown.lines().find(|line| line.starts_with("| Newsletter")).expect("a row");
    assert_eq!(
        row,
        "| Newsletter | newsletter | Art. 6.1.a (consent) | email (contact)<br>consent (identification) | \
         The subscriber, by ticking the consent box on the checkout page | Until consent is withdrawn | \
         Ticket and newsletter mail (IE) | None outside the United Kingdom and the EEA | \
         Tokens in place of values; every value under a key of its own; mTLS; every read logged |"
    );
    assert!(markdown.starts_with("# Record of processing activities: &lt;b>\\|See\\|&lt;/b>\n"));

    let csv = report::csv(&register);
    let lines: Vec<&str> = csv.split("\r\n").collect();
    assert_eq!(lines.len(), register.activities().len() + 2, "each ends in CRLF");
    assert!(
        lines
            .first()
            .is_some_and(|head| head.starts_with("\"Activity\",\"Purposes\",\"Legal basis\",\"Data\""))
    );
    assert!(csv.contains(",\"'=HYPERLINK(1) \"\"x\"\"\","), "no formula");
}

proptest! {
    #[test]
    fn parsing_never_panics(toml in any::<String>()) {
        let _ = Register::parse(&toml);
    }

    #[test]
    fn a_damaged_register_never_panics(at in 0..SEE.len(), gone in 0..40_usize, put in "\\PC{0,12}") {
        let bytes = SEE.as_bytes();
        let end = (at + gone).min(bytes.len());
        let damaged = [&bytes[..at], put.as_bytes(), &bytes[end..]].concat();
        if let Ok(register) = Register::parse(&String::from_utf8_lossy(&damaged)) {
            let _ = (warnings(&register), diff(Some(&see()), &register), report::html(&register, ""));
        }
    }
}
