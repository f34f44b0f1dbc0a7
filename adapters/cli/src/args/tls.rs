//! The options about TLS (AUTH-7)

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use rejoin_core::binding::Binding;

/// How far a coordinator, and the way to it, are trusted
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Security {
    /// Whose certificates to believe at wss:// URLs, a file in PEM format [env: REJOIN_CA]
    ///
    /// By default those that the system believes.
    #[arg(long, value_name = "FILE", verbatim_doc_comment)]
    pub ca: Option<PathBuf>,

    /// Dial ws:// URLs of other hosts all the same
    ///
    /// Nobody can forge what goes over the link, but everybody on the way can read it:
    /// for networks that you trust, such as a tunnel.
    #[arg(long, verbatim_doc_comment)]
    pub insecure_ws: bool,

    /// Whether to bind the link to its TLS connection
    ///
    /// Then whoever stands in between is found, even with a certificate that is
    /// believed: prefer binds if the coordinator has a certificate, require gives the
    /// link up if not, and off is for proxies that end TLS and begin it again.
    #[arg(long, value_name = "WHEN", verbatim_doc_comment, value_parser = bindings())]
    pub binding: Option<Binding>,
}

/// What a coordinator shows of itself
#[derive(Debug, Args)]
pub struct Shown {
    /// The certificate by which workers and clients know this host, in PEM format
    ///
    /// Those that lead from it to an authority stand behind it. `rejoin cert` makes
    /// one. With it the port speaks TLS only. A file that is replaced is taken up
    /// within seconds, and connections stay.
    #[arg(long, value_name = "FILE", verbatim_doc_comment, requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// The certificate's private key, in PEM format
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Listen in plain for other hosts, too
    ///
    /// For networks that you trust, and for a proxy that ends TLS in front.
    #[arg(long, verbatim_doc_comment, conflicts_with = "tls_cert")]
    pub insecure_ws: bool,

    /// Whether links must be bound to their TLS connections: prefer, require or off
    ///
    /// With require nobody gets in by way of a proxy that ends TLS.
    #[arg(long, value_name = "WHEN", verbatim_doc_comment, value_parser = bindings())]
    pub binding: Option<Binding>,
}

/// What `rejoin cert` is called with
#[derive(Debug, Args)]
pub struct Cert {
    /// By which names and addresses the coordinator is dialled
    #[arg(required = true, value_name = "HOST")]
    pub hosts: Vec<String>,

    /// The certificate to make; must not exist
    #[arg(long, value_name = "FILE")]
    pub tls_cert: PathBuf,

    /// The private key to make; must not exist
    #[arg(long, value_name = "FILE")]
    pub tls_key: PathBuf,

    /// How many days it is valid
    #[arg(long, value_name = "N", default_value_t = 3650, value_parser = clap::value_parser!(u16).range(1..))]
    pub days: u16,
}

/// The three values of --binding
fn bindings() -> impl TypedValueParser<Value = Binding> {
    PossibleValuesParser::new(["prefer", "require", "off"]).map(|word| match word.as_str() {
        "require" => Binding::Require,
        "off" => Binding::Off,
        _ => Binding::Prefer,
    })
}

pub(super) const CERT_HELP: &str = "\
Example:
    rejoin cert box.example.org 10.0.0.7 --tls-cert box.pem --tls-key box-tls.key
    rejoin coordinator --listen 0.0.0.0 --tls-cert box.pem --tls-key box-tls.key \\
        --data state --keys coordinator.keys
    rejoin worker --coordinator wss://10.0.0.7:7878 --ca box.pem --key lab-3.key

Exit status:
  0      both files are made
  254    a file cannot be written
  255    wrong usage, a host that cannot be, or a file that exists";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn parse(line: &str) -> Result<Command, String> {
        let words = ["rejoin"].into_iter().chain(line.split(' '));
        Cli::try_parse_from(words).map(|cli| cli.command).map_err(|error| error.to_string())
    }

    #[test]
    fn every_option() {
        let least = parse("cert box --tls-cert c --tls-key k").unwrap();
        let Command::Cert(least) = least else { panic!("another command") };
        assert_eq!((least.hosts, least.days), (vec!["box".to_owned()], 3650));
        let line = "worker --coordinator wss://x --key k --ca c --insecure-ws --binding require";
        let Command::Worker(worker) = parse(line).unwrap() else { panic!("another command") };
        let all = Security { ca: Some("c".into()), insecure_ws: true, binding: Some(Binding::Require) };
        assert_eq!(worker.access.security, all);
        let line = "coordinator --listen [::] --data d --keys k --tls-cert c --tls-key s --binding off --public-url x";
        let Command::Coordinator(coordinator) = parse(line).unwrap() else { panic!("another command") };
        assert_eq!((coordinator.shown.tls_cert, coordinator.shown.tls_key), (Some("c".into()), Some("s".into())));
        assert_eq!(coordinator.shown.binding, Some(Binding::Off));
        assert_eq!(coordinator.public_urls, ["x".parse().unwrap()]);
    }

    #[test]
    fn what_is_missing_or_wrong_is_told() {
        for (line, part) in [
            ("cert --tls-cert c --tls-key k", "<HOST>"),
            ("cert box --tls-key k", "--tls-cert <FILE>"),
            ("cert box --tls-cert c --tls-key k --days 0", "1..=65535"),
            ("coordinator --listen [::] --data d --keys k --tls-cert c", "--tls-key <FILE>"),
            ("coordinator --listen [::] --data d --keys k --tls-key c", "--tls-cert <FILE>"),
            (
                "coordinator --listen [::] --data d --keys k --tls-cert c --tls-key s --insecure-ws",
                "cannot be used with",
            ),
            ("coordinator --listen [::] --data d --keys k --public-url ftp://x", "use ws:// or wss://"),
            ("worker --coordinator x --key k --binding maybe", "[possible values: prefer, require, off]"),
        ] {
            let message = parse(line).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }
}
