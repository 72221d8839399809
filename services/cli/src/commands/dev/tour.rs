//! What to try when the story is over: every line works as printed, from the folder where `dev` was started.

use super::house::House;
use super::story::{CONTROLLER, Held, SUPPORT_PURPOSE};
use crate::output::{Output, Tone};

/// Addresses and commands.
pub(super) fn text(house: &House, held: &Held, output: &Output) -> String {
    let ports = &house.ports;
    let at = |name: &str| house.folder.typed(name).display().to_string();
    let program = std::env::args().next().unwrap_or_else(|| "cloakroom".to_owned());
    let cli = |name: &str| format!("{program} --config {} --as {name}", at("cli.toml"));
    let certs = |flags: [&str; 3], name: &str| {
        let [ca, cert, key] = flags;
        let file = |file: String| at(&format!("certs/{file}"));
        format!(
            "{ca} {} {cert} {} {key} {}",
            file("ca.pem".to_owned()),
            file(format!("{name}.pem")),
            file(format!("{name}.key"))
        )
    };
    let curl = certs(["--cacert", "--cert", "--key"], "dpo");
    let grpcurl = certs(["-cacert", "-cert", "-key"], "support");
    let (token, erasure) = (&held.other.email, &held.erasure_id);
    let head = |title: &str| output.paint(Tone::Strong, title);
    let lines = [
        format!("\n{}", head("Everything runs. Try, in another terminal:")),
        format!(
            "  {} --controller {CONTROLLER} --purpose {SUPPORT_PURPOSE} --masked {token}",
            cli("support") + " detokenize"
        ),
        format!("  {} describe --controller {CONTROLLER} {token}", cli("support")),
        format!(
            "  echo 'Ada Lovelace' | {} tokenize --controller {CONTROLLER} --activity ticket_purchase --field full_name",
            cli("orders")
        ),
        format!(
            "  {} erase --controller {CONTROLLER} {} --actor dsr-2027-2 --reason case-115 --yes --wait",
            cli("dpo"),
            held.other.subject_id
        ),
        format!("  {} erasure list --controller {CONTROLLER}", cli("dpo")),
        format!("  {} register report --controller {CONTROLLER}", cli("auditor")),
        format!("  {} log verify", cli("auditor")),
        format!("  {} doctor", cli("dpo")),
        format!("\n{}", head("The admin endpoint speaks HTTP too:")),
        format!("  curl {curl} https://{}/v1/status", ports.admin),
        format!("  curl {curl} https://{}/v1/erasures/{erasure}", ports.admin),
        format!("  curl {curl} 'https://{}/v1/downstreams?controller={CONTROLLER}'", ports.admin),
        format!("  curl {curl} https://{}/openapi.json", ports.admin),
        format!("  curl http://{}/metrics", ports.health),
        format!("  curl http://{}/messages", ports.mail_health),
        format!("\n{}", head("And gRPC, for those who have grpcurl:")),
        format!("  grpcurl {grpcurl} {} list", ports.vault),
        format!(
            "  grpcurl {grpcurl} -d '{{\"controller\":\"{CONTROLLER}\",\"tokens\":[\"{token}\"]}}' {} cloakroom.vault.v1.VaultService/Describe",
            ports.vault
        ),
        format!("\n{}", head("Where they listen:")),
        format!("  vault {}  admin {}  health {}", ports.vault, ports.admin, ports.health),
        format!("  mail {}  health {}  SMTP sink {}", ports.mail, ports.mail_health, ports.smtp),
        format!("  affiliate {}  health {}", ports.affiliate, ports.affiliate_health),
        format!("  logs in {}", house.folder.logs().display()),
        "\nCtrl-C ends everything.".to_owned(),
    ];
    lines.join("\n")
}
