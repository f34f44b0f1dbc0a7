//! A fleet is brought to another release while it works, and taken back
//!
//! The release before is a program that was given for it, or this one held at the wire version before: then its processes
//! speak only that, as if they knew no other.

use std::fs;
use std::time::Duration;

use rejoin_core::ids::{BootId, KeyId, Role};
use rejoin_core::limits::WIRE_VERSION;
use rejoin_core::wire::handshake::{Hello, Refusal, RejectCode};
use rejoin_smol::clock::entropy;
use rejoin_smol::dial::dial;
use rejoin_smol::tls::Trust;
use rejoin_smol::url::Endpoint;

use crate::stress::findings::Table;
use crate::stress::fleet::{Fleet, Plan, Release};
use crate::stress::judge::Expected;
use crate::stress::load::{Job, Load};
use crate::stress::scenario::{Planted, Scenario, Stage, Trouble, pause};
use crate::stress::task::Work;

pub(in crate::stress) const SCENARIO: Scenario = Scenario {
    name: "rolling-upgrade",
    says: "coordinator and workers are replaced by the next release while they work, one by one, and taken back",
    caught: &[
        Planted::Options(&["--wire-version", "1"], "no release speaks more than the one before"),
        Planted::Bug(32),
    ],
    play: |stage| Box::pin(play(stage)),
};

/// Versions from a time that has not come
const STRANGE_VERSION: u16 = WIRE_VERSION + 7;

async fn play(stage: &mut Stage) -> Result<(), Trouble> {
    let workers = stage.workers(4, 20);
    let mut fleet = stage.fleet(Plan { release: Release::Old, ..Plan::of(workers, 2) }).await?;
    let load = Load::start(&fleet, 0)?;
    let mut story = Story { workers, rows: Vec::new() };
    story.works(stage, &mut fleet, &load, "all old").await?;
    replace_coordinator(&mut fleet, Release::New).await?;
    story.works(stage, &mut fleet, &load, "new coordinator, old workers").await?;
    replace_workers(stage, &mut fleet, &load, 0..workers / 2, Release::New).await?;
    story.works(stage, &mut fleet, &load, "new coordinator, half of the workers new").await?;
    replace_workers(stage, &mut fleet, &load, workers / 2..workers, Release::New).await?;
    story.works(stage, &mut fleet, &load, "all new").await?;
    stranger(stage, &fleet).await?;
    replace_coordinator(&mut fleet, Release::Old).await?;
    story.works(stage, &mut fleet, &load, "old coordinator, new workers").await?;
    replace_workers(stage, &mut fleet, &load, 0..workers / 2, Release::Old).await?;
    story.works(stage, &mut fleet, &load, "old coordinator, half of the workers old").await?;
    replace_workers(stage, &mut fleet, &load, workers / 2..workers, Release::Old).await?;
    story.works(stage, &mut fleet, &load, "all old again").await?;
    story.table(stage);
    let expected = Expected {
        tasks: (workers * 7) as u64,
        faults: (workers * 4) as u64,
        redone_max_percent: 1,
        ..Expected::default()
    };
    stage.conclude(fleet, vec![load], expected).await
}

/// Some work for everybody, of which some is under way whenever something is replaced
fn submit(load: &Load, workers: usize) -> Result<(), Trouble> {
    let work = Work { steps: 4, step_ms: 100, result_bytes: 200, output_bytes: 50, ..Work::default() };
    load.submit_all((4 * workers).saturating_sub(load.open()), Job::of(work))
}

async fn replace_coordinator(fleet: &mut Fleet, release: Release) -> Result<(), Trouble> {
    fleet.stop_coordinator().await?;
    fleet.release = release;
    fleet.start_coordinator()?;
    fleet.all_over();
    fleet.all_connected(Duration::from_secs(60)).await
}

/// One by one, each when the one before is there again
async fn replace_workers(
    stage: &mut Stage,
    fleet: &mut Fleet,
    load: &Load,
    which: std::ops::Range<usize>,
    release: Release,
) -> Result<(), Trouble> {
    for n in which {
        submit(load, fleet.workers.len())?;
        pause(stage.between(20, 200)).await;
        fleet.drain_worker(n).await?;
        fleet.workers[n].release = release;
        fleet.start_worker(n)?;
        fleet.over(n);
        fleet.connected(n, Duration::from_secs(60)).await?;
    }
    Ok(())
}

/// What was seen of each state of the fleet
struct Story {
    workers: usize,
    rows: Vec<Vec<String>>,
}

impl Story {
    /// Work goes on, and every worker speaks what both ends know
    async fn works(&mut self, stage: &mut Stage, fleet: &mut Fleet, load: &Load, what: &str) -> Result<(), Trouble> {
        let before = load.book().ended;
        submit(load, self.workers)?;
        // Everybody has had some, and some is under way.
        load.down_to(self.workers, Duration::from_secs(60)).await?;
        submit(load, self.workers)?;
        let done = load.book().ended - before;
        let spoken: Vec<Option<u16>> = (0..self.workers).map(|n| spoken(fleet, n)).collect();
        let due = |n: usize| match (fleet.release, fleet.workers[n].release) {
            (Release::New, Release::New) => WIRE_VERSION,
            (Release::Old, _) | (_, Release::Old) => WIRE_VERSION - 1,
        };
        // A release that is older than the words by which it could be seen says nothing.
        let says = |n: usize| spoken[n].or((fleet.workers[n].release == Release::Old).then(|| due(n)));
        let odd: Vec<String> = (0..self.workers)
            .filter(|n| says(*n) != Some(due(*n)))
            .map(|n| format!("w{n} speaks {:?} where {} is due", spoken[n], due(n)))
            .collect();
        stage.findings.check_none(None, format!("{what}: all speak the newest version that both ends know, but"), &odd);
        stage.findings.check(None, format!("{what}: work is done"), done > 0, format!("{done} tasks"));
        let count = |version: u16| spoken.iter().filter(|spoken| **spoken == Some(version)).count().to_string();
        self.rows.push(vec![what.into(), done.to_string(), count(WIRE_VERSION - 1), count(WIRE_VERSION)]);
        Ok(())
    }

    fn table(&mut self, stage: &mut Stage) {
        let (old, new) = (WIRE_VERSION - 1, WIRE_VERSION);
        let head = vec![
            "the fleet".into(),
            "tasks done".into(),
            format!("workers that speak version {old}"),
            format!("version {new}"),
        ];
        let rows = std::mem::take(&mut self.rows);
        stage.findings.tables.push(Table { title: "What was spoken, and done".into(), head, rows });
    }
}

/// The wire version of a worker's connection, by its own log
fn spoken(fleet: &Fleet, n: usize) -> Option<u16> {
    let log = fs::read_to_string(fleet.dir().join(format!("w{n}.log"))).ok()?;
    let last = log.lines().rev().find(|line| line.contains(" connected ") && line.contains("tasks="))?;
    last.split("wire_version=").nth(1)?.split(' ').next()?.parse().ok()
}

/// Somebody who speaks none of the coordinator's versions is refused, and the coordinator says what to do about it
async fn stranger(stage: &mut Stage, fleet: &Fleet) -> Result<(), Trouble> {
    let url = format!("ws://{}", fleet.address());
    let endpoint: Endpoint = url.parse().map_err(|error| Trouble::new(format!("{url}: {error}")))?;
    let audience = endpoint.to_string();
    let name = "w0".parse().map_err(|_| Trouble::new("w0 is no name"))?;
    let hello = Hello {
        versions: [STRANGE_VERSION].into_iter().collect(),
        capabilities: 0,
        audience: &audience,
        binding: &[],
        role: Role::Worker,
        name,
        key: KeyId([7; 8]),
        boot: BootId(entropy()?),
        session: None,
        epoch: 0,
        nonce: entropy()?,
    };
    let mut bytes = [0; 1024];
    let length = hello.encode(&mut bytes);
    let dialled = dial(&endpoint, &Trust::system(), Duration::from_secs(10)).await;
    let (mut reader, mut writer) = dialled.map_err(|error| Trouble::new(error.to_string()))?.split();
    writer.send(&bytes[..length]).await?;
    writer.flush().await?;
    let answer = reader.next().await.map_err(|error| Trouble::new(error.to_string()))?;
    let refusal = Refusal::decode(&answer);
    stage.findings.check(
        None,
        format!("a peer that speaks version {STRANGE_VERSION} alone is refused for that"),
        refusal == Some(Refusal::Reject(RejectCode::Version)),
        format!("{refusal:?}"),
    );
    let log = fs::read_to_string(fleet.dir().join("coordinator.log"))?;
    let said = log.lines().find(|line| line.contains("no wire version in common"));
    let helps = said.is_some_and(|line| line.contains("bring the older one of the two programs up to"));
    stage.findings.check(None, "the coordinator says so, and what to do", helps, said.unwrap_or("not a word"));
    Ok(())
}
