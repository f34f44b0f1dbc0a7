//! From the options to a link: where to, and who is believed there (AUTH-7)

use std::path::PathBuf;

use rejoin_core::binding::Binding;
use rejoin_core::ids::BootId;
use rejoin_core::link::LinkConfig;
use rejoin_core::wire::keys::Key;
use rejoin_smol::clock::entropy;
use rejoin_smol::tls::Trust;
use rejoin_smol::url::Endpoint;

use crate::args::Access;
use crate::caller::Failed;

/// How the holder of a key reaches its coordinator, with a boot of its own
///
/// # Errors
///
/// If a link would be readable for others, or could never be bound, or a file cannot be used.
pub fn link(access: &Access, key: Key) -> Result<(LinkConfig, Trust), Failed> {
    let security = &access.security;
    let binding = security.binding.unwrap_or_default();
    for endpoint in &access.coordinators {
        check(endpoint, security.insecure_ws, binding).map_err(Failed::Usage)?;
    }
    let from_env = || std::env::var_os("REJOIN_CA").filter(|path| !path.is_empty()).map(PathBuf::from);
    let trust = match security.ca.clone().or_else(from_env) {
        Some(path) => Trust::from_file(&path).map_err(|error| Failed::Usage(error.to_string()))?,
        None => Trust::system(),
    };
    let mut link = LinkConfig::new(key, BootId(entropy()?), "");
    link.endpoints = access.coordinators.iter().map(ToString::to_string).collect();
    link.binding = binding;
    Ok((link, trust))
}

/// Whether a join token may be used for all of these URLs: whoever listens could keep what the worker's key follows from (AUTH-6)
///
/// # Errors
///
/// If one of them leads to another host without TLS.
pub fn check_token(access: &Access) -> Result<(), String> {
    let plain = |endpoint: &&Endpoint| !endpoint.is_tls() && !endpoint.is_loopback();
    access.coordinators.iter().find(plain).map_or(Ok(()), |endpoint| {
        Err(format!(
            "{endpoint}: a join token is used over TLS only: use wss://, or make a key by `rejoin key new` and carry it there"
        ))
    })
}

/// Whether a URL may be dialled
fn check(endpoint: &Endpoint, insecure_ws: bool, binding: Binding) -> Result<(), String> {
    if endpoint.is_tls() {
        return Ok(());
    }
    if binding == Binding::Require {
        return Err(format!("{endpoint}: --binding require needs TLS: use wss://, or leave --binding out"));
    }
    if !endpoint.is_loopback() && !insecure_ws {
        return Err(format!(
            "{endpoint}: others on the way could read all tasks and results: use wss:// (`rejoin cert` makes a \
             certificate for the coordinator), or --insecure-ws if you trust the network"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auth_7_a_plain_link_to_another_host_must_be_asked_for() {
        let check = |url: &str, insecure, binding| check(&url.parse().unwrap(), insecure, binding);
        for url in ["ws://127.0.0.1:1", "ws://[::1]", "localhost", "ws://a.localhost", "wss://box", "box", "10.0.0.1"] {
            assert_eq!(check(url, false, Binding::Prefer), Ok(()), "{url}");
        }
        for url in ["ws://box", "http://box:80", "ws://10.0.0.1:7878", "ws://[fe80::1]"] {
            let told = check(url, false, Binding::Prefer).unwrap_err();
            assert!(told.contains("use wss://") && told.contains("--insecure-ws"), "{told}");
            assert_eq!(check(url, true, Binding::Prefer), Ok(()), "{url}");
        }
    }

    #[test]
    fn auth_7_a_plain_link_is_never_bound() {
        for url in ["ws://127.0.0.1:1", "ws://box"] {
            let told = check(&url.parse().unwrap(), true, Binding::Require).unwrap_err();
            assert!(told.contains("--binding require needs TLS"), "{told}");
        }
        assert_eq!(check(&"wss://box".parse().unwrap(), false, Binding::Require), Ok(()));
    }
}
