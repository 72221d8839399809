//! A way to a keyholder that can be slow, and closed.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the way is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Open,
    /// Everything takes so long to pass.
    Slow(Duration),
    /// Nothing passes, and what was on its way is lost.
    Shut,
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    way: watch::Sender<Way>,
}

impl Proxy {
    pub(crate) async fn to(keyholder: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (way, ways) = watch::channel(Way::Open);
        tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                if *ways.borrow() != Way::Shut {
                    tokio::spawn(pass(caller, keyholder, ways.clone()));
                }
            }
        });
        Self { address, way }
    }

    pub(crate) fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn pass(caller: TcpStream, keyholder: SocketAddr, mut ways: watch::Receiver<Way>) {
    let Ok(called) = TcpStream::connect(keyholder).await else { return };
    let (mut caller_in, mut caller_out) = caller.into_split();
    let (mut called_in, mut called_out) = called.into_split();
    let forward = ways.clone();
    let there = async {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(read) = caller_in.read(&mut bytes).await {
            let way = *forward.borrow();
            if let Way::Slow(time) = way {
                tokio::time::sleep(time).await;
            }
            if read == 0 || called_out.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = there => {}
        _ = tokio::io::copy(&mut called_in, &mut caller_out) => {}
        _ = ways.wait_for(|way| *way == Way::Shut) => {}
    }
}
