//! GET over plain HTTP, from daemons on this machine: readiness, the development sink.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(5);

/// The longest answer, in bytes.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Status and body; `None` if nobody answers so.
pub(super) async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    timeout(WITHIN, ask(address, path)).await.ok()?
}

/// HTTP/1.0, so that the body comes whole and ends with the connection.
async fn ask(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: application/json\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await.ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn status_and_body_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 512];
            let read = stream.read(&mut request).await.unwrap();
            stream
                .write_all(b"HTTP/1.0 503 Service Unavailable\r\nx: y\r\n\r\n{\"ready\":false}")
                .await
                .unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        assert_eq!(get(address, "/readyz").await, Some((503, "{\"ready\":false}".to_owned())));
        assert!(server.await.unwrap().starts_with("GET /readyz HTTP/1.0\r\n"));
        assert_eq!(get(address, "/readyz").await, None, "nobody there any more");
    }
}
