//! The fuzzer's corpus on stable: every file, whole, cut off everywhere, and with every byte changed
//!
//! The corpus is made of golden vectors. `REJOIN_BLESS=1 cargo test -p rejoin-sim --test fuzz_corpus` adds what is
//! missing; whatever else a fuzzer finds may be put beside it.

use std::path::{Path, PathBuf};
use std::{env, fs};

use rejoin_sim::fuzz;

const VECTORS: [&str; 5] = ["handshake", "messages", "messages_2", "records", "conversation"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

fn corpus() -> PathBuf {
    root().join("fuzz/corpus/message_decoding")
}

/// One vector of each kind, and all of what goes through the tap in a conversation
fn vectors() -> Vec<(String, Vec<u8>)> {
    let mut vectors = Vec::new();
    for file in VECTORS {
        let path = root().join(format!("core/tests/vectors/{file}.txt"));
        let text = fs::read_to_string(path).expect("a file of vectors");
        for (name, hex) in text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = "))
        {
            let wanted = match file {
                "conversation" => name.ends_with(".body") || name.contains(".m1") || name.contains(".m3"),
                _ => name.rsplit('.').next().and_then(|n| n.parse().ok()).unwrap_or(1) == 1,
            };
            if wanted {
                let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("two digits");
                // What another version says under a known name is another vector.
                let version = if file.ends_with("_2") { "2." } else { "" };
                vectors.push((format!("{version}{name}"), (0..hex.len()).step_by(2).map(byte).collect()));
            }
        }
    }
    vectors
}

fn files() -> Vec<Vec<u8>> {
    let files = fs::read_dir(corpus()).expect("a corpus").map(|file| file.expect("a file").path());
    let mut files: Vec<_> = files.collect();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("a file can be read")).collect()
}

#[test]
fn the_corpus_has_golden_vectors_of_every_kind() {
    for (name, bytes) in vectors() {
        let path = corpus().join(name);
        if env::var_os("REJOIN_BLESS").is_some() {
            fs::create_dir_all(corpus()).expect("a directory can be made");
            fs::write(&path, &bytes).expect("a corpus can be written");
        }
        assert_eq!(fs::read(&path).ok(), Some(bytes), "{} is a golden vector", path.display());
    }
}

#[test]
fn no_decoder_fails_on_any_byte_changed_anywhere() {
    for mut data in files() {
        for at in 0..data.len() {
            let was = data[at];
            for byte in 0..=255 {
                data[at] = byte;
                fuzz::decoders(&data);
            }
            data[at] = was;
        }
    }
}

#[test]
fn no_machine_fails_on_a_message_of_the_corpus_cut_off_or_with_a_bit_flipped() {
    for mut data in files() {
        fuzz::message_decoding(&data);
        for at in 0..data.len().min(64) {
            fuzz::message_decoding(&data[..at]);
            let bit = 1 << (at % 8);
            data[at] ^= bit;
            fuzz::message_decoding(&data);
            data[at] ^= bit;
        }
    }
}
