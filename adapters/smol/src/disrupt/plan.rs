//! What a proxy does to links: how often at all, and to one link by its number

use std::error::Error;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::MAX_HALF_OPEN_TIME;
use super::random::{Purpose, Random};

/// Bytes at the start of a link among which the early flip is drawn
pub(super) const EARLY: u64 = 2048;

/// A named set of [`Settings`]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Each link is cut after a short life, by reset or by silence
    Cuts,
    /// Cuts, and stalls, delays, flipped bytes and refused connections before them
    Storm,
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cuts => "cuts",
            Self::Storm => "storm",
        })
    }
}

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(name: &str) -> Result<Self, UnknownProfile> {
        match name {
            "cuts" => Ok(Self::Cuts),
            "storm" => Ok(Self::Storm),
            _ => Err(UnknownProfile),
        }
    }
}

/// A name that is no [`Profile`]'s
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownProfile;

impl fmt::Display for UnknownProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such disruption: use cuts or storm")
    }
}

impl Error for UnknownProfile {}

/// What a [`Proxy`](super::Proxy) does to links, and how often
///
/// Shares are probabilities from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Share of links that are cut at all
    pub cut_share: f64,
    /// Life of a link that is cut
    pub cut_after: RangeInclusive<Duration>,
    /// Share of cut links that become half-open; the others are reset
    pub half_open_share: f64,
    /// Share of half-open links that are silent in one direction only
    pub one_way_share: f64,
    /// Time after which a half-open link is closed, up to [`MAX_HALF_OPEN_TIME`]
    pub half_open_for: Duration,
    /// Share of half-open links whose other side is kept when one side closes
    pub late_close_share: f64,
    /// Time for which that other side is kept
    pub late_close: RangeInclusive<Duration>,
    /// Share of links that stall
    pub stall_share: f64,
    /// Time between the stalls of a link
    pub stall_gap: RangeInclusive<Duration>,
    /// Length of a stall, in which neither direction is forwarded
    pub stall_for: RangeInclusive<Duration>,
    /// Share of chunks that are delayed, and all behind them
    pub delay_share: f64,
    /// Delay of such a chunk
    pub delay_for: RangeInclusive<Duration>,
    /// Share of bytes in which one bit is flipped
    pub flip_share: f64,
    /// Share of links in which a byte of the first 2 KiB of one direction is flipped
    pub early_flip_share: f64,
    /// Share of chunks that are forwarded in small pieces
    pub rechunk_share: f64,
    /// Share of connections that are reset as soon as made, or at their first bytes
    pub refuse_share: f64,
}

impl Settings {
    /// The settings of a profile
    pub fn of(profile: Profile) -> Self {
        let cuts =
            Self { cut_share: 1.0, half_open_share: 0.5, one_way_share: 0.3, late_close_share: 0.3, ..Self::none() };
        match profile {
            Profile::Cuts => cuts,
            Profile::Storm => Self {
                stall_share: 0.5,
                delay_share: 0.25,
                // Rare enough that large outputs get through, for a flip costs a link.
                flip_share: 1.0 / 1_048_576.0,
                early_flip_share: 0.15,
                rechunk_share: 0.2,
                refuse_share: 0.05,
                ..cuts
            },
        }
    }

    /// Settings that disrupt nothing: all shares are 0
    pub fn none() -> Self {
        let millis = |from, to| Duration::from_millis(from)..=Duration::from_millis(to);
        Self {
            cut_share: 0.0,
            cut_after: millis(50, 300),
            half_open_share: 0.0,
            one_way_share: 0.0,
            half_open_for: MAX_HALF_OPEN_TIME,
            late_close_share: 0.0,
            late_close: millis(100, 2000),
            stall_share: 0.0,
            stall_gap: millis(20, 200),
            stall_for: millis(20, 400),
            delay_share: 0.0,
            delay_for: millis(1, 30),
            flip_share: 0.0,
            early_flip_share: 0.0,
            rechunk_share: 0.0,
            refuse_share: 0.0,
        }
    }
}

/// What is to become of one connection
///
/// Stalls, delays, flips over the whole length and small pieces are drawn while
/// data moves, each kind from a sequence of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Whether and when the connection is reset before it becomes a link
    pub refusal: Option<Refusal>,
    /// Whether, when and how the link is cut
    pub cut: Option<Cut>,
    /// Whether and where a byte near the start is flipped
    pub early_flip: Option<EarlyFlip>,
    /// Whether the link stalls now and then
    pub stalls: bool,
}

/// When a refused connection is reset
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// As soon as it is made
    AtOnce,
    /// When the client's first bytes arrive
    AtFirstBytes,
}

/// The end of a link's life
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Time from the making of the link to its cut
    pub after: Duration,
    /// How the link is cut
    pub manner: Manner,
}

/// How a link is cut
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Both peers see a reset
    Reset,
    /// Both connections stay open, but data is lost
    HalfOpen {
        /// Where data is lost
        silence: Silence,
        /// Time for which one side is kept after the other closed
        late_close: Option<Duration>,
    },
}

/// The directions in which a half-open link is silent
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Both directions
    Both,
    /// From the client to the upstream
    ToUpstream,
    /// From the upstream to the client
    ToClient,
}

/// A flip drawn for the start of a link, which carries its handshake
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlyFlip {
    /// Whether the byte is on its way to the upstream, or else to the client
    pub to_upstream: bool,
    /// Which byte of that direction, counted from 0
    pub at: u64,
}

/// Draws the fate of a connection; the first one accepted has number 0
///
/// The same arguments always give the same plan.
pub fn plan(settings: &Settings, seed: u64, connection: u64) -> Plan {
    let draw = |purpose| Random::keyed(seed, connection, purpose);
    let (mut refusal, mut cut, mut flip) = (draw(Purpose::Refusal), draw(Purpose::Cut), draw(Purpose::EarlyFlip));
    Plan {
        refusal: refusal
            .chance(settings.refuse_share)
            .then(|| if refusal.chance(0.5) { Refusal::AtOnce } else { Refusal::AtFirstBytes }),
        cut: cut.chance(settings.cut_share).then(|| Cut {
            after: cut.duration(&settings.cut_after),
            manner: if cut.chance(settings.half_open_share) {
                half_open(settings, draw(Purpose::Silence))
            } else {
                Manner::Reset
            },
        }),
        early_flip: flip
            .chance(settings.early_flip_share)
            .then(|| EarlyFlip { to_upstream: flip.chance(0.5), at: flip.below(EARLY) }),
        stalls: draw(Purpose::Stalls).chance(settings.stall_share),
    }
}

fn half_open(settings: &Settings, mut random: Random) -> Manner {
    Manner::HalfOpen {
        silence: match (random.chance(settings.one_way_share), random.chance(0.5)) {
            (false, _) => Silence::Both,
            (true, true) => Silence::ToUpstream,
            (true, false) => Silence::ToClient,
        },
        late_close: random.chance(settings.late_close_share).then(|| random.duration(&settings.late_close)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plans(settings: &Settings, seed: u64) -> Vec<Plan> {
        (0..2000).map(|connection| plan(settings, seed, connection)).collect()
    }

    #[test]
    fn a_plan_depends_on_its_arguments_alone() {
        let storm = Settings::of(Profile::Storm);
        assert_eq!(plans(&storm, 7), plans(&storm, 7));
        assert_ne!(plans(&storm, 7), plans(&storm, 8));
        // Seeds that are close together must not share plans in another order.
        assert_ne!(plan(&storm, 7, 0), plan(&storm, 6, 1));

        let cuts = |settings| -> Vec<_> { plans(settings, 7).iter().map(|plan| plan.cut).collect() };
        assert_eq!(cuts(&storm), cuts(&Settings::of(Profile::Cuts)));
        assert!(plans(&Settings::none(), 7).iter().all(|plan| *plan == Plan::default()));
    }

    #[test]
    fn plans_keep_to_their_settings() {
        let storm = Settings::of(Profile::Storm);
        let plans = plans(&storm, 9);
        let near = |share: f64, fits: fn(&Plan) -> bool| {
            let fitting = plans.iter().filter(|plan| fits(plan)).count();
            (fitting as f64 / plans.len() as f64 - share).abs() < 0.05
        };
        assert!(near(0.5, |plan| plan.cut.is_some_and(|cut| cut.manner == Manner::Reset)));
        assert!(near(0.5, |plan| plan.stalls));
        assert!(near(0.15, |plan| plan.early_flip.is_some()));
        assert!(near(0.05, |plan| plan.refusal.is_some()));
        for cut in plans.iter().map(|plan| plan.cut.expect("a cut")) {
            assert!(storm.cut_after.contains(&cut.after));
        }
    }

    #[test]
    fn profiles_have_names() {
        for profile in [Profile::Cuts, Profile::Storm] {
            assert_eq!(profile.to_string().parse(), Ok(profile));
        }
        assert_eq!("calm".parse::<Profile>(), Err(UnknownProfile));
    }
}
