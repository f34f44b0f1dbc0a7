//! The report for people: one file with charts, which needs nothing from elsewhere

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::findings::{Findings, Story, Tasks};
use super::measure::{Look, Spread};

const STYLE: &str = include_str!("page/page.css");
/// Size of a chart
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 150.0;
/// Most faults that are drawn one by one, and most workers that have a line of their own
const STORIES_MAX: usize = 2000;
const ROWS_MAX: usize = 60;

/// The whole page
pub(super) fn page(all: &[Findings]) -> String {
    let failed = all.iter().filter(|findings| !findings.passed).count();
    let seconds: f64 = all.iter().map(|findings| findings.seconds).sum();
    let seed = all.first().map_or(0, |findings| findings.seed);
    let form = if all.iter().any(|findings| findings.long) { "long" } else { "short" };
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>rejoin stress: {} of {} passed</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <h1>rejoin stress {}</h1>\n\
         <p class=\"dim\">{} of {} scenarios passed in {seconds:.0} s, {form} form, seed {seed}. Coordinators and workers were \
         processes; what befell them was real. Tasks read submitted / applied / duplicated / lost.</p>\n",
        all.len() - failed,
        all.len(),
        verdict(failed == 0),
        all.len() - failed,
        all.len()
    );
    summary(&mut out, all);
    for findings in all {
        scenario(&mut out, findings);
    }
    out + "</body>\n</html>\n"
}

fn verdict(passed: bool) -> &'static str {
    if passed { "<span class=\"verdict\">PASS</span>" } else { "<span class=\"verdict failed\">FAIL</span>" }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn ms(ms: f64) -> String {
    if ms >= 10_000.0 { format!("{:.1} s", ms / 1000.0) } else { format!("{ms:.0} ms") }
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{:.1} KB", bytes as f64 / 1e3),
        10_000_000.. => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

fn read(tasks: &Tasks) -> String {
    let Tasks { submitted, applied, duplicated, lost, .. } = tasks;
    format!("{submitted} / {applied} / {duplicated} / {lost}")
}

fn summary(out: &mut String, all: &[Findings]) {
    *out += "<div class=\"scroll\"><table id=\"summary\">\n<tr><th></th><th>scenario</th><th>tasks</th><th class=\"n\">faults</th>\
             <th class=\"n\">reconnections</th><th class=\"n\">noticed in<br>half / 99 %</th>\
             <th class=\"n\">resumed in<br>half / 99 %</th><th class=\"n\">took</th></tr>\n";
    for findings in all {
        let both = |spread: &Spread| match spread.count {
            0 => "–".to_owned(),
            _ => format!("{} / {}", ms(spread.p50_ms), ms(spread.p99_ms)),
        };
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td><a href=\"#{name}\">{name}</a></td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{:.1} s</td></tr>",
            verdict(findings.passed),
            read(&findings.tasks),
            findings.felt(),
            findings.reconnections,
            both(&findings.speed.detect),
            both(&findings.speed.resume),
            findings.seconds,
            name = findings.name,
        );
    }
    *out += "</table></div>\n";
}

fn scenario(out: &mut String, findings: &Findings) {
    let open = if findings.passed { "" } else { " open" };
    let _ = write!(
        out,
        "<details id=\"{name}\"{open}>\n<summary>{} <h2>{name}</h2><span class=\"says\">{}</span></summary>\n",
        verdict(findings.passed),
        escaped(findings.says),
        name = findings.name
    );
    tiles(out, findings);
    *out += "<div class=\"charts\">\n";
    if !findings.stories.is_empty() {
        chart(out, "What was broken, when, and until it was mended", &stories(&findings.stories));
    }
    for (what, spread, class) in
        [("noticed", &findings.speed.detect, "two"), ("connected again", &findings.speed.resume, "one")]
    {
        if spread.count > 0 {
            chart(out, &format!("Time until {what}"), &histogram(spread, class));
        }
    }
    if findings.latency.count > 0 {
        chart(out, "Time from a task's submission to its end", &histogram(&findings.latency, "one"));
    }
    let kinds = "<span class=\"key one\">coordinator</span><span class=\"key two\">workers</span>";
    if !findings.looks.is_empty() {
        chart(out, &format!("Memory in MiB {kinds}"), &lines(&findings.looks, |look| look.rss_kib as f64 / 1024.0));
        chart(out, &format!("Open descriptors {kinds}"), &lines(&findings.looks, |look| look.descriptors as f64));
    }
    *out += "</div>\n";
    speeds(out, findings);
    for table in &findings.tables {
        let _ = write!(out, "<h3>{}</h3>\n<div class=\"scroll\"><table>\n<tr>", escaped(&table.title));
        table.head.iter().for_each(|head| _ = write!(out, "<th>{}</th>", escaped(head)));
        *out += "</tr>\n";
        for row in &table.rows {
            *out += "<tr>";
            row.iter().for_each(|cell| _ = write!(out, "<td>{}</td>", escaped(cell)));
            *out += "</tr>\n";
        }
        *out += "</table></div>\n";
    }
    checks(out, findings);
    *out += "</details>\n";
}

fn tiles(out: &mut String, findings: &Findings) {
    let percent = |part: u64, whole: u64| format!("{:.1} %", part as f64 * 100.0 / whole.max(1) as f64);
    let overhead = findings.carried_bytes.saturating_sub(findings.payload_bytes);
    let most = |kind: &str| {
        findings.looks.get(kind).into_iter().flatten().map(|look| look.rss_kib).max().unwrap_or_default() / 1024
    };
    let tiles = [
        (read(&findings.tasks), "submitted / applied / duplicated / lost".to_owned()),
        (findings.felt().to_string(), "faults that had an effect".to_owned()),
        (findings.reconnections.to_string(), "reconnections".to_owned()),
        (
            percent(findings.redone_ms, findings.done_ms),
            format!("of the work done again ({} of {})", ms(findings.redone_ms as f64), ms(findings.done_ms as f64)),
        ),
        (
            bytes(findings.carried_bytes),
            format!("over the workers' links, {} of them beside what had to travel", bytes(overhead)),
        ),
        (
            format!("{} MiB", most("coordinator")),
            format!("coordinator's memory at most; all workers' {} MiB", most("workers")),
        ),
    ];
    *out += "<div class=\"tiles\">\n";
    for (figure, says) in tiles {
        let _ = writeln!(out, "<div class=\"tile\"><b>{figure}</b><span>{}</span></div>", escaped(&says));
    }
    *out += "</div>\n";
}

fn speeds(out: &mut String, findings: &Findings) {
    if findings.faults.is_empty() {
        return;
    }
    *out += "<h3>By kind of fault</h3>\n<div class=\"scroll\"><table>\n<tr><th>fault</th><th class=\"n\">planned</th><th class=\"n\">had an effect</th>\
             <th class=\"n\">noticed in: half</th><th class=\"n\">99 %</th><th class=\"n\">resumed in: half</th><th class=\"n\">99 %</th></tr>\n";
    for (label, often) in &findings.faults {
        let _ = write!(
            out,
            "<tr><td>{label}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>",
            often.planned, often.felt
        );
        let speed = findings.speeds.get(label).cloned().unwrap_or_default();
        for spread in [speed.detect, speed.resume] {
            let shown = |figure: f64| if spread.count == 0 { "–".to_owned() } else { ms(figure) };
            let _ = write!(
                out,
                "<td class=\"n\">{}</td><td class=\"n\">{}</td>",
                shown(spread.p50_ms),
                shown(spread.p99_ms)
            );
        }
        *out += "</tr>\n";
    }
    *out += "</table></div>\n";
}

fn checks(out: &mut String, findings: &Findings) {
    *out += "<h3>What must hold</h3>\n<div class=\"scroll\"><table>\n<tr><th></th><th></th><th>check</th><th>found</th></tr>\n";
    for check in &findings.checks {
        let (class, sign, row) = if check.holds { ("holds", "✓", "") } else { ("fails", "✗", " class=\"failed\"") };
        let _ = writeln!(
            out,
            "<tr{row}><td class=\"{class}\">{sign}</td><td class=\"dim\">{}</td><td>{}</td><td>{}</td></tr>",
            check.rule.unwrap_or_default(),
            escaped(&check.says),
            escaped(&check.found)
        );
    }
    *out += "</table></div>\n";
}

fn chart(out: &mut String, title: &str, svg: &str) {
    let _ = writeln!(out, "<figure><figcaption>{title}</figcaption>{svg}</figure>");
}

/// A drawing of that height, with what is written at its left and below it
fn svg(height: f64, inside: &str) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">{inside}</svg>")
}

fn histogram(spread: &Spread, class: &str) -> String {
    let most = spread.bars.iter().copied().max().unwrap_or(1).max(1) as f64;
    let each = WIDTH / spread.bars.len() as f64;
    let ground = HEIGHT - 16.0;
    let mut inside = String::new();
    for (n, count) in spread.bars.iter().enumerate() {
        let (x, height) = (n as f64 * each, (ground - 16.0) * *count as f64 / most);
        let end = spread.up_to_ms.get(n);
        let name =
            end.map_or(
                "more".to_owned(),
                |end| if *end < 1000 { format!("{end} ms") } else { format!("{} s", end / 1000) },
            );
        if *count > 0 {
            let _ = write!(
                inside,
                "<rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"2\"><title>{count} up to {name}</title></rect>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{count}</text>",
                x + 3.0,
                ground - height.max(1.5),
                each - 6.0,
                height.max(1.5),
                x + each / 2.0,
                ground - height.max(1.5) - 4.0
            );
        }
        let _ = write!(
            inside,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>",
            x + each / 2.0,
            HEIGHT - 4.0
        );
    }
    let _ = write!(inside, "<line class=\"axis\" x1=\"0\" x2=\"{WIDTH}\" y1=\"{ground}\" y2=\"{ground}\"/>");
    svg(HEIGHT, &inside)
}

fn lines(looks: &BTreeMap<&'static str, Vec<Look>>, of: impl Fn(&Look) -> f64) -> String {
    let all = || looks.values().flatten();
    let end = all().map(|look| look.at_s).fold(1.0, f64::max);
    let most = all().map(&of).fold(1.0, f64::max) * 1.08;
    let (left, ground) = (34.0, HEIGHT - 16.0);
    let x = |at: f64| left + (WIDTH - left) * at / end;
    let y = |value: f64| ground - (ground - 6.0) * value / most;
    let mut inside = String::new();
    for share in [0.0, 0.5, 1.0] {
        let value = most / 1.08 * share;
        let at = y(value);
        let _ = write!(
            inside,
            "<line class=\"axis\" x1=\"{left}\" x2=\"{WIDTH}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value:.0}</text>",
            left - 5.0,
            at + 3.0
        );
    }
    for (kind, class) in [("coordinator", "one"), ("workers", "two")] {
        let Some(looks) = looks.get(kind) else { continue };
        let points: Vec<String> = looks.iter().map(|look| format!("{:.1},{:.1}", x(look.at_s), y(of(look)))).collect();
        let _ = write!(inside, "<polyline class=\"line {class}\" points=\"{}\"/>", points.join(" "));
    }
    let _ = write!(
        inside,
        "<text x=\"{left}\" y=\"{0:.1}\">0 s</text><text x=\"{WIDTH}\" y=\"{0:.1}\" text-anchor=\"end\">{end:.0} s</text>",
        HEIGHT - 3.0
    );
    svg(HEIGHT, &inside)
}

fn stories(stories: &[Story]) -> String {
    let mut workers: Vec<&str> = stories.iter().map(|story| story.worker.as_str()).collect();
    workers.sort_by_key(|name| (name.len(), *name));
    workers.dedup();
    workers.truncate(ROWS_MAX);
    let each = (130.0 / workers.len() as f64).clamp(3.5, 14.0);
    let (left, height) = (34.0, each * workers.len() as f64 + 20.0);
    let over = |story: &Story| {
        let noticed = story.noticed_ms.iter().copied().max().unwrap_or(0);
        story.at_s + (noticed + story.resumed_ms.unwrap_or(0)) as f64 / 1000.0
    };
    let end = stories.iter().map(over).fold(1.0, f64::max);
    let x = |at: f64| left + (WIDTH - left - 6.0) * at / end;
    let mut inside = String::new();
    for (n, name) in workers.iter().enumerate().filter(|(n, _)| each >= 9.0 || n % 5 == 0) {
        let y = each * (n as f64 + 0.5) + 3.0;
        let _ = write!(inside, "<text x=\"{:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{name}</text>", left - 6.0);
    }
    for story in stories.iter().take(STORIES_MAX) {
        let Some(row) = workers.iter().position(|name| *name == story.worker) else { continue };
        let (y, radius) = (each * (row as f64 + 0.5), (each / 3.0).min(3.5));
        let class = if story.resumed_ms.is_some() { "two" } else { "bad" };
        let resumed = story
            .resumed_ms
            .map_or("not connected again before the next one".to_owned(), |ms| format!("resumed in {ms} ms"));
        let _ = write!(
            inside,
            "<line class=\"gap\" x1=\"{0:.1}\" x2=\"{1:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <circle class=\"{class}\" cx=\"{0:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\"><title>{2} of {3} at {4:.2} s: noticed after {5:?} ms, {resumed}</title></circle>",
            x(story.at_s),
            x(over(story)),
            story.label,
            story.worker,
            story.at_s,
            story.noticed_ms
        );
    }
    let _ = write!(
        inside,
        "<text x=\"{left}\" y=\"{0:.1}\">0 s</text><text x=\"{WIDTH}\" y=\"{0:.1}\" text-anchor=\"end\">{end:.0} s</text>",
        height - 4.0
    );
    svg(height, &inside)
}
