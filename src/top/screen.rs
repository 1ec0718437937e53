//! The terminal, taken and given back: at the end, on a panic, on a signal.

use std::io;
use std::thread;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use tokio::sync::mpsc;

/// The whole screen. Whoever drops it gets his own back.
pub struct Screen(DefaultTerminal);

impl Screen {
    pub fn take() -> io::Result<Self> {
        // This also sees to it that a panic gives the terminal back before it says its words.
        ratatui::try_init().map(Self).inspect_err(|_| ratatui::restore())
    }

    pub fn draw(&mut self, draw: impl FnOnce(&mut ratatui::Frame)) -> io::Result<()> {
        self.0.draw(draw).map(drop)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.0.show_cursor();
        // Who has closed the terminal needs nothing back.
        let _ = ratatui::try_restore();
    }
}

/// What is pressed, and changes of the size. Reads on a thread of its own, which ends with the process.
pub fn keys() -> mpsc::Receiver<io::Result<Event>> {
    let (send, receive) = mpsc::channel(16);
    thread::spawn(move || {
        loop {
            let event = event::read();
            let failed = event.is_err();
            if send.blocking_send(event).is_err() || failed {
                break;
            }
        }
    });
    receive
}
