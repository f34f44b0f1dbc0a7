//! The service in front of which a proxy stands

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use smol::net;

use super::socket::Socket;
use crate::url::{Host, UrlError, host_and_port};

/// A host and a port; a name is looked up anew at each dial
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    host: Host,
    port: u16,
}

impl Upstream {
    /// The address, where that is what was given
    pub fn address(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Ip(ip) => Some(SocketAddr::new(ip, self.port)),
            Host::Name(_) => None,
        }
    }

    /// Connects to the first of its addresses that takes it
    ///
    /// # Errors
    ///
    /// What the last of them failed with, or that the name has none.
    pub(super) async fn connect(&self) -> io::Result<Socket> {
        let name = match &self.host {
            Host::Ip(ip) => return Socket::connect((*ip, self.port)).await,
            Host::Name(name) => name,
        };
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in net::resolve((name.as_str(), self.port)).await? {
            match Socket::connect(address).await {
                Ok(socket) => return Ok(socket),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

impl From<SocketAddr> for Upstream {
    fn from(address: SocketAddr) -> Upstream {
        Upstream { host: Host::Ip(address.ip()), port: address.port() }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for Upstream {
    type Err = BadUpstream;

    fn from_str(text: &str) -> Result<Upstream, BadUpstream> {
        if text.contains("://") {
            return Err(BadUpstream::Scheme);
        }
        if text.contains(['/', '?', '#']) {
            return Err(BadUpstream::Path);
        }
        if let Ok(ip) = text.parse::<IpAddr>()
            && ip.is_ipv4()
        {
            return Err(BadUpstream::NoPort);
        }
        let (host, port) = host_and_port(text).map_err(BadUpstream::Part)?;
        port.map(|port| Upstream { host, port }).ok_or(BadUpstream::NoPort)
    }
}

/// Why a text is no service to stand in front of
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadUpstream {
    /// It begins with a scheme, such as `wss://`
    Scheme,
    /// Something is behind the port
    Path,
    /// There is no port
    NoPort,
    /// The host or the port is none
    Part(UrlError),
}

impl fmt::Display for BadUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadUpstream::Scheme => f.write_str(
                "a service is a host with a port and no scheme, such as example.org:443: bytes pass as they are, TLS among them, and whoever dials says ws:// or wss://",
            ),
            BadUpstream::Path => {
                f.write_str("a service is a host with a port and no path, such as example.org:7878: whoever dials says the path")
            }
            BadUpstream::NoPort => f.write_str("it has no port: write it like example.org:7878"),
            BadUpstream::Part(error) => error.fmt(f),
        }
    }
}

impl Error for BadUpstream {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_a_host_with_a_port() {
        for text in ["127.0.0.1:80", "[::1]:7878", "example.org:443", "localhost:1"] {
            let upstream: Upstream = text.parse().expect("a service");
            assert_eq!(upstream.to_string(), text);
        }
        assert_eq!("[::1]:80".parse::<Upstream>().map(|up| up.address()), Ok("[::1]:80".parse().ok()));
        for (text, part) in [
            ("wss://example.org", "no scheme"),
            ("http://127.0.0.1:80", "no scheme"),
            ("example.org:80/v1", "no path"),
            ("example.org", "no port"),
            ("127.0.0.1", "no port"),
            ("[::1]", "no port"),
            ("::1", "brackets"),
            (":80", "no host"),
            ("", "no host"),
            ("a b:80", "byte 1"),
            ("me@example.org:80", "user"),
            ("example.org:0", "1 to 65535"),
            ("example.org:http", "1 to 65535"),
        ] {
            let problem = text.parse::<Upstream>().expect_err("no service").to_string();
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }
}
