//! HTTP/2: the requests of one connection, each in a task of its own and with a state of its own.

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use hyper::rt::Executor;

use super::state::{State, Verdict};
use super::worker::Worker;

/// Where hyper puts the streams of one connection.
#[derive(Clone)]
pub struct Streams {
    worker: Rc<Worker>,
    connection: Rc<State>,
}

impl Streams {
    pub fn new(worker: Rc<Worker>, connection: Rc<State>) -> Self {
        Self { worker, connection }
    }
}

impl<F: Future + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let open = Open { streams: self.clone(), state: self.connection.stream(self.worker.now()) };
        tokio::task::spawn_local(async move {
            // Dropped before `open`: the request has been counted when its state leaves the books.
            let mut stream = pin!(stream);
            std::future::poll_fn(|cx| {
                open.state.note(cx);
                // Nothing else reaches a stream whose client takes nothing: hyper waits for its window, and asks nobody.
                // Dropping it sends RST_STREAM.
                if open.state.verdict() == Some(Verdict::Abort) {
                    return Poll::Ready(());
                }
                open.streams.worker.enters_stream(&open.state);
                stream.as_mut().poll(cx).map(drop)
            })
            .await
        });
    }
}

/// A stream in its connection's books, however it ends.
struct Open {
    streams: Streams,
    state: Rc<State>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let Streams { worker, connection } = &self.streams;
        if !self.state.has_begun_an_answer() {
            connection.was_in_vain();
        }
        connection.stream_ends(&self.state, worker.now());
        if std::thread::panicking() {
            worker.cells.panics.add(1);
            connection.abort();
        }
    }
}
