//! Wire format 1 and record format 1, byte by byte (FRAME-6)
//!
//! `core/tests/vectors` holds an encoding of every variant of everything that goes over the wire or into the journal,
//! for whoever writes a second implementation. A difference is a break with every peer and every journal out there.
//! What is new is written by `REJOIN_BLESS=1 cargo test -p rejoin-core --test golden`.

mod book;
mod conversation;
mod handshake;
mod messages;
mod records;
mod variants;
