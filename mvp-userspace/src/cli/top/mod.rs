//! `mvp top`: one agent, live in a terminal.

mod draw;

use std::io::{self, IsTerminal as _, Write};
use std::sync::mpsc;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::crossterm::terminal;

use super::client::ClientError;
use super::command::At;
use super::talk::{get, parse};
use draw::{Shown, draw};

/// Between two looks at the agent.
const EVERY: Duration = Duration::from_secs(1);
/// Between two looks at the keyboard.
const KEYS: Duration = Duration::from_millis(100);
/// Of a frame that is printed where there is no terminal.
const SIZE: (u16, u16) = (120, 40);

#[derive(clap::Args, Debug)]
pub struct Top {
    /// Print one frame and end; needs no terminal.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    at: At,
}

impl Top {
    pub fn show(&self, out: &mut dyn Write) -> Result<(), ClientError> {
        let first = look(&self.at)?;
        if self.once {
            let size = match io::stdout().is_terminal() {
                true => terminal::size().unwrap_or(SIZE),
                false => SIZE,
            };
            // Whoever reads may have gone.
            let _ = out.write_all(once(first, size)?.as_bytes());
            return Ok(());
        }
        if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            let missing = "standard input and output are no terminal";
            return Err(ClientError::Terminal(io::Error::other(missing)));
        }
        let mut terminal = ratatui::try_init().map_err(ClientError::Terminal)?;
        let done = follow(&mut terminal, &self.at, first);
        let restored = ratatui::try_restore();
        done.and(restored).map_err(ClientError::Terminal)
    }
}

/// Until somebody ends it. The agent is asked by a thread of its own: one that does not answer must not keep the keyboard.
fn follow(terminal: &mut ratatui::DefaultTerminal, at: &At, first: Shown) -> Result<(), io::Error> {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let (sender, looks) = mpsc::channel();
    let asked = at.clone();
    std::thread::Builder::new()
        .name("top".into())
        .spawn(move || {
            loop {
                std::thread::sleep(EVERY);
                if sender.send(look(&asked)).is_err() {
                    return;
                }
            }
        })?;
    let mut shown = first;
    loop {
        shown.plain = plain;
        terminal.draw(|frame| draw(frame, &shown))?;
        if event::poll(KEYS)? && ends(&event::read()?) {
            return Ok(());
        }
        for looked in looks.try_iter() {
            match looked {
                Ok(next) => shown = next,
                Err(error) => shown.problem = Some(error.to_string()),
            }
        }
    }
}

fn ends(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => true,
        KeyCode::Char('c') => key.modifiers.contains(KeyModifiers::CONTROL),
        _ => false,
    }
}

/// The documents that every other command reads too.
fn look(at: &At) -> Result<Shown, ClientError> {
    Ok(Shown {
        status: ask(at, "/status")?,
        skew: ask(at, "/skew")?,
        history: ask(at, "/history?since=24h")?,
        ..Shown::default()
    })
}

fn ask<T: serde::de::DeserializeOwned>(at: &At, target: &str) -> Result<T, ClientError> {
    parse(&get(at, target)?.success()?)
}

fn once(mut shown: Shown, (width, height): (u16, u16)) -> Result<String, ClientError> {
    shown.plain = true;
    // Drawing into memory does not fail.
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    let Ok(_) = terminal.draw(|frame| draw(frame, &shown));
    Ok(text(terminal.backend().buffer()))
}

/// The characters of a frame, without blanks at the ends of lines.
fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width).max(1);
    let mut out = String::new();
    for row in buffer.content().chunks(width) {
        let line: String = row.iter().map(|cell| cell.symbol()).collect();
        out += line.trim_end();
        out.push('\n');
    }
    out
}
