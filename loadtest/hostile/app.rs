//! The application behind the proxy: one thread, HTTP/1, just enough of it.
//!
//! `/large` is answered with [`LARGE`] bytes, `/held` never; a body is read to its end first.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

/// More than all buffers on the way can hold.
pub const LARGE: usize = 64 * 1024 * 1024;

const SMALL: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

/// Starts it on a free port; it ends with the process.
pub fn start() -> io::Result<SocketAddr> {
    // With room for a crowd that arrives at once: what is lost there comes a second later, and would be the proxy's fault.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    let listener = std::net::TcpListener::from(socket);
    let address = listener.local_addr()?;
    std::thread::Builder::new().name("app".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            let listener = TcpListener::from_std(listener).expect("a bound socket can be registered");
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::task::spawn_local(serve(stream))),
                    // Out of descriptors: wait for some rather than spin.
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
                }
            }
        });
    })?;
    Ok(address)
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // By itself the system would take megabytes for each of those who do not read, and copying them is the work of a moment in
    // which this one thread answers nobody.
    socket2::SockRef::from(&stream).set_send_buffer_size(64 * 1024)?;
    let mut buffer = Vec::with_capacity(4096);
    loop {
        let head = loop {
            if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
        let target = text.split(' ').nth(1).unwrap_or_default().to_owned();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        let mut missing = (head + length.unwrap_or(0)).saturating_sub(buffer.len());
        buffer.clear();
        // Chunks are of clients who will not end: nobody waits for their answer.
        if text.contains("\ntransfer-encoding:") {
            missing = usize::MAX;
        }
        while missing > 0 {
            buffer.clear();
            match stream.read_buf(&mut buffer).await? {
                0 => return Ok(()),
                read => missing = missing.saturating_sub(read),
            }
        }
        // The proxy does not pipeline, so nothing of another request can have come.
        buffer.clear();
        match target.as_str() {
            "/large" => {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                let piece = [b'l'; 64 * 1024];
                for _ in 0..LARGE / piece.len() {
                    stream.write_all(&piece).await?;
                }
            }
            // Until the other side gives up.
            "/held" => return stream.read_buf(&mut buffer).await.map(drop),
            _ => stream.write_all(SMALL).await?,
        }
    }
}
