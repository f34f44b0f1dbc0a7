//! `rejoin crowd`: many lightweight workers in one process, to try a coordinator of that size

mod figures;

use std::fs;
use std::time::Duration;

use async_signal::{Signal, Signals};
use rejoin_core::ids::{KeyId, PeerName, Role};
use rejoin_core::wire::keys::{Key, Secret};
use rejoin_smol::crowd::{Crowd, Settings};
use smol::future::FutureExt;
use smol::stream::StreamExt;

use crate::args::Crowd as Args;
use crate::caller::Failed;
use crate::say::{complain, print};
use crate::{access, descriptors, keys};
use figures::{Begin, Figures, Report, resident_bytes};

/// How long the farewells of all workers may take
const FAREWELL: Duration = Duration::from_secs(5);
/// Exit status when some workers were never connected
const EXIT_MISSING: u8 = 1;

/// Works until told to leave; returns the exit status
pub fn crowd(args: &Args) -> u8 {
    match smol::block_on(gather(args)) {
        Ok(all) => {
            if all {
                0
            } else {
                EXIT_MISSING
            }
        }
        Err(failed) => {
            complain(&failed.to_string());
            failed.status()
        }
    }
}

/// Whether each of them was connected at some time, and none refused
async fn gather(args: &Args) -> Result<bool, Failed> {
    let settings = settings(args)?;
    let workers = settings.keys.len();
    let mut signals = Signals::new([Signal::Int, Signal::Term, Signal::Hup])?;
    let before = resident_bytes();
    if !print(&Begin { workers, rate: args.rate }.text(args.json)) {
        return Err(Failed::Internal("standard output is closed".into()));
    }
    let crowd = Crowd::start(settings)?;
    let mut figures = Figures::new(workers, before);
    let watching = async {
        loop {
            smol::Timer::after(figures.next_look(crowd.age())).await;
            let text = figures.look(&crowd, args.json);
            // Whoever closed standard output does not want to know.
            if !text.is_empty() && !print(&text) {
                return;
            }
        }
    };
    let over = async {
        match args.lasts {
            Some(lasts) => _ = smol::Timer::after(lasts).await,
            None => smol::future::pending().await,
        }
    };
    let told = async { _ = signals.next().await };
    watching.or(over).or(told).await;
    let connected = crowd.connected();
    let report = Report::new(&figures, connected, crowd.leave(FAREWELL).await);
    print(&report.text(args.json));
    Ok(report.all_came())
}

/// What the options mean, if all of it fits
fn settings(args: &Args) -> Result<Settings, Failed> {
    let mut keys = keys::load_crowd(&args.access.key).map_err(|error| Failed::Usage(error.to_string()))?;
    let workers = args.workers.map_or(keys.len(), |workers| workers as usize);
    if workers > keys.len() {
        return Err(Failed::Usage(format!(
            "{} has {} keys, and {workers} workers need one each: lower --workers, or make more by `rejoin key new NAME \
             --count {workers}`",
            args.access.key.display(),
            keys.len()
        )));
    }
    keys.truncate(workers);
    descriptors::provide_links(workers).map_err(|error| Failed::Usage(error.to_string()))?;
    check_ports(workers, args.access.coordinators.len()).map_err(Failed::Usage)?;
    // Each worker's own key takes the place of this one.
    let (mut link, trust) = access::link(&args.access, placeholder())?;
    link.heartbeat = args.heartbeat;
    let (endpoints, log) = (args.access.coordinators.clone(), args.log.clone());
    Ok(Settings { endpoints, trust, link, keys, rate: args.rate, log })
}

fn placeholder() -> Key {
    let name: PeerName = "crowd".parse().expect("five letters are a name");
    Key { id: KeyId([0; 8]), secret: Secret::new([0; 32]), name, role: Role::Worker }
}

/// Whether there are as many ports for each URL as workers that dial it
fn check_ports(workers: usize, urls: usize) -> Result<(), String> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut bounds = range.split_whitespace().filter_map(|bound| bound.parse::<usize>().ok());
    let (Some(from), Some(to)) = (bounds.next(), bounds.next()) else { return Ok(()) };
    let (ports, needed) = ((to + 1).saturating_sub(from), workers.div_ceil(urls.max(1)));
    if needed <= ports {
        return Ok(());
    }
    Err(format!(
        "{workers} workers need {needed} local ports for each URL, and the system has {ports}: widen \
         `sysctl net.ipv4.ip_local_port_range`, give --coordinator more URLs, or lower --workers"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_workers_than_ports_are_refused_with_the_figures() {
        assert_eq!(check_ports(1, 1), Ok(()));
        let told = check_ports(70_000, 1).expect_err("there are 65,535 ports at most");
        assert!(told.contains("70000 local ports") && told.contains("ip_local_port_range"), "{told}");
        assert_eq!(check_ports(70_000, 70), Ok(()));
    }
}
