//! The two servers behind every proxy: one thread, no parsing beyond what is needed, answers prepared beforehand.
//!
//! The body of an answer tells which server wrote it: it consists of `s` (stable) or `c` (canary). The answer to an
//! upload is that letter and the number of bytes that arrived.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use crate::SCENARIOS;

pub struct Servers {
    pub stable: SocketAddr,
    pub canary: SocketAddr,
}

/// Starts both on free ports; they end with the process.
pub fn start() -> io::Result<Servers> {
    let bind = || {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        Ok::<_, io::Error>((listener.local_addr()?, listener))
    };
    let ((stable, one), (canary, other)) = (bind()?, bind()?);
    std::thread::Builder::new().name("backend".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            tokio::join!(accept(one, b's'), accept(other, b'c'));
        });
    })?;
    Ok(Servers { stable, canary })
}

async fn accept(listener: std::net::TcpListener, letter: u8) {
    let listener = TcpListener::from_std(listener).expect("a bound socket can be registered");
    let answers: Rc<[Vec<u8>]> = SCENARIOS.iter().map(|scenario| answer(&vec![letter; scenario.download])).collect();
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let answers = answers.clone();
            tokio::task::spawn_local(async move {
                // A proxy that closes its connection is no event.
                let _ = serve(stream, letter, &answers).await;
            });
        }
    }
}

fn answer(body: &[u8]) -> Vec<u8> {
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
    answer.extend_from_slice(body);
    answer
}

async fn serve(mut stream: TcpStream, letter: u8, answers: &[Vec<u8>]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 64 * 1024];
    let mut filled = 0;
    loop {
        let head = loop {
            if let Some(end) = buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            match stream.read(&mut buffer[filled..]).await? {
                0 => return Ok(()),
                read => filled += read,
            }
        };
        let text = std::str::from_utf8(&buffer[..head]).map_err(io::Error::other)?;
        let target = text.split(' ').nth(1).unwrap_or_default();
        let scenario = SCENARIOS.iter().position(|scenario| scenario.path == target);
        let header = |name: &str| {
            text.lines().find_map(|line| {
                let (found, value) = line.split_once(':')?;
                found.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        if header("transfer-encoding").is_some() {
            // No client of ours sends chunks, so a proxy must not either.
            return stream.write_all(b"HTTP/1.1 411 Length Required\r\ncontent-length: 0\r\n\r\n").await;
        }
        let length: usize = header("content-length").map_or(Ok(0), str::parse).map_err(io::Error::other)?;
        let mut missing = length.saturating_sub(filled - head);
        while missing > 0 {
            match stream.read(&mut buffer).await? {
                0 => return Ok(()),
                read => missing = missing.saturating_sub(read),
            }
        }
        // Proxies do not pipeline, so nothing of another request can have come.
        filled = 0;
        match scenario {
            Some(_) if length > 0 => {
                stream.write_all(&answer(format!("{}{length}", char::from(letter)).as_bytes())).await?
            }
            Some(scenario) => stream.write_all(&answers[scenario]).await?,
            None => stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await?,
        }
    }
}
