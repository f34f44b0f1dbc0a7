//! Orders to a proxy while it runs: a line in, a line out

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::Duration;

use rejoin_smol::chaos::{Kind, Opaque, Proxy};
use smol::channel::Sender;
use smol::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use smol::lock::Semaphore;
use smol::{Async, LocalExecutor, Timer};

use super::lines::order;
use super::summary::Summary;

/// Most bytes of a line
const LINE_BYTES_MAX: u64 = 4096;
/// Most who give orders at a time
const CALLERS_MAX: usize = 16;

const HELP: &str = "orders: a line of a schedule without its time, such as `delay all towards=peer for=5 amount=300000`; heal; status; help";

/// Where orders are taken
pub(super) struct Control {
    listener: Async<TcpListener>,
    address: SocketAddr,
}

/// What orders are about
struct Subject<'a> {
    proxy: &'a Proxy,
    seed: u64,
    workers: Option<u16>,
    healed: &'a Sender<()>,
}

impl Control {
    pub(super) fn bind(address: SocketAddr) -> io::Result<Control> {
        let listener = Async::<TcpListener>::bind(address)?;
        let address = listener.get_ref().local_addr()?;
        Ok(Control { listener, address })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Does what it is told for good
    pub(super) async fn serve(self, proxy: &Proxy, seed: u64, workers: Option<u16>, healed: &Sender<()>) {
        let subject = Rc::new(Subject { proxy, seed, workers, healed });
        let (callers, room) = (LocalExecutor::new(), Rc::new(Semaphore::new(CALLERS_MAX)));
        let accepting = async {
            loop {
                // Those beyond wait until somebody has gone.
                let guard = room.acquire().await;
                drop(guard);
                let Ok((caller, _)) = self.listener.accept().await else {
                    Timer::after(Duration::from_millis(10)).await;
                    continue;
                };
                let (subject, room) = (subject.clone(), room.clone());
                let answering = async move {
                    let _place = room.acquire().await;
                    // Whoever hangs up has heard enough.
                    let _ = subject.answer(caller).await;
                };
                callers.spawn(answering).detach();
            }
        };
        callers.run(accepting).await
    }
}

impl Subject<'_> {
    async fn answer(&self, caller: Async<std::net::TcpStream>) -> io::Result<()> {
        let mut reader = BufReader::new(&caller);
        loop {
            let mut line = Vec::new();
            (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await?;
            if line.is_empty() {
                return Ok(());
            }
            if line.len() as u64 == LINE_BYTES_MAX && line.last() != Some(&b'\n') {
                return (&caller).write_all(b"error: the line is too long\n").await;
            }
            let said = self.obey(String::from_utf8_lossy(&line).trim());
            (&caller).write_all(said.as_bytes()).await?;
        }
    }

    /// Does what a line says, and what to say to that
    fn obey(&self, line: &str) -> String {
        match line {
            "" | "help" => format!("{HELP}\n"),
            "status" => Summary::of(self.proxy, self.seed).json(),
            "heal" => {
                self.proxy.heal();
                // Once is enough.
                let _ = self.healed.try_send(());
                "ok\n".to_owned()
            }
            _ => match order(line, self.workers) {
                Ok(fault) => {
                    self.proxy.strike(fault);
                    self.proxy.opaque(fault).map_or_else(|| "ok\n".to_owned(), |why| impossible(fault.kind, why))
                }
                Err(problem) => format!("error: {problem}\n"),
            },
        }
    }
}

/// Why nothing comes of a fault
fn impossible(kind: Kind, why: Opaque) -> String {
    let why = match why {
        Opaque::Tls => "they are encrypted (TLS)",
        Opaque::Other => "it is no WebSocket",
    };
    format!(
        "error: {} is impossible, because nobody can tell the messages of that connection apart: {why}\n",
        kind.name()
    )
}
