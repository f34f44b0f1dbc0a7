//! What a proxy, its accepting task and its links have in common

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smol::channel::{self, Receiver, Sender};
use smol::future;

use super::plan::{Manner, Plan, Refusal, Settings, plan};
use super::{Counts, MAX_HALF_OPEN};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) upstream: SocketAddr,
    pub(super) settings: Settings,
    pub(super) seed: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) calm: bool,
    pub(super) refuse: bool,
    pub(super) counts: Counts,
    pub(super) links: BTreeMap<u64, Entry>,
}

/// What is known of a link
#[derive(Debug)]
pub(super) struct Entry {
    orders: Sender<Order>,
    half_open: bool,
}

/// What a proxy asks of a link
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Order {
    Calm,
    Cut(Manner),
}

impl Shared {
    pub(super) fn new(upstream: SocketAddr, settings: Settings, seed: u64) -> Self {
        Self { upstream, settings, seed, state: Mutex::default() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(super) fn order_all(&self, order: Order) {
        for link in self.links.values() {
            // The queue has no bound to exceed, and a closed one is of an ended link.
            let _ = link.orders.try_send(order);
        }
    }
}

/// A connection's place in the list of links, given up on drop
pub(super) struct Place {
    pub(super) shared: Arc<Shared>,
    pub(super) connection: u64,
    orders: Receiver<Order>,
}

impl Place {
    /// Lists a new connection, and draws what is to become of it
    pub(super) fn new(shared: Arc<Shared>) -> (Self, Plan) {
        // Held to the end, so that no `calm` falls between listing and drawing.
        let mut state = shared.state();
        let connection = state.counts.connections;
        state.counts.connections += 1;
        let (sender, orders) = channel::unbounded();
        state.links.insert(connection, Entry { orders: sender, half_open: false });
        let mut fate = if state.calm { Plan::default() } else { plan(&shared.settings, shared.seed, connection) };
        if state.refuse {
            fate.refusal = Some(Refusal::AtOnce);
        }
        drop(state);
        (Self { shared, connection, orders }, fate)
    }

    /// What is asked of the link next
    pub(super) async fn order(&self) -> Order {
        match self.orders.recv().await {
            Ok(order) => order,
            Err(_) => future::pending().await,
        }
    }

    /// Lists the link as half-open, unless there are too many already
    pub(super) fn turn_half_open(&self) -> bool {
        let links = &mut self.shared.state().links;
        let room = links.values().filter(|link| link.half_open).count() < MAX_HALF_OPEN;
        if let Some(link) = links.get_mut(&self.connection) {
            link.half_open = room;
        }
        room
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.state().links.remove(&self.connection);
    }
}
