//! The record of processing activities (GDPR Art. 30) in nine columns, for people and for programs.

use std::fmt::Write as _;

use super::Register;
use super::model::Activity;
use super::warn::{destination, warnings};

/// The columns, in the order of the record.
pub const COLUMNS: [&str; 9] = [
    "Activity",
    "Purposes",
    "Legal basis",
    "Data",
    "Origin",
    "Retention",
    "Recipients",
    "International transfers",
    "Security measures",
];

/// One page of HTML with nothing outside it: readable by screen readers, printable in landscape.
/// `edition` tells which version this is, in words ("version 3, applied 2026-01-15").
pub fn html(register: &Register, edition: &str) -> String {
    let title = escape(&format!("Record of processing activities: {}", register.name));
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n\
         <p>GDPR Art. 30. Controller <code>{}</code>, time zone {}, {}.</p>\n",
        escape(&register.controller),
        escape(&register.time_zone),
        escape(edition),
    );
    page.push_str("<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-labelledby=\"activities\">\n<table>\n<caption id=\"activities\">Processing activities</caption>\n<thead>\n<tr>");
    for column in COLUMNS {
        let _ = write!(page, "<th scope=\"col\">{column}</th>");
    }
    page.push_str("</tr>\n</thead>\n<tbody>\n");
    for activity in &register.activities {
        page.push_str("<tr>");
        for (place, lines) in cells(register, activity).iter().enumerate() {
            let text = escape(&lines.join("\n")).replace('\n', "<br>");
            let _ = match place {
                0 => write!(page, "<th scope=\"row\">{text}</th>"),
                _ => write!(page, "<td>{text}</td>"),
            };
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table>\n</div>\n<h2>Worth a look</h2>\n");
    let warnings = warnings(register);
    if warnings.is_empty() {
        page.push_str("<p>No contradictions found.</p>\n");
    } else {
        page.push_str("<ul>\n");
        for warning in &warnings {
            let _ = writeln!(page, "<li>{}</li>", escape(warning));
        }
        page.push_str("</ul>\n");
    }
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:1rem/1.45 system-ui,sans-serif;margin:2rem}\
.scroll{overflow-x:auto}\
table{border-collapse:collapse;width:100%;font-size:.875rem}\
caption{text-align:left;font-weight:600;padding:.5rem 0}\
th,td{border:1px solid;padding:.4rem .5rem;text-align:left;vertical-align:top;min-width:8rem;overflow-wrap:anywhere}\
@page{size:A4 landscape;margin:12mm}\
@media print{body{margin:0;font-size:8pt}.scroll{overflow:visible}table{font-size:7pt}th,td{min-width:0}thead{display:table-header-group}tr{break-inside:avoid}}";

/// The same as Markdown.
pub fn markdown(register: &Register, edition: &str) -> String {
    let mut text = format!(
        "# Record of processing activities: {}\n\nGDPR Art. 30. Controller `{}`, time zone {}, {}.\n\n",
        markdown_words(&register.name),
        register.controller,
        register.time_zone,
        markdown_words(edition)
    );
    let _ = writeln!(text, "| {} |", COLUMNS.join(" | "));
    let _ = writeln!(text, "|{}", " --- |".repeat(COLUMNS.len()));
    for activity in &register.activities {
        let cells = cells(register, activity).map(|lines| markdown_words(&lines.join("\n")));
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text.push_str("\n## Worth a look\n\n");
    let warnings = warnings(register);
    if warnings.is_empty() {
        text.push_str("No contradictions found.\n");
    }
    for warning in &warnings {
        let _ = writeln!(text, "- {}", markdown_words(warning));
    }
    text
}

/// The nine columns as CSV (RFC 4180: CRLF, quotes doubled), UTF-8. A cell that a spreadsheet would take for
/// a formula begins with an apostrophe, as OWASP advises.
pub fn csv(register: &Register) -> String {
    let line =
        |cells: Vec<String>| cells.iter().map(|cell| csv_cell(cell)).collect::<Vec<_>>().join(",") + "\r\n";
    let head = line(COLUMNS.map(str::to_owned).to_vec());
    let rows = register
        .activities
        .iter()
        .map(|activity| line(cells(register, activity).map(|lines| lines.join("; ")).to_vec()));
    std::iter::once(head).chain(rows).collect()
}

/// One activity's nine cells, each as its lines.
fn cells(register: &Register, activity: &Activity) -> [Vec<String>; 9] {
    let mut basis: Vec<String> = activity
        .legal_basis
        .iter()
        .map(|basis| format!("Art. {} ({})", basis.code(), basis.title()))
        .collect();
    basis.extend(activity.special_basis.map(|basis| format!("Art. {} ({})", basis.code(), basis.title())));
    let data = activity.fields.iter().map(|id| {
        let category = register.field(id).map_or("unknown", |field| field.category.name());
        format!("{} ({})", in_words(id), in_words(category))
    });
    let mut recipients: Vec<String> = activity
        .recipients
        .iter()
        .map(|recipient| match (destination(register, recipient), recipient) {
            (Some((name, region, Some(basis))), _) => format!("{name} ({region}, {})", basis.title()),
            (Some((name, region, None)), _) => format!("{name} ({region})"),
            (
                None,
                super::Recipient::Named(name)
                | super::Recipient::Downstream(name)
                | super::Recipient::ThirdParty(name),
            ) => name.clone(),
        })
        .collect();
    if recipients.is_empty() {
        recipients.push("none".to_owned());
    }
    [
        vec![activity.name.clone()],
        activity.purposes.iter().map(|purpose| in_words(purpose)).collect(),
        basis,
        data.collect(),
        vec![activity.origin.clone()],
        vec![activity.retention.clone()],
        recipients,
        vec![activity.transfers.clone()],
        vec![activity.security.clone()],
    ]
}

fn in_words(id: &str) -> String {
    id.replace(['_', '-'], " ")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// Words that cannot leave their cell or become markup.
fn markdown_words(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => safe.push_str("<br>"),
            '<' => safe.push_str("&lt;"),
            '\\' | '|' | '`' | '*' | '_' | '[' | ']' => safe.extend(['\\', c]),
            other => safe.push(other),
        }
    }
    safe
}

fn csv_cell(text: &str) -> String {
    const FORMULA: &[char] = &['=', '+', '-', '@', '\t', '\r', '＝', '＋', '－', '＠'];
    let apostrophe = if text.starts_with(FORMULA) { "'" } else { "" };
    format!("\"{apostrophe}{}\"", text.replace('"', "\"\""))
}
