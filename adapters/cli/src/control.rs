//! Orders to a program while it runs: a line in, a line out

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use smol::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use smol::lock::Semaphore;
use smol::{Async, LocalExecutor, Timer};

/// Most bytes of a line
const LINE_BYTES_MAX: u64 = 4096;
/// Most who give orders at a time
const CALLERS_MAX: usize = 16;

/// Where orders are taken
pub struct Control {
    listener: Async<TcpListener>,
    address: SocketAddr,
}

impl Control {
    /// Listens there; nobody is answered before it serves
    ///
    /// # Errors
    ///
    /// What listening failed with.
    pub fn bind(address: SocketAddr) -> io::Result<Control> {
        let listener = Async::<TcpListener>::bind(address)?;
        let address = listener.get_ref().local_addr()?;
        Ok(Control { listener, address })
    }

    /// Where it listens
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has orders obeyed for good, one at a time, and says what comes of each, a line with its end
    pub async fn serve(self, obey: impl Fn(&str) -> String) {
        let room = Semaphore::new(CALLERS_MAX);
        let (callers, room, obey) = (LocalExecutor::new(), &room, &obey);
        let accepting = async {
            loop {
                // Those beyond wait until somebody has gone.
                let guard = room.acquire().await;
                drop(guard);
                let Ok((caller, _)) = self.listener.accept().await else {
                    Timer::after(Duration::from_millis(10)).await;
                    continue;
                };
                let answering = async move {
                    let _place = room.acquire().await;
                    // Whoever hangs up has heard enough.
                    let _ = answer(caller, obey).await;
                };
                callers.spawn(answering).detach();
            }
        };
        callers.run(accepting).await
    }
}

async fn answer(caller: Async<TcpStream>, obey: impl Fn(&str) -> String) -> io::Result<()> {
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
        let said = obey(String::from_utf8_lossy(&line).trim());
        (&caller).write_all(said.as_bytes()).await?;
    }
}
