//! The servers that drivers are tested against. No driver of this workspace needs one yet, so the list is
//! empty; a driver that needs a server adds it here, with how to install, start, stop and ask it.

use clap::{Args, ValueEnum};

use crate::Result;

/// Every service there is.
const SERVICES: [&str; 0] = [];

#[derive(Args)]
pub(crate) struct Options {
    #[arg(value_enum, default_value_t = Action::Status)]
    action: Action,
    /// The services concerned; all if none is named.
    names: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Action {
    Install,
    Start,
    Stop,
    Status,
}

pub(crate) fn run(options: &Options) -> Result {
    if let Some(name) = options.names.iter().find(|name| !SERVICES.contains(&name.as_str())) {
        return Err(format!("there is no service {name:?}: no driver here needs a server yet").into());
    }
    let verb = match options.action {
        Action::Install => "install",
        Action::Start => "start",
        Action::Stop => "stop",
        Action::Status => "show",
    };
    println!("No driver here needs a server yet: nothing to {verb}.");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_does_not_exist_is_refused_by_name() {
        let options = Options { action: Action::Start, names: vec!["kafka".into()] };
        assert!(run(&options).unwrap_err().to_string().contains("\"kafka\""));
    }
}
