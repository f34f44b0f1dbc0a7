//! Every public state of a connection, and every way from one to another, seen from outside

mod common;

use std::collections::BTreeSet;

use common::{connected, ms, secs};
use rejoin_core::coordinator::{Input, PeerState};
use rejoin_core::link::LinkState;
use rejoin_sim::{Job, Setup, World, worker_key};

/// What was seen: pairs of states, one after the other
#[derive(Default)]
struct Seen {
    links: BTreeSet<String>,
    peers: BTreeSet<String>,
}

impl Seen {
    fn watch(&mut self, world: &mut World, steps: usize) {
        for _ in 0..steps {
            let before = (world.state(0), world.seen(0));
            if !world.step() {
                return;
            }
            self.note(before, world);
        }
    }

    fn note(&mut self, before: (LinkState, PeerState), world: &World) {
        let after = (world.state(0), world.seen(0));
        if before.0 != after.0 {
            self.links.insert(format!("{:?} {:?}", before.0, after.0));
        }
        if before.1 != after.1 {
            self.peers.insert(format!("{:?} {:?}", before.1, after.1));
        }
    }
}

#[test]
fn sess_4_every_state_of_a_connection_and_no_other_transition_is_seen() {
    let mut seen = Seen::default();
    // Cut in every state, with a task held or not, resumable or not, and revoked in every state.
    for (lifetime, held, revoke) in [(300, false, false), (300, true, false), (0, true, false), (300, true, true)] {
        for at in 0..30 {
            for again in [1, 2, 3, 5, 7, 8, 9, 10, 12] {
                let mut world = World::new(Setup {
                    coordinator: match lifetime {
                        0 => |config| {
                            config.session_lifetime = secs(0);
                            config.lost_after = secs(5);
                        },
                        _ => |config| config.lost_after = secs(5),
                    },
                    ..Setup::default()
                });
                if held {
                    world.submit("held", Job::takes(secs(8)));
                }
                seen.watch(&mut world, at);
                if revoke {
                    world.tell_coordinator(Input::RevokeKey { key: worker_key(0).id }).expect("a known key");
                    seen.watch(&mut world, 60);
                    assert_eq!(world.state(0), LinkState::Stopped);
                    break;
                }
                world.reset(0);
                seen.watch(&mut world, again);
                world.wire(0).refuses = true;
                world.reset(0);
                seen.watch(&mut world, 60);
                world.wire(0).refuses = false;
                seen.watch(&mut world, 60);
            }
        }
    }
    let links = [
        "Waiting Connecting",
        "Connecting Waiting",
        "Connecting Greeting",
        "Greeting Proving",
        "Proving Reconciling",
        "Proving Connected",
        "Reconciling Connected",
        // Lost, and dialled again in the same instant.
        "Greeting Connecting",
        "Proving Connecting",
        "Connected Connecting",
        // Lost, and waiting for the next dial.
        "Greeting Waiting",
        "Proving Waiting",
        "Reconciling Waiting",
        "Connected Waiting",
        // Refused for good, under seal.
        "Proving Stopped",
        "Connected Stopped",
    ];
    assert_eq!(seen.links, links.map(String::from).into());
    let peers = [
        "Unknown Reconciling",
        "Reconciling Connected",
        "Reconciling Disconnected",
        "Connected Disconnected",
        "Disconnected Connected",
        "Disconnected Reconciling",
        "Disconnected Lost",
        "Lost Connected",
        "Lost Reconciling",
    ];
    assert_eq!(seen.peers, peers.map(String::from).into());
}

#[test]
fn sess_4_a_stopped_worker_stays_stopped_and_what_runs_there_may_end() {
    let mut world = connected(Setup::default());
    world.submit("runs", Job::takes(secs(1)));
    world.run_for(ms(20));
    world.tell_coordinator(Input::RevokeKey { key: worker_key(0).id }).expect("a known key");
    world.run_for(secs(3600));
    assert_eq!((world.state(0), world.seen(0), world.dials(0)), (LinkState::Stopped, PeerState::Lost, 1));
    assert_eq!(world.worker(0).held(), 1, "a denied worker keeps its outbox");
}
