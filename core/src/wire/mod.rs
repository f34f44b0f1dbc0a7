//! The bytes on the wire: handshake, frames and messages
//!
//! Everything here is a pure function of bytes and keys; who may send what, and when, is decided by the machines.

pub mod codec;
mod gain;
pub mod handshake;
pub mod keys;
pub mod message;
pub mod view;
