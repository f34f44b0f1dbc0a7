//! What a scenario is, and the stage it is played on

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, Instant};

use smol::Timer;

use super::findings::Findings;
use super::fleet::{Fleet, Plan};
use super::judge::{self, Expected};
use super::load::Load;
use super::measure::Sampler;

/// How a scenario comes to its end
pub(super) type Played<'a> = Pin<Box<dyn Future<Output = Result<(), Trouble>> + 'a>>;

/// Something that happens to a fleet, and what must hold all the same
///
/// Adding one is a file with such a constant, and a row in the table of [`scenarios`](super::scenarios).
pub(super) struct Scenario {
    /// What it is called
    pub(super) name: &'static str,
    /// What happens, in a sentence
    pub(super) says: &'static str,
    /// What makes it fail, each by itself
    pub(super) caught: &'static [Planted],
    /// Plays it
    pub(super) play: for<'a> fn(&'a mut Stage) -> Played<'a>,
}

/// Something that is wrong on purpose with coordinator and workers, to see whether a scenario finds it
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Planted {
    /// A bug that a build may have, by its number
    Bug(u32),
    /// Options of the coordinator and of each worker, and what is wrong with these
    Options(&'static [&'static str], &'static str),
}

/// Why a scenario cannot go on, which is a failure
#[derive(Debug)]
pub(crate) struct Trouble {
    /// What did not hold, as the simulator names it, if it is one of those
    pub(crate) rule: Option<&'static str>,
    /// What is wrong
    pub(crate) what: String,
}

impl Trouble {
    /// Something that has no name
    pub(crate) fn new(what: impl Into<String>) -> Trouble {
        Trouble { rule: None, what: what.into() }
    }

    /// Something that did not hold
    pub(crate) fn rule(rule: &'static str, what: impl Into<String>) -> Trouble {
        Trouble { rule: Some(rule), what: what.into() }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Trouble::new(error.to_string())
    }
}

/// How scenarios are to be played
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// Whether in their long form
    pub(crate) long: bool,
    /// How long things are broken, if not for as long as the scenario would have it
    pub(crate) span: Option<Duration>,
    /// How many workers, if not as many as the scenario would have
    pub(crate) workers: Option<usize>,
    /// Of everything that is drawn
    pub(crate) seed: u64,
    /// Whose coordinator and workers are played with: this program, or another build of it
    pub(crate) program: PathBuf,
    /// The release before, for scenarios in which both are played with
    pub(crate) old: Option<PathBuf>,
    /// Where the logs of what failed are to be left
    pub(crate) logs: Option<PathBuf>,
    /// The bug that these are to have, if they can have any
    pub(super) planted: Option<Planted>,
}

/// Where a scenario is played
pub(crate) struct Stage {
    /// How
    pub(crate) setting: Setting,
    /// What was found so far
    pub(crate) findings: Findings,
    dir: tempfile::TempDir,
    sampler: Sampler,
    fleets: u32,
    draws: u64,
}

impl Stage {
    /// An empty one
    pub(super) fn new(scenario: &Scenario, setting: &Setting, sampler: Sampler) -> io::Result<Stage> {
        let dir = tempfile::Builder::new().prefix("rejoin-stress-").tempdir()?;
        let findings = Findings::new(scenario.name, scenario.says, setting);
        // Each scenario draws for itself, whichever others are played.
        let name = scenario
            .name
            .bytes()
            .fold(setting.seed, |seed, byte| (seed ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3));
        Ok(Stage { setting: setting.clone(), findings, dir, sampler, fleets: 0, draws: name | 1 })
    }

    /// The short or the long form of a number
    pub(crate) fn pick<T>(&self, short: T, long: T) -> T {
        if self.setting.long { long } else { short }
    }

    /// How many workers: as many as were asked for, or the short or the long form
    pub(crate) fn workers(&self, short: usize, long: usize) -> usize {
        self.setting.workers.unwrap_or_else(|| self.pick(short, long))
    }

    /// How long things are broken, in seconds: for as long as was asked, or the short or the long form
    pub(crate) fn span(&self, short: u64, long: u64) -> Duration {
        self.setting.span.unwrap_or_else(|| Duration::from_secs(self.pick(short, long)))
    }

    /// A number below another one, by the seed
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.draws ^= self.draws << 13;
        self.draws ^= self.draws >> 7;
        self.draws ^= self.draws << 17;
        (self.draws.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % end.max(1)
    }

    /// A time between two, by the seed
    pub(crate) fn between(&mut self, least_ms: u64, most_ms: u64) -> Duration {
        Duration::from_millis(least_ms + self.below((most_ms - least_ms) as usize + 1) as u64)
    }

    /// Starts a fleet, and waits until all of it is connected
    pub(crate) async fn fleet(&mut self, plan: Plan) -> Result<Fleet, Trouble> {
        self.fleets += 1;
        let dir = self.dir.path().join(self.fleets.to_string());
        Fleet::start(plan, dir, &self.setting, self.sampler.clone()).await
    }

    /// Looks at a process that is none of the fleet's as well
    pub(crate) fn watch(&self, kind: &'static str, pid: u32) {
        self.sampler.watch(kind, pid);
    }

    /// Ends a fleet, and judges it: what was done, what was broken and noticed, what the journal and the marks say
    pub(crate) async fn conclude(&mut self, fleet: Fleet, loads: Vec<Load>, expected: Expected) -> Result<(), Trouble> {
        self.conclude_with(fleet, loads, expected, |_| ()).await
    }

    /// The same, and has somebody else look at the fleet that has ended as well
    pub(crate) async fn conclude_with<T>(
        &mut self,
        mut fleet: Fleet,
        loads: Vec<Load>,
        expected: Expected,
        look: impl FnOnce(&Fleet) -> T,
    ) -> Result<T, Trouble> {
        let ended_after = match quieten(&mut fleet, &loads, &expected).await {
            Ok(ended_after) => ended_after,
            Err(trouble) => {
                // A panic says more than whatever followed from it.
                fleet.look()?;
                judge::words(&mut self.findings, &fleet);
                return Err(trouble);
            }
        };
        judge::judge(&mut self.findings, &fleet, &loads, &expected, ended_after)?;
        Ok(look(&fleet))
    }

    /// Leaves the logs of all processes in a directory, for whoever wants to know why something failed
    pub(super) fn keep_logs(&self, to: &Path) -> io::Result<()> {
        for fleet in 1..=self.fleets {
            let (from, to) = (self.dir.path().join(fleet.to_string()), to.join(fleet.to_string()));
            fs::create_dir_all(&to)?;
            for entry in fs::read_dir(from)? {
                let path = entry?.path();
                let kept = path.extension().is_some_and(|extension| extension == "log") || path.ends_with("marks");
                if let Some(name) = path.file_name().filter(|_| kept) {
                    fs::copy(&path, to.join(name))?;
                }
            }
        }
        Ok(())
    }

    /// Takes down what the processes took
    pub(super) fn looks(&mut self) {
        self.findings.looks = self.sampler.stop().into_iter().collect::<BTreeMap<_, _>>();
    }
}

/// Waits until every task has ended and every worker is connected, and ends the fleet: how long the tasks took
async fn quieten(fleet: &mut Fleet, loads: &[Load], expected: &Expected) -> Result<Duration, Trouble> {
    let last = Instant::now();
    for load in loads {
        load.down_to(0, expected.end_within.saturating_sub(last.elapsed())).await?;
    }
    let ended_after = last.elapsed();
    if !expected.back_within.is_zero() {
        let back = fleet.all_connected(expected.back_within).await;
        back.map_err(|trouble| Trouble::rule("L2", trouble.what))?;
    }
    fleet.end().await?;
    Ok(ended_after)
}

/// Waits
pub(crate) async fn pause(span: Duration) {
    Timer::after(span).await;
}
