//! The bytes beneath a WebSocket: a TCP connection, with TLS around them or without

use std::fmt;
use std::io::{self, IoSlice, Read};
use std::net::{Shutdown, TcpStream};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use futures_rustls::TlsStream;
use smol::io::{AsyncRead, AsyncWrite};
use smol::{Async, future};

use crate::journal::lock;

/// Unsent bytes in the system's buffer above which a connection counts as not writable
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT_BYTES: u32 = 16 * 1024;

/// What TLS holds back, sealed, while the system takes nothing
const SEALED_BYTES: usize = 16 * 1024;

/// What both ends derive the value of a binding with (RFC 9266)
const BINDING_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// A TCP connection that counts what it reads
///
/// It registers wakers by `poll_readable` and `poll_writable`, not by the futures of
/// `smol::net::TcpStream`. Those forget the waker when any write succeeds, and here the reader
/// writes too, to answer pings: a writer waiting for room would sleep on.
#[derive(Clone, Debug)]
pub(crate) struct Tcp {
    tcp: Arc<Async<TcpStream>>,
    arrived: Arc<AtomicU64>,
}

impl Tcp {
    /// Messages are small and late ones are worthless, so nothing may linger in the system
    pub(crate) fn new(tcp: Arc<Async<TcpStream>>) -> io::Result<Self> {
        tcp.get_ref().set_nodelay(true)?;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        // Keeps the backlog where the owner can still see it; without it the link works as well.
        socket2::SockRef::from(tcp.get_ref()).set_tcp_notsent_lowat(UNSENT_BYTES).ok();
        Ok(Self { tcp, arrived: Arc::default() })
    }

    /// The first byte, which stays there to be read; none if there will not be any
    pub(crate) async fn first_byte(&self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        Ok((self.tcp.peek(&mut byte).await? > 0).then_some(byte[0]))
    }

    /// Ends the sending direction, then discards what arrives until the peer ends its own
    pub(crate) async fn drain(&self) -> io::Result<()> {
        self.tcp.get_ref().shutdown(Shutdown::Write)?;
        // Not by `poll_read`, where two tasks that wait would wake each other without end.
        while self.tcp.read_with(|mut tcp| tcp.read(&mut [0; 4096])).await? > 0 {}
        Ok(())
    }
}

impl AsyncRead for Tcp {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut &*self.tcp).poll_read(cx, buf))?;
        self.arrived.fetch_add(count as u64, Ordering::Relaxed);
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self.tcp).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self.tcp).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.tcp.get_ref().shutdown(Shutdown::Write))
    }
}

/// A connection, shared by the two halves of a WebSocket and by the upgrade that comes before
#[derive(Clone)]
pub(crate) struct Wire {
    tcp: Tcp,
    /// Locked for as long as one call takes, none of which waits
    tls: Option<Arc<Mutex<TlsStream<Tcp>>>>,
}

impl Wire {
    pub(crate) fn plain(tcp: Tcp) -> Self {
        Self { tcp, tls: None }
    }

    /// TLS as it is after its handshake
    pub(crate) fn secured(mut tls: TlsStream<Tcp>) -> Self {
        match &mut tls {
            TlsStream::Client(tls) => tls.get_mut().1.set_buffer_limit(Some(SEALED_BYTES)),
            TlsStream::Server(tls) => tls.get_mut().1.set_buffer_limit(Some(SEALED_BYTES)),
        }
        Self { tcp: tls.get_ref().0.clone(), tls: Some(Arc::new(Mutex::new(tls))) }
    }

    /// What only the two ends of this TLS connection can derive (AUTH-7)
    pub(crate) fn binding(&self) -> Option<[u8; 32]> {
        let tls = lock(self.tls.as_ref()?);
        let exported = match &*tls {
            TlsStream::Client(tls) => tls.get_ref().1.export_keying_material([0; 32], BINDING_LABEL, Some(&[])),
            TlsStream::Server(tls) => tls.get_ref().1.export_keying_material([0; 32], BINDING_LABEL, Some(&[])),
        };
        exported.ok()
    }

    /// Counter of all bytes read from the TCP connection so far
    pub(crate) fn arrived(&self) -> Arc<AtomicU64> {
        self.tcp.arrived.clone()
    }

    /// Ends the sending direction, then discards what arrives until the peer ends its own
    pub(crate) async fn drain(&self) -> io::Result<()> {
        if let Some(tls) = &self.tls {
            future::poll_fn(|cx| Pin::new(&mut *lock(tls)).poll_close(cx)).await?;
        }
        self.tcp.drain().await
    }

    /// Ends both directions at once
    pub(crate) fn cut(&self) {
        self.tcp.tcp.get_ref().shutdown(Shutdown::Both).ok();
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("tcp", &self.tcp).field("tls", &self.tls.is_some()).finish()
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match &this.tls {
            Some(tls) => Pin::new(&mut *lock(tls)).poll_read(cx, buf),
            None => Pin::new(&mut this.tcp).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match &this.tls {
            Some(tls) => Pin::new(&mut *lock(tls)).poll_write(cx, buf),
            None => Pin::new(&mut this.tcp).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match &this.tls {
            Some(tls) => Pin::new(&mut *lock(tls)).poll_flush(cx),
            None => Pin::new(&mut this.tcp).poll_flush(cx),
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match &this.tls {
            Some(tls) => Pin::new(&mut *lock(tls)).poll_close(cx),
            None => Pin::new(&mut this.tcp).poll_close(cx),
        }
    }
}
