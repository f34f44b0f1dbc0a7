//! No rule of PROTOCOL.md without code that names it and a test that is named after it
//!
//! `docs/rules.md` is the table of all of them; `UPDATE_RULES=1 cargo test -p rejoin-tests --test rules` writes it anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use rejoin_sim::audit::Check;

/// Where code is, as far as it keeps to rules
const CODE: [&str; 3] = ["core/src", "adapters/smol/src", "adapters/cli/src"];
/// Where tests are
const TESTS: [&str; 4] = ["core", "adapters", "sim", "tests"];

const INTRODUCTION: &str = "\
# Rules, and what keeps them

Each rule of [PROTOCOL.md](../PROTOCOL.md), the code that names it, the tests that are named after it, and the checks of the
simulator's auditor that watch over it in every seed (`rejoin sim swarm` says what each check means, and how often it had occasion
to fail). A rule that no check watches over is shown by its tests alone.

This page is written by `UPDATE_RULES=1 cargo test -p rejoin-tests --test rules`, and compared with the code in each run of the tests.
";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All Rust sources below some folders, by their paths from the root
fn sources(folders: &[&str]) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    let mut folders: Vec<String> = folders.iter().map(|&folder| folder.into()).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).expect("the folder can be read") {
            let entry = entry.expect("the folder can be read");
            let name = entry.file_name().into_string().expect("the name is UTF-8");
            let path = format!("{folder}/{name}");
            if entry.path().is_dir() && name != "target" {
                folders.push(path);
            } else if name.ends_with(".rs") {
                texts.insert(path, fs::read_to_string(entry.path()).expect("the source can be read"));
            }
        }
    }
    texts
}

/// Rules that PROTOCOL.md defines: in bold, at the beginning of an item
fn rules() -> Vec<String> {
    let protocol = fs::read_to_string(root().join("PROTOCOL.md")).expect("PROTOCOL.md can be read");
    let items = protocol.lines().filter_map(|line| line.trim_start().strip_prefix("- **")?.split_once("**"));
    let is_rule = |name: &&str| {
        let parts = name.split_once('-');
        parts.is_some_and(|(area, n)| area.chars().all(|c| c.is_ascii_uppercase()) && n.parse::<u8>().is_ok())
    };
    let mut known = BTreeSet::new();
    items
        .map(|(name, _)| name.to_owned())
        .filter(|name| is_rule(&name.as_str()) && known.insert(name.clone()))
        .collect()
}

/// Whether a text names a rule, and not one whose number begins alike
fn names(text: &str, rule: &str) -> bool {
    text.match_indices(rule).any(|(at, _)| !text[at + rule.len()..].starts_with(|c: char| c.is_ascii_digit()))
}

/// The tests in a source that are named after a rule
fn tests_of<'a>(text: &'a str, rule: &str) -> impl Iterator<Item = &'a str> {
    let begins = format!("{}_", rule.to_lowercase().replace('-', "_"));
    let functions = text.split("fn ").skip(1).filter_map(|rest| rest.split_once('(')).map(|(name, _)| name);
    functions.filter(move |name| name.starts_with(&begins))
}

fn link(path: &str) -> String {
    let crates = [("core/src/", "core"), ("adapters/smol/src/", "smol"), ("adapters/cli/src/", "cli")];
    let short = crates.iter().find_map(|(prefix, name)| Some(format!("{name} {}", path.strip_prefix(prefix)?)));
    format!("[{}](../{path})", short.as_deref().unwrap_or(path))
}

#[test]
fn every_rule_is_named_by_code_and_by_a_test() {
    let (code, tests) = (sources(&CODE), sources(&TESTS));
    let rules = rules();
    assert!(rules.len() >= 45, "only {} rules found: {rules:?}", rules.len());
    for check in Check::ALL {
        for rule in check.rules() {
            assert!(rules.iter().any(|known| known == rule), "{check} watches over {rule}, which is no rule");
        }
    }

    let mut page = String::from(INTRODUCTION);
    for rule in &rules {
        let named: Vec<String> =
            code.iter().filter(|(_, text)| names(text, rule)).map(|(path, _)| link(path)).collect();
        assert!(!named.is_empty(), "no code names {rule}");
        writeln!(page, "\n## {rule}\n\nCode: {}.\n", named.join(", ")).expect("a string takes all");
        let mut tested = 0;
        for (path, text) in &tests {
            for test in tests_of(text, rule) {
                tested += 1;
                writeln!(page, "* [{}](../{path})", test.replace('_', " ")).expect("a string takes all");
            }
        }
        assert!(tested > 0, "no test is named after {rule}");
        let watching = Check::ALL.iter().filter(|check| check.rules().contains(&rule.as_str()));
        let watching: Vec<String> = watching.map(|check| format!("{check} ({})", check.sentence())).collect();
        if !watching.is_empty() {
            writeln!(page, "\nIn every seed: {}.", watching.join("; ")).expect("a string takes all");
        }
    }

    let path = root().join("docs/rules.md");
    if std::env::var_os("UPDATE_RULES").is_some() {
        fs::write(path, page).expect("the page can be written");
        return;
    }
    let known = fs::read_to_string(path).unwrap_or_default();
    assert!(known == page, "docs/rules.md is out of date: UPDATE_RULES=1 cargo test -p rejoin-tests --test rules");
}
