//! What a proxy says of itself: where it is, and what it has broken

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use rejoin_smol::chaos::{Counts, Kind, Proxy};
use serde::Serialize;

/// Where it listens
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) address: SocketAddr,
    pub(super) control: Option<SocketAddr>,
    pub(super) seed: u64,
}

impl Listening {
    pub(super) fn text(&self, json: bool) -> String {
        let Listening { address, control, seed } = self;
        if json {
            let control = control.map(|control| control.to_string());
            let object = serde_json::json!({
                "type": "listening", "address": address.to_string(), "control": control, "seed": seed
            });
            return format!("{object}\n");
        }
        let mut text = format!("listening on {address}");
        if let Some(control) = control {
            let _ = write!(text, ", orders at {control}");
        }
        text + &format!(", seed {seed}\n")
    }
}

/// What came, and what of it had an effect
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    #[serde(rename = "type")]
    kind: &'static str,
    seed: u64,
    /// Connections so far, and now
    connections: u64,
    open: usize,
    fired: u64,
    effects: u64,
    impossible: u64,
    faults: BTreeMap<&'static str, Often>,
}

/// How often a kind of fault came, and had an effect
#[derive(Debug, Serialize)]
struct Often {
    fired: u64,
    effects: u64,
    /// Connections on which it could have none
    impossible: u64,
}

impl Often {
    fn of(counts: &Counts, kind: Kind) -> Often {
        Often { fired: counts.fired(kind), effects: counts.felt(kind), impossible: counts.impossible(kind) }
    }
}

impl Summary {
    pub(super) fn of(proxy: &Proxy, seed: u64) -> Summary {
        let counts = proxy.counts();
        let all = Kind::ALL.iter().map(|kind| (kind.name(), Often::of(&counts, *kind)));
        let any = |often: &Often| often.fired + often.effects + often.impossible > 0;
        let faults: BTreeMap<&str, Often> = all.filter(|(_, often)| any(often)).collect();
        Summary {
            kind: "summary",
            seed,
            connections: counts.connections,
            open: proxy.connections_now(),
            fired: faults.values().map(|often| often.fired).sum(),
            effects: faults.values().map(|often| often.effects).sum(),
            impossible: faults.values().map(|often| often.impossible).sum(),
            faults,
        }
    }

    /// One object, on one line
    pub(super) fn json(&self) -> String {
        // Numbers and names: there is nothing that could not be written.
        let object = serde_json::to_string(self).unwrap_or_default();
        format!("{object}\n")
    }

    /// A line for each kind, and one for all of them
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for (name, Often { fired, effects, impossible }) in &self.faults {
            let _ = write!(text, "{name:<14}{fired:>8} came {effects:>8} had an effect");
            let _ = match impossible {
                0 => writeln!(text),
                _ => writeln!(text, "; on {impossible} connections that was impossible"),
            };
        }
        let Summary { seed, connections, fired, effects, .. } = self;
        let _ = writeln!(text, "{connections} connections; {fired} faults came, {effects} effects; seed {seed}");
        text
    }
}
