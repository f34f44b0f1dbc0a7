//! Scenarios over real sockets, each named by what must hold

mod blocking;
mod greeting;
mod journal;
mod liveness;
mod strangers;
mod tls;
mod websocket;
mod work;
