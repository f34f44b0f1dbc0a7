//! No rule of PROTOCOL.md without code that names it and a test that is named after it

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All Rust sources below a folder
fn sources(folder: &Path) -> Vec<String> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
            texts.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            texts.push(fs::read_to_string(&path).expect("the source can be read"));
        }
    }
    texts
}

/// Rules that PROTOCOL.md defines: in bold, at the beginning of an item
fn rules() -> BTreeSet<String> {
    let protocol = fs::read_to_string(root().join("PROTOCOL.md")).expect("PROTOCOL.md can be read");
    let items = protocol.lines().filter_map(|line| line.trim_start().strip_prefix("- **")?.split_once("**"));
    let is_rule = |name: &&str| {
        let parts = name.split_once('-');
        parts.is_some_and(|(area, n)| area.chars().all(|c| c.is_ascii_uppercase()) && n.parse::<u8>().is_ok())
    };
    items.map(|(name, _)| name).filter(is_rule).map(str::to_owned).collect()
}

#[test]
fn every_rule_is_named_by_code_and_by_a_test() {
    let rules = rules();
    assert!(rules.len() >= 35, "only {} rules found: {rules:?}", rules.len());
    let code: Vec<String> = ["core/src", "adapters/smol/src", "adapters/cli/src"]
        .iter()
        .flat_map(|dir| sources(&root().join(dir)))
        .collect();
    let tests: Vec<String> =
        ["core", "sim", "tests", "adapters"].iter().flat_map(|dir| sources(&root().join(dir))).collect();
    let named = |texts: &[String], name: &str| texts.iter().any(|text| text.contains(name));
    for rule in rules {
        let function = format!("fn {}_", rule.to_lowercase().replace('-', "_"));
        assert!(named(&code, &rule), "no code names {rule}");
        assert!(named(&tests, &function), "no test is named after {rule}");
    }
}
