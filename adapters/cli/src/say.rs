//! Words of the program itself

use std::io::{self, Write};

/// Says something on standard error
pub fn complain(message: &str) {
    // If standard error is gone there is nobody left to tell.
    let _ = writeln!(io::stderr(), "rejoin: {message}");
}

/// Prints on standard output; `false` when nobody reads it any more
pub fn print(text: &str) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}
