//! TLS: which certificate a coordinator shows, and whom its peers believe (AUTH-7)
//!
//! Version 1.3 only, since only there every connection can be bound to (RFC 9266). What goes wrong is told as what to do.

use std::error::Error;
use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use futures_rustls::pki_types::pem::PemObject;
use futures_rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use futures_rustls::rustls::crypto::{CryptoProvider, ring};
use futures_rustls::rustls::version::TLS13;
use futures_rustls::rustls::{self, CertificateError, ClientConfig, RootCertStore, ServerConfig};
use futures_rustls::{TlsAcceptor, TlsConnector};

use crate::journal::lock;
use crate::wire::{Tcp, Wire};

/// The one protocol spoken inside
const HTTP: &[u8] = b"http/1.1";

/// Most bytes of a file; the authorities that systems know are a quarter of a megabyte
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Whoever may read a private key beside its owner and the owner's group may show the certificate as well
const OTHERS: u32 = 0o007;

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(ring::default_provider())).clone()
}

/// Who is believed when a certificate says whose it is
///
/// Clones share what was read.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    config: Arc<OnceLock<Arc<ClientConfig>>>,
}

impl Trust {
    /// Those that the system believes; they are read when they are first needed
    pub fn system() -> Self {
        Self::default()
    }

    /// Those in a file in PEM format, and nobody else
    ///
    /// A certificate that is signed by itself is its own authority, unless it calls itself one.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or has no certificate in it that can be used.
    pub fn from_file(path: &Path) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| TlsError::unusable(path, error))?;
        }
        let trust = Self::default();
        trust.config.get_or_init(|| client_config(roots));
        Ok(trust)
    }

    /// Begins TLS with a coordinator that must be this host
    pub(crate) async fn connect(&self, host: &str, tcp: Tcp) -> Result<Wire, TlsError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name)?;
        let config = match self.config.get() {
            Some(config) => config.clone(),
            None => {
                let roots = smol::unblock(system_roots).await?;
                self.config.get_or_init(|| client_config(roots)).clone()
            }
        };
        match TlsConnector::from(config).connect(name, tcp).await {
            Ok(tls) => Ok(Wire::secured(tls.into())),
            Err(error) => Err(TlsError::from_handshake(error)),
        }
    }
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TlsError::NoRoots) } else { Ok(roots) }
}

fn client_config(roots: RootCertStore) -> Arc<ClientConfig> {
    // The provider is the one that the version needs.
    let versions = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
    let versions = versions.unwrap_or_else(|_| unreachable!("ring speaks TLS 1.3"));
    let mut config = versions.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![HTTP.to_vec()];
    Arc::new(config)
}

/// What a coordinator shows to prove which host it is; it may be replaced while the port is open
///
/// Clones are the same certificate, also after it was replaced.
#[derive(Clone, Debug)]
pub struct Certificate {
    config: Arc<Mutex<Arc<ServerConfig>>>,
}

impl Certificate {
    /// Reads a certificate, with those that lead from it to an authority behind it, and its private key, in PEM format
    ///
    /// # Errors
    ///
    /// If a file cannot be read, the key can be read by others, or the two do not belong together.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        Ok(Self { config: Arc::new(Mutex::new(server_config(certificate, key)?)) })
    }

    /// Shows another one from now on; connections that are open stay as they are
    ///
    /// # Errors
    ///
    /// As [`from_files`](Self::from_files); then the one before stays.
    pub fn replace(&self, certificate: &Path, key: &Path) -> Result<(), TlsError> {
        let config = server_config(certificate, key)?;
        *lock(&self.config) = config;
        Ok(())
    }

    /// Begins TLS with whoever has connected
    pub(crate) async fn accept(&self, tcp: Tcp) -> io::Result<Wire> {
        let config = lock(&self.config).clone();
        Ok(Wire::secured(TlsAcceptor::from(config).accept(tcp).await?.into()))
    }
}

fn server_config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(certificate)?;
    let (metadata, text) = read(key)?;
    if metadata.permissions().mode() & OTHERS != 0 {
        return Err(TlsError::Exposed(key.into()));
    }
    let secret = PrivateKeyDer::from_pem_slice(&text).map_err(|_| TlsError::NoKey(key.into()))?;
    let versions = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
    let versions = versions.map_err(|error| TlsError::unusable(certificate, error))?;
    let config = versions.with_no_client_auth().with_single_cert(chain, secret);
    let mut config = config.map_err(|error| {
        if matches!(error, rustls::Error::InconsistentKeys(_)) {
            return TlsError::Apart(certificate.into(), key.into());
        }
        TlsError::unusable(certificate, error)
    })?;
    config.alpn_protocols = vec![HTTP.to_vec()];
    Ok(Arc::new(config))
}

/// All certificates of a file, of which there is at least one
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let (_, text) = read(path)?;
    let all: Vec<_> = CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().unwrap_or_default();
    if all.is_empty() { Err(TlsError::NoCertificate(path.into())) } else { Ok(all) }
}

fn read(path: &Path) -> Result<(Metadata, Vec<u8>), TlsError> {
    let cannot = |error| TlsError::File(path.into(), error);
    let file = File::open(path).map_err(cannot)?;
    // Of the open file: whoever replaces it meanwhile changes nothing about what is read.
    let metadata = file.metadata().map_err(cannot)?;
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(cannot)?;
    if text.len() as u64 > FILE_BYTES_MAX { Err(TlsError::TooLarge(path.into())) } else { Ok((metadata, text)) }
}

/// Why there is no TLS, said as what to do
#[derive(Debug)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read
    File(PathBuf, io::Error),
    /// A file is too long for what it should be
    TooLarge(PathBuf),
    /// A file has no certificate in it
    NoCertificate(PathBuf),
    /// A file has no private key in it
    NoKey(PathBuf),
    /// A private key that others may read
    Exposed(PathBuf),
    /// The certificate is not the private key's
    Apart(PathBuf, PathBuf),
    /// A certificate that cannot be used
    Unusable(PathBuf, String),
    /// The system believes nobody
    NoRoots,
    /// The host can have no certificate
    Name,
    /// The other end speaks no TLS
    Plain,
    /// Its certificate is not signed by anybody who is believed
    Untrusted,
    /// Its certificate is not valid any more
    Expired,
    /// Its certificate is not valid yet
    Early,
    /// Its certificate is another host's
    OtherHost,
    /// Its certificate is an authority's
    Authority,
    /// The connection broke
    Io(io::Error),
    /// Anything else that went wrong between the two ends
    Failed(String),
}

impl TlsError {
    fn unusable(path: &Path, error: rustls::Error) -> Self {
        Self::Unusable(path.into(), error.to_string())
    }

    fn from_handshake(error: io::Error) -> Self {
        let Some(cause) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return Self::Io(error);
        };
        use CertificateError as Bad;
        use rustls::Error::InvalidCertificate as Certificate;
        if matches!(cause, rustls::Error::InvalidMessage(_)) {
            Self::Plain
        } else if matches!(cause, Certificate(Bad::UnknownIssuer | Bad::BadSignature)) {
            // An authority of the same name with another key is another authority.
            Self::Untrusted
        } else if matches!(cause, Certificate(Bad::Expired | Bad::ExpiredContext { .. })) {
            Self::Expired
        } else if matches!(cause, Certificate(Bad::NotValidYet | Bad::NotValidYetContext { .. })) {
            Self::Early
        } else if matches!(cause, Certificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. })) {
            Self::OtherHost
        } else if matches!(cause, Certificate(Bad::Other(why)) if why.to_string().contains("CaUsedAsEndEntity")) {
            // The one that says so is not to be had by its type.
            Self::Authority
        } else {
            Self::Failed(cause.to_string())
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, error) => write!(f, "{}: {error}", path.display()),
            Self::TooLarge(path) => {
                write!(f, "{}: more than 4 MiB cannot be certificates or a key: give another file", path.display())
            }
            Self::NoCertificate(path) => {
                write!(f, "{}: no certificate is in it: give a file in PEM format", path.display())
            }
            Self::NoKey(path) => write!(f, "{}: no private key is in it: give a file in PEM format", path.display()),
            Self::Exposed(path) => {
                write!(f, "{0}: others may read this private key: run chmod o= {0}", path.display())
            }
            Self::Apart(certificate, key) => write!(
                f,
                "{}: the private key in {} belongs to another certificate: give the two that were made together",
                certificate.display(),
                key.display()
            ),
            Self::Unusable(path, why) => write!(f, "{}: the certificate cannot be used: {why}", path.display()),
            Self::NoRoots => f.write_str(
                "the system knows no certificate authorities: install its CA certificates, or name a file of them",
            ),
            Self::Name => f.write_str("no certificate can be for this host: use another name for it"),
            Self::Plain => f.write_str(
                "no TLS is spoken there: use ws:// if that is intended, else give the coordinator a certificate",
            ),
            Self::Untrusted => f.write_str(
                "the coordinator's certificate is signed by nobody who is trusted here: name the file of its \
                 authority's certificate, unless somebody stands in between",
            ),
            Self::Expired => {
                f.write_str("the coordinator's certificate has expired: renew it, or set this clock right")
            }
            Self::Early => f.write_str("the coordinator's certificate is not valid yet: set the clocks right"),
            Self::OtherHost => f.write_str(
                "the coordinator's certificate is for another host: dial the name it is for, or make one for this name",
            ),
            Self::Io(error) => write!(f, "the connection failed while TLS began ({error}): check the network and port"),
            Self::Authority => f.write_str(
                "the coordinator's certificate is an authority's own: show one that is the \
                 host's alone, signed by that authority or by itself",
            ),
            Self::Failed(why) => write!(f, "TLS failed ({why}): check that TLS 1.3 is spoken there"),
        }
    }
}

impl Error for TlsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::File(_, error) | Self::Io(error) => Some(error),
            Self::TooLarge(_)
            | Self::NoCertificate(_)
            | Self::NoKey(_)
            | Self::Exposed(_)
            | Self::Apart(..)
            | Self::Unusable(..)
            | Self::NoRoots
            | Self::Name
            | Self::Plain
            | Self::Untrusted
            | Self::Expired
            | Self::Early
            | Self::OtherHost
            | Self::Authority
            | Self::Failed(_) => None,
        }
    }
}
