//! `cargo +nightly fuzz run message_decoding target/found fuzz/corpus/message_decoding`, after `mkdir -p target/found`
//!
//! What is found goes to the first directory; the second one is the corpus that is replayed on stable.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rejoin_sim::fuzz::message_decoding(data));
