//! A coordinator's certificate: made here, and taken up anew when its files are replaced (AUTH-7)

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, date_time_ymd};
use rejoin_smol::tls::{Certificate, TlsError};
use zeroize::Zeroizing;

use crate::args::Cert;
use crate::keys::Stamp;
use crate::report::{EXIT_INTERNAL, EXIT_USAGE};
use crate::say::{complain, print};

/// Time between two looks at the files
const LOOK_EVERY: Duration = Duration::from_millis(500);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Makes a certificate that is signed by itself; returns the exit status
pub fn cert(args: &Cert) -> u8 {
    match make(args) {
        Ok(()) => {
            let (certificate, key) = (args.tls_cert.display(), args.tls_key.display());
            print(&format!(
                "made {certificate} and its private key {key}; next: rejoin coordinator --tls-cert {certificate} \
                 --tls-key {key}, and --ca {certificate} for everybody who dials it\n"
            ));
            0
        }
        Err((status, message)) => {
            complain(&message);
            status
        }
    }
}

/// Whether somebody could dial that
fn is_host(host: &str) -> bool {
    let is_part = |part: &str| part == "*" || part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let is_name = host.len() <= 253 && host.split('.').all(|part| (1..64).contains(&part.len()) && is_part(part));
    is_name || host.parse::<std::net::IpAddr>().is_ok()
}

fn make(args: &Cert) -> Result<(), (u8, String)> {
    let refused = |error: rcgen::Error| (EXIT_USAGE, format!("cannot make a certificate for these hosts: {error}"));
    if let Some(odd) = args.hosts.iter().find(|host| !is_host(host)) {
        let message = format!(
            "cannot make a certificate for these hosts: {odd} is neither a name (letters, digits, -, .) nor an address"
        );
        return Err((EXIT_USAGE, message));
    }
    let mut params = CertificateParams::new(args.hosts.clone()).map_err(refused)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "rejoin coordinator");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let epoch = date_time_ymd(1970, 1, 1);
    // Clocks differ.
    params.not_before = epoch + now.saturating_sub(DAY);
    params.not_after = epoch + now + DAY * u32::from(args.days);
    let pair = KeyPair::generate().map_err(refused)?;
    let certificate = params.self_signed(&pair).map_err(refused)?;
    let key = Zeroizing::new(pair.serialize_pem());
    write_new(&args.tls_key, 0o600, &key)?;
    write_new(&args.tls_cert, 0o644, &certificate.pem()).inspect_err(|_| {
        // It would be in the way of the next attempt.
        let _ = fs::remove_file(&args.tls_key);
    })
}

fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), (u8, String)> {
    let named = |error: io::Error| {
        if error.kind() == ErrorKind::AlreadyExists {
            return (EXIT_USAGE, format!("{}: the file exists: name another one", path.display()));
        }
        (EXIT_INTERNAL, format!("{}: {error}", path.display()))
    };
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(named)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(named).inspect_err(|_| {
        // Half of it is of no use, and would be in the way of the next attempt.
        let _ = fs::remove_file(path);
    })
}

/// Follows the files of a certificate that is being shown
#[derive(Debug)]
pub struct CertificateWatch {
    certificate: Certificate,
    paths: [PathBuf; 2],
    /// The files when they were last taken up, or found to be of no use
    known: [Option<Stamp>; 2],
    /// The files when they were last looked at
    seen: [Option<Stamp>; 2],
}

impl CertificateWatch {
    /// Follows the certificate and the key that were read from these files
    pub fn new(certificate: Certificate, paths: [PathBuf; 2]) -> Self {
        let known = stamps(&paths);
        CertificateWatch { certificate, paths, known, seen: known }
    }

    /// Waits until another certificate is shown, or one was found that cannot be; then the one before stays
    ///
    /// May be dropped and called again.
    pub async fn changed(&mut self) -> Result<(), TlsError> {
        loop {
            smol::Timer::after(LOOK_EVERY).await;
            if let Some(news) = self.poll() {
                return news;
            }
        }
    }

    /// Looks whether there is something to say; files count when two looks in a row find them the same
    fn poll(&mut self) -> Option<Result<(), TlsError>> {
        let now = stamps(&self.paths);
        let before = std::mem::replace(&mut self.seen, now);
        if now != before || now == self.known {
            return None;
        }
        self.known = now;
        let [certificate, key] = &self.paths;
        Some(self.certificate.replace(certificate, key))
    }
}

fn stamps(paths: &[PathBuf; 2]) -> [Option<Stamp>; 2] {
    paths.each_ref().map(|path| fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(dir: &Path, n: u32, hosts: &[&str]) -> Cert {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        Cert { hosts, tls_cert: dir.join(format!("{n}.pem")), tls_key: dir.join(format!("{n}.key")), days: 1 }
    }

    #[test]
    fn what_is_made_can_be_shown_and_stands_in_the_way_of_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let one = args(dir.path(), 1, &["box", "10.0.0.7", "::1"]);
        make(&one).unwrap();
        Certificate::from_files(&one.tls_cert, &one.tls_key).unwrap();
        let (status, message) = make(&one).unwrap_err();
        assert!(status == EXIT_USAGE && message.contains("the file exists"), "{message}");
        for host in ["bücher", "bad host!", "", "a..b", "10.0.0.7:80"] {
            let odd = make(&args(dir.path(), 2, &[host])).unwrap_err();
            assert!(odd.0 == EXIT_USAGE && odd.1.contains("for these hosts"), "{}", odd.1);
        }
        fs::write(dir.path().join("3.pem"), "").unwrap();
        assert_eq!(make(&args(dir.path(), 3, &["box"])).unwrap_err().0, EXIT_USAGE);
        assert!(!dir.path().join("3.key").exists(), "nothing is left of what failed");
    }

    #[test]
    fn a_certificate_is_taken_up_when_both_files_have_settled() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = [1, 2].map(|n| args(dir.path(), n, &["box"]));
        make(&one).unwrap();
        make(&two).unwrap();
        let certificate = Certificate::from_files(&one.tls_cert, &one.tls_key).unwrap();
        let mut watch = CertificateWatch::new(certificate, [one.tls_cert.clone(), one.tls_key.clone()]);
        assert!(watch.poll().is_none() && watch.poll().is_none());
        fs::rename(&two.tls_cert, &one.tls_cert).unwrap();
        assert!(watch.poll().is_none(), "the key may follow");
        let apart = watch.poll().unwrap().unwrap_err();
        assert!(apart.to_string().contains("belongs to another certificate"), "{apart}");
        assert!(watch.poll().is_none(), "it is told once");
        fs::rename(&two.tls_key, &one.tls_key).unwrap();
        assert!(watch.poll().is_none());
        watch.poll().unwrap().unwrap();
        fs::remove_file(&one.tls_key).unwrap();
        assert!(watch.poll().is_none());
        assert!(watch.poll().unwrap().is_err() && watch.poll().is_none());
    }
}
