//! The simulator's guide says of schedules what the code says

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rejoin_sim::generate::{Profile, generate};
use rejoin_sim::menu::{Kind, Scope};
use rejoin_sim::schedule::{Knob, Schedule, Setting};
use rejoin_sim::simulation::Simulation;

fn path() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "docs", "simulator.md"].iter().collect()
}

fn guide() -> String {
    fs::read_to_string(path()).expect("the guide is there")
}

/// What the guide says of a line, field or setting: its range and what counts where it is left out
fn row(guide: &str, name: &str) -> (String, String) {
    let start = format!("| `{name}` | ");
    let row = guide.lines().find_map(|line| line.strip_prefix(&start));
    let row = row.unwrap_or_else(|| panic!("the guide has no row for {name}"));
    let mut cells = row.split(" | ").map(|cell| cell.replace(',', ""));
    (cells.next().expect("a range"), cells.next().expect("what counts where it is left out"))
}

fn bounds(range: &str) -> (u64, u64) {
    let (low, high) = range.split_once(" to ").unwrap_or_else(|| panic!("no range: {range}"));
    (low.parse().expect("a number"), high.parse().expect("a number"))
}

fn reads(line: &str) -> bool {
    format!("rejoin schedule 1\n{line}\n").parse::<Schedule>().is_ok()
}

/// The ends of a range are read, and what lies behind them is not
fn expect_range(low: u64, high: u64, line: impl Fn(String) -> String) {
    assert!(reads(&line(low.to_string())) && reads(&line(high.to_string())), "{}", line(high.to_string()));
    let above = u128::from(high) + 1;
    assert!(!reads(&line(above.to_string())), "{}", line(above.to_string()));
    if let Some(below) = low.checked_sub(1) {
        assert!(!reads(&line(below.to_string())), "{}", line(below.to_string()));
    }
}

#[test]
fn lines_and_fields_have_the_ranges_that_the_guide_says() {
    let guide = guide();
    let parsed = |text: &str| text.parse::<Schedule>().expect("a schedule");
    let quiet = parsed("rejoin schedule 1\n");
    for head in ["seed", "workers", "clients"] {
        let (range, usual) = row(&guide, &format!("{head} N"));
        let (low, high) = bounds(&range);
        expect_range(low, high, |n| format!("{head} {n}"));
        assert_eq!(parsed(&format!("rejoin schedule 1\n{head} {usual}\n")), quiet, "{head}");
    }
    assert_eq!(row(&guide, "safety T"), ("a time".into(), "60".into()));
    assert_eq!(quiet.safety, Duration::from_secs(60));
    let full = "1.000000 submit c0 task=7 priority=1 retries=1 prints=1 returns=1 input=1 fails=1 poison=1 steps=2 saves=1 takes=1.000000";
    let text = parsed(&format!("rejoin schedule 1\n{full}\n")).to_string();
    assert!(text.contains(full), "it is written as it was read: {text}");
    let bare = "1 submit c0 task=7";
    for (name, _) in full.split(' ').filter_map(|word| word.split_once('=')) {
        let (range, usual) = row(&guide, name);
        match (name, range.as_str()) {
            ("task", _) => {
                let (low, high) = bounds(&range);
                expect_range(low, high, |n| format!("1 submit c0 task={n}"));
                assert!(usual == "not allowed" && !reads("1 submit c0"));
                continue;
            }
            (_, "a time") => expect_range(0, 604_800, |n| format!("{bare} {name}={n}")),
            _ => {
                let (low, high) = bounds(&range);
                expect_range(low, high, |n| format!("{bare} {name}={n}"));
            }
        }
        let left_out = parsed(&format!("rejoin schedule 1\n{bare}\n"));
        assert_eq!(parsed(&format!("rejoin schedule 1\n{bare} {name}={usual}\n")), left_out, "{name}");
    }
    expect_range(0, 604_800, |n| format!("1 pause w0 for={n}"));
    let (low, high) = bounds(&row(&guide, "amount").0);
    expect_range(low, high, |n| format!("1 delay w0 amount={n}"));
    for (name, usual) in [("towards", "`peer`"), ("for", "0"), ("amount", "0")] {
        assert_eq!(row(&guide, name).1, usual, "{name}");
        let said = format!("rejoin schedule 1\n1 delay w0 {name}={}\n", usual.replace('`', ""));
        assert_eq!(parsed(&said), parsed("rejoin schedule 1\n1 delay w0\n"), "{name}");
    }
    for what in ["submit", "cancel", "again", "clash"] {
        assert!(guide.contains(&format!("| `T {what} cN task=N")) && reads(&format!("1 {what} c0 task=1")), "{what}");
    }
}

#[test]
fn settings_have_the_ranges_and_defaults_that_the_guide_says() {
    let guide = guide();
    let mut schedule = generate(3, Profile::Standard);
    schedule.settings.clear();
    schedule.safety = Duration::from_secs(10);
    let safety = schedule.safety;
    schedule.entries.retain(|entry| entry.at <= safety);
    let usual_hash = Simulation::run(&schedule).hash;
    for knob in Knob::ALL {
        let (range, usual) = row(&guide, knob.name());
        assert_eq!(bounds(&range), knob.range(), "{}", knob.name());
        let value = usual.parse().expect("a default is a number");
        schedule.settings = vec![Setting { name: *knob, value }];
        assert_eq!(Simulation::run(&schedule).hash, usual_hash, "{} is not {value} where it is left out", knob.name());
    }
}

/// A table of all kinds of fault
fn menu() -> String {
    let mut table = String::from(
        "\n| fault | strikes | `towards` | `for` | `amount` | what happens |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    let between = |(low, high): (u64, u64), show: &dyn Fn(u64) -> String| match high {
        0 => String::new(),
        _ => format!("{} to {}", show(low), show(high)),
    };
    for kind in Kind::ALL {
        let dish = kind.dish();
        let whom = match dish.scope {
            Scope::Link => "worker, client",
            Scope::Worker => "worker",
            Scope::Coordinator => "coordinator",
            Scope::Anybody => "anybody",
        };
        let towards = if dish.directed { "yes" } else { "" };
        let seconds = between(dish.span_ms, &|ms| format!("{}", Duration::from_millis(ms).as_secs_f64()));
        let amount = between(dish.amount, &|amount| amount.to_string());
        let _ = writeln!(table, "| `{}` | {whom} | {towards} | {seconds} | {amount} | {} |", dish.name, dish.says);
    }
    table.replace("|  |", "| |").replace("|  |", "| |")
}

#[test]
fn the_guide_has_all_kinds_of_fault() {
    let guide = guide();
    let start = guide.find("--test guide -->\n").expect("where the table begins") + "--test guide -->\n".len();
    let end = start + guide[start..].find("\n<!-- end -->").expect("where the table ends");
    let table = menu();
    if std::env::var_os("UPDATE_GUIDE").is_some() {
        fs::write(path(), format!("{}{table}{}", &guide[..start], &guide[end..])).expect("the guide can be written");
        return;
    }
    assert!(
        guide[start..end] == table,
        "the guide's table of faults is not what sim/src/menu.rs says: UPDATE_GUIDE=1 cargo test -p rejoin-sim --test guide"
    );
}
