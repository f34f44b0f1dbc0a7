//! The coordinator's URL in one normal form
//!
//! People write the same coordinator in many ways: `box`, `wss://box:7878/`,
//! `HTTPS://Box:7878/v1/worker`. [`Endpoint`] parses them all into the one form
//! everything else works with, `wss://box:7878/v1/worker`, and turns away what
//! cannot be meant or must not be there, such as a password. A parsed endpoint
//! prints as text that parses to an equal endpoint.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Path below the reverse proxy's prefix where workers link to the coordinator
pub const WORKER_PATH: &str = "/v1/worker";

/// Port meant by a URL that names neither a scheme nor a port
pub const DEFAULT_PORT: u16 = 7878;

/// Longest URL taken, and longest normal form made, in bytes
pub const MAX_URL_LEN: usize = 512;

/// Where a coordinator takes worker links
///
/// - scheme: `ws` and `http` mean `ws`, `wss` and `https` mean `wss`, in any
///   case; none means `ws` on this machine, and `wss` elsewhere (AUTH-7)
/// - port: as given, else 80 for `ws`, 443 for `wss` and [`DEFAULT_PORT`] where
///   no scheme is given either
/// - host: lower case, without the dot of a fully qualified name; IPv6 in brackets
/// - path: any prefix, without empty segments, then [`WORKER_PATH`] exactly once
///   at its end
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    tls: bool,
    host: Host,
    /// The host as text without brackets, kept so that it can be lent out
    host_text: String,
    port: u16,
    path: String,
}

impl Endpoint {
    /// Whether the link runs over TLS (`wss`)
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Host name or address to connect to; an IPv6 address has no brackets here
    pub fn host(&self) -> &str {
        &self.host_text
    }

    /// Port to connect to, never 0
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path of the request, ending in [`WORKER_PATH`]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Value of the `Host` header: the port is left out where it is the scheme's own
    pub fn authority(&self) -> String {
        if self.port == scheme_port(self.tls) { self.host.to_string() } else { format!("{}:{}", self.host, self.port) }
    }

    /// Whether the host is this machine: a loopback address or a `localhost` name
    pub fn is_loopback(&self) -> bool {
        self.host.is_loopback()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "wss" } else { "ws" };
        write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.path)
    }
}

impl FromStr for Endpoint {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        check_text(url)?;
        let (tls, rest) = split_scheme(url)?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if let Some(at) = path.find(['[', ']']) {
            let at = url.len() - path.len() + at;
            return Err(UrlError::BadCharacter { at });
        }
        let (host, port) = host_and_port(authority)?;
        let endpoint = Self {
            tls: tls.unwrap_or(!host.is_loopback()),
            host_text: host.bare(),
            host,
            port: port.unwrap_or_else(|| tls.map_or(DEFAULT_PORT, scheme_port)),
            path: worker_path(path)?,
        };
        // The normal form may be longer than what was written, and it has to parse too.
        if endpoint.to_string().len() > MAX_URL_LEN {
            return Err(UrlError::TooLong);
        }
        Ok(endpoint)
    }
}

/// Why a text is not the URL of a coordinator
///
/// The message says what to do and repeats nothing of the text, which may hold
/// a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UrlError {
    /// Longer than [`MAX_URL_LEN`] bytes, as written or in normal form
    TooLong,
    /// A space, a control character or another one that no URL has
    BadCharacter {
        /// Byte where the character stands, counted from 0
        at: usize,
    },
    /// A scheme other than `ws`, `wss`, `http` and `https`
    UnknownScheme,
    /// A user name or password before the host
    UserInfo,
    /// A query after the path
    Query,
    /// A fragment after the path
    Fragment,
    /// No host
    EmptyHost,
    /// A host that is neither a host name nor an IP address
    BadHost,
    /// An IPv6 address without its brackets
    BareIpv6,
    /// A port that is not a number from 1 to 65535
    BadPort,
    /// A `%` without two hexadecimal digits
    BadEscape,
    /// A `.` or `..` segment in the path
    DotSegment,
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the URL is too long: shorten it to 512 bytes at most",
            Self::BadCharacter { at } => {
                return write!(
                    f,
                    "byte {at} of the URL is no URL character: remove it, or write it as %XX in the path"
                );
            }
            Self::UnknownScheme => "the URL's scheme is unknown: use ws:// or wss://",
            Self::UserInfo => "the URL holds a user or password: remove all up to the @",
            Self::Query => "the URL holds a query: remove the ? and all after it",
            Self::Fragment => "the URL holds a fragment: remove the # and all after it",
            Self::EmptyHost => "the URL has no host: write it like ws://host:7878",
            Self::BadHost => "the URL's host is invalid: use a host name or an IP address",
            Self::BareIpv6 => "an IPv6 address needs brackets: write it like [::1]:7878",
            Self::BadPort => "the URL's port is invalid: use a number from 1 to 65535",
            Self::BadEscape => "the URL's path has a stray %: write two hex digits after it",
            Self::DotSegment => "the URL's path has a . or .. segment: write the path in full",
        })
    }
}

impl Error for UrlError {}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    Name(String),
    Ip(IpAddr),
}

impl Host {
    fn is_loopback(&self) -> bool {
        match self {
            Self::Name(name) => name == "localhost" || name.ends_with(".localhost"),
            Self::Ip(ip) => ip.to_canonical().is_loopback(),
        }
    }

    fn bare(&self) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::Ip(ip) => ip.to_string(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl FromStr for Host {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if let Some(inner) = text.strip_prefix('[') {
            let ip = inner.strip_suffix(']').ok_or(UrlError::BadHost)?;
            let ip: Ipv6Addr = ip.parse().map_err(|_| UrlError::BadHost)?;
            return Ok(Self::Ip(ip.into()));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if name.is_empty() {
            return Err(UrlError::EmptyHost);
        }
        if let Ok(ip) = name.parse::<Ipv4Addr>() {
            return Ok(Self::Ip(ip.into()));
        }
        if name.len() <= 253 && name.split('.').all(is_label) && !ends_in_number(&name) {
            return Ok(Self::Name(name));
        }
        Err(UrlError::BadHost)
    }
}

fn is_label(label: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
    (1..=63).contains(&label.len()) && label.bytes().all(allowed) && !label.starts_with('-') && !label.ends_with('-')
}

/// Resolvers read names like `127.1` or `0x7f000001` as addresses, each in its own way
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let hex = last.strip_prefix("0x");
    last.bytes().all(|c| c.is_ascii_digit()) || hex.is_some_and(|hex| hex.bytes().all(|c| c.is_ascii_hexdigit()))
}

fn scheme_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

/// Checks that hold for the whole text, so that all later slicing is of plain ASCII
fn check_text(url: &str) -> Result<(), UrlError> {
    if url.len() > MAX_URL_LEN {
        return Err(UrlError::TooLong);
    }
    for (at, c) in url.char_indices() {
        match c {
            '?' => return Err(UrlError::Query),
            '#' => return Err(UrlError::Fragment),
            'a'..='z' | 'A'..='Z' | '0'..='9' => {}
            _ if "-._~!$&'()*+,;=:@/%[]".contains(c) => {}
            _ => return Err(UrlError::BadCharacter { at }),
        }
    }
    Ok(())
}

/// Whether the scheme, if any, asks for TLS, and what follows the scheme
fn split_scheme(url: &str) -> Result<(Option<bool>, &str), UrlError> {
    match url.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => match scheme.to_ascii_lowercase().as_str() {
            "ws" | "http" => Ok((Some(false), rest)),
            "wss" | "https" => Ok((Some(true), rest)),
            _ => Err(UrlError::UnknownScheme),
        },
        _ => Ok((None, url.strip_prefix("//").unwrap_or(url))),
    }
}

/// The parts of `host:port`
pub(crate) fn host_and_port(authority: &str) -> Result<(Host, Option<u16>), UrlError> {
    check_text(authority)?;
    let (host, port) = split_port(authority)?;
    Ok((host.parse()?, port))
}

fn split_port(authority: &str) -> Result<(&str, Option<u16>), UrlError> {
    if authority.contains('@') {
        return Err(UrlError::UserInfo);
    }
    // A colon inside the brackets belongs to the address.
    let host_len = match authority.find(']') {
        Some(bracket) => bracket + 1,
        None if authority.matches(':').count() > 1 => return Err(UrlError::BareIpv6),
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at(host_len);
    if rest.is_empty() {
        return Ok((host, None));
    }
    let digits = rest.strip_prefix(':').ok_or(UrlError::BadHost)?;
    // `parse` would take a sign as well.
    if !digits.bytes().all(|c| c.is_ascii_digit()) {
        return Err(UrlError::BadPort);
    }
    match digits.parse() {
        Ok(port) if port != 0 => Ok((host, Some(port))),
        _ => Err(UrlError::BadPort),
    }
}

/// The normal path: the prefix, then the worker endpoint once
fn worker_path(path: &str) -> Result<String, UrlError> {
    let mut prefix = String::new();
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        let segment = normal_segment(segment)?;
        if segment == "." || segment == ".." {
            return Err(UrlError::DotSegment);
        }
        prefix.push('/');
        prefix.push_str(&segment);
    }
    let kept = prefix.trim_end_matches(WORKER_PATH).len();
    prefix.truncate(kept);
    prefix.push_str(WORKER_PATH);
    Ok(prefix)
}

/// Undoes escapes that were not needed and writes the needed ones in upper case
fn normal_segment(segment: &str) -> Result<String, UrlError> {
    let mut pieces = segment.split('%');
    let mut normal = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2).ok_or(UrlError::BadEscape)?;
        if !digits.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Err(UrlError::BadEscape);
        }
        let byte = u8::from_str_radix(digits, 16).map_err(|_| UrlError::BadEscape)?;
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            normal.push(char::from(byte));
        } else {
            normal.push('%');
            normal.push_str(&digits.to_ascii_uppercase());
        }
        normal.push_str(rest);
    }
    Ok(normal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::{Arbitrary, Gen, TestResult, quickcheck};

    #[test]
    fn every_spelling_has_one_normal_form() {
        let table = [
            ("box", "wss://box:7878/v1/worker"),
            ("//box", "wss://box:7878/v1/worker"),
            ("box:9000", "wss://box:9000/v1/worker"),
            ("Box.Example.ORG.", "wss://box.example.org:7878/v1/worker"),
            ("ws:81", "wss://ws:81/v1/worker"),
            ("ws://box", "ws://box:80/v1/worker"),
            ("HTTP://box/", "ws://box:80/v1/worker"),
            ("WsS://box", "wss://box:443/v1/worker"),
            ("https://h/x/", "wss://h:443/x/v1/worker"),
            ("https://h:00444/x//y///", "wss://h:444/x/y/v1/worker"),
            ("h/x://y", "wss://h:7878/x:/y/v1/worker"),
            ("10.0.0.7/", "wss://10.0.0.7:7878/v1/worker"),
            ("[::1]", "ws://[::1]:7878/v1/worker"),
            ("ws://[FE80:0::0:1]:81", "ws://[fe80::1]:81/v1/worker"),
            ("h/v1/worker", "wss://h:7878/v1/worker"),
            ("h//v1//worker/", "wss://h:7878/v1/worker"),
            ("h/v1/worker/v1/worker/", "wss://h:7878/v1/worker"),
            ("h/p/v1/worker", "wss://h:7878/p/v1/worker"),
            ("h/pv1/worker", "wss://h:7878/pv1/worker/v1/worker"),
            ("h/v1/worker/p", "wss://h:7878/v1/worker/p/v1/worker"),
            ("h/%761/work%65r", "wss://h:7878/v1/worker"),
            ("h/a%2fb%20@", "wss://h:7878/a%2Fb%20@/v1/worker"),
        ];
        for (spelling, normal) in table {
            let endpoint: Endpoint = spelling.parse().expect(spelling);
            assert_eq!(endpoint.to_string(), normal, "{spelling}");
            assert_eq!(normal.parse(), Ok(endpoint), "{spelling}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_turned_away() {
        let table = [
            ("", UrlError::EmptyHost),
            ("ws://", UrlError::EmptyHost),
            ("ws:///v1/worker", UrlError::EmptyHost),
            (":80", UrlError::EmptyHost),
            (".", UrlError::EmptyHost),
            ("ftp://h", UrlError::UnknownScheme),
            ("://h", UrlError::UnknownScheme),
            ("ws:/h", UrlError::BadPort),
            ("h:", UrlError::BadPort),
            ("h:0", UrlError::BadPort),
            ("h:65536", UrlError::BadPort),
            ("h:+80", UrlError::BadPort),
            ("ws://u:p@h", UrlError::UserInfo),
            ("token@h", UrlError::UserInfo),
            ("h/?token=1", UrlError::Query),
            ("h#f", UrlError::Fragment),
            (" h", UrlError::BadCharacter { at: 0 }),
            ("h\n", UrlError::BadCharacter { at: 1 }),
            ("h\0", UrlError::BadCharacter { at: 1 }),
            ("h/a\\b", UrlError::BadCharacter { at: 3 }),
            ("hé", UrlError::BadCharacter { at: 1 }),
            ("::1", UrlError::BareIpv6),
            ("[::1", UrlError::BareIpv6),
            ("[h", UrlError::BadHost),
            ("h/[", UrlError::BadCharacter { at: 2 }),
            ("[::1]80", UrlError::BadHost),
            ("[fe80::1%25eth0]", UrlError::BadHost),
            ("a..b", UrlError::BadHost),
            ("-a", UrlError::BadHost),
            ("127.1", UrlError::BadHost),
            ("0x7f000001", UrlError::BadHost),
            ("256.0.0.1", UrlError::BadHost),
            ("h/%", UrlError::BadEscape),
            ("h/%+1", UrlError::BadEscape),
            ("h/a/../b", UrlError::DotSegment),
            ("h/%2e", UrlError::DotSegment),
        ];
        for (text, error) in table {
            assert_eq!(text.parse::<Endpoint>(), Err(error), "{text:?}");
            let advice = error.to_string();
            assert!(advice.contains(": ") && !advice.contains("token"));
        }
    }

    #[test]
    fn length_is_checked_before_and_after_normalising() {
        let with_path = |len: usize| format!("h/{}", "a".repeat(len)).parse::<Endpoint>();
        // "wss://h:7878/" and "/v1/worker" stand around the path.
        let room = MAX_URL_LEN - 13 - WORKER_PATH.len();
        assert!(with_path(room).is_ok());
        assert_eq!(with_path(room + 1), Err(UrlError::TooLong));
        assert_eq!(with_path(MAX_URL_LEN), Err(UrlError::TooLong));
    }

    #[test]
    fn parts_are_those_of_the_normal_form() {
        let proxied: Endpoint = "https://H/x".parse().expect("a URL");
        assert!(proxied.is_tls() && !proxied.is_loopback());
        assert_eq!((proxied.host(), proxied.port()), ("h", 443));
        assert_eq!(proxied.path(), "/x/v1/worker");
        assert_eq!(proxied.authority(), "h");

        let local: Endpoint = "[::1]:80".parse().expect("a URL");
        assert_eq!((local.host(), local.port()), ("::1", 80));
        assert_eq!(local.authority(), "[::1]");
        let odd: Endpoint = "wss://[::1]:80".parse().expect("a URL");
        assert_eq!(odd.authority(), "[::1]:80");
    }

    #[test]
    fn loopback_is_known_in_all_spellings() {
        let is_loopback = |url: &str| url.parse::<Endpoint>().expect(url).is_loopback();
        for url in ["LOCALHOST.", "a.localhost", "127.8.9.1", "[::1]"] {
            assert!(is_loopback(url), "{url}");
        }
        assert!(is_loopback("[::ffff:127.0.0.1]"));
        for url in ["localhost.example.org", "notlocalhost", "10.0.0.1", "[::]"] {
            assert!(!is_loopback(url), "{url}");
        }
    }

    /// A text glued from the parts that URLs are made of, often a valid one
    #[derive(Clone, Debug)]
    struct Glued(String);

    impl Arbitrary for Glued {
        fn arbitrary(g: &mut Gen) -> Self {
            const FRONT: &[&str] = &["", "ws://", "HTTPS://", "//", "wss:", "x://"];
            const HOST: &[&str] = &["h", "A.b", "1.2.3.4", "[::1]", "[::ffff:1.2.3.4]", "::1", ""];
            const PORT: &[&str] = &["", "", ":80", ":443", ":7878", ":0", ":"];
            const PATH: &[&str] =
                &["/", "//", "/v1", "/worker", "/v1/worker", "v1", "%2F", "%76", "%", ".", "é", "/x", "@"];
            let mut text = String::new();
            for parts in [FRONT, HOST, PORT] {
                text.push_str(g.choose(parts).copied().unwrap_or_default());
            }
            for _ in 0..u8::arbitrary(g) % 6 {
                text.push_str(g.choose(PATH).copied().unwrap_or_default());
            }
            Self(text)
        }
    }

    fn holds(text: &str) -> TestResult {
        let Ok(endpoint) = text.parse::<Endpoint>() else {
            return TestResult::discard();
        };
        let shown = endpoint.to_string();
        let prefix = endpoint.path().strip_suffix(WORKER_PATH);
        TestResult::from_bool(
            shown.parse() == Ok(endpoint.clone())
                && prefix.is_some_and(|prefix| !prefix.ends_with(WORKER_PATH))
                && !endpoint.path().contains("//")
                && endpoint.port() != 0
                && shown.len() <= MAX_URL_LEN,
        )
    }

    quickcheck! {
        fn normal_form_is_stable(glued: Glued) -> TestResult {
            holds(&glued.0)
        }

        fn no_text_panics(text: String) -> bool {
            !holds(&text).is_failure()
        }

        fn no_tail_panics(text: String) -> bool {
            !holds(&format!("ws://h/{text}")).is_failure()
        }
    }
}
