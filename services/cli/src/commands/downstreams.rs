//! `cloakroom downstreams`

use clap::Args;
use cloakroom_proto::admin::v1::{Downstream, ListDownstreamsRequest};
use serde_json::json;

use crate::error::CliError;
use crate::output::{Output, columns, moment};
use crate::settings::Settings;

/// Lists who holds copies, and how far each is
#[derive(Args, Debug)]
pub(crate) struct Downstreams {
    /// Whose customers
    #[arg(long)]
    controller: String,
}

impl Downstreams {
    /// Runs the command.
    pub(crate) async fn run(&self, settings: &Settings, output: &Output) -> Result<(), CliError> {
        let request = ListDownstreamsRequest { controller: self.controller.clone() };
        let found = settings.admin().await?.list_downstreams(request).await?.downstreams;
        let object = |downstream: &Downstream| {
            json!({
                "downstream": downstream.downstream,
                "name": downstream.name,
                "principal": downstream.principal,
                "region": downstream.region,
                "registered": downstream.registered,
                "destroy_class": downstream.destroy_class,
                "last_answer": moment(downstream.last_answer_unix_ms),
                "open_purges": downstream.open_purges,
            })
        };
        let objects: Vec<_> = found.iter().map(object).collect();
        output.result(&objects, || {
            let head =
                ["downstream", "region", "registered", "open", "last answer", "name"].map(str::to_owned);
            let row = |downstream: &Downstream| {
                vec![
                    downstream.downstream.clone(),
                    downstream.region.clone(),
                    if downstream.registered { "yes" } else { "no" }.to_owned(),
                    downstream.open_purges.to_string(),
                    moment(downstream.last_answer_unix_ms),
                    downstream.name.clone(),
                ]
            };
            columns(&std::iter::once(head.to_vec()).chain(found.iter().map(row)).collect::<Vec<_>>())
        })
    }
}
