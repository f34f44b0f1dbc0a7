//! `rejoin sim diff`: where two runs part

use std::path::Path;

use rejoin_sim::diff::diff;

use super::{EXIT_VIOLATION, Unusable, read, status, write};
use crate::args::SimDiff;

pub(super) fn run(args: &SimDiff) -> Result<u8, Unusable> {
    let [first, second] = [read(&args.first)?, read(&args.second)?];
    let compared = match diff(&first, &second) {
        Ok(compared) => compared,
        Err(failure) => {
            write(Path::new("-"), &format!("FAILED  {failure}\n"))?;
            return Ok(status(&failure));
        }
    };
    let ([one, other], [hash, other_hash]) = (compared.events, compared.hashes);
    let Some(difference) = compared.difference else {
        write(Path::new("-"), &format!("the same: {one} events, fingerprint {hash:016x}\n"))?;
        return Ok(0);
    };
    let sums = format!(
        "first   {one} events, fingerprint {hash:016x}\nsecond  {other} events, fingerprint {other_hash:016x}\n"
    );
    write(Path::new("-"), &format!("{difference}{sums}"))?;
    Ok(EXIT_VIOLATION)
}
