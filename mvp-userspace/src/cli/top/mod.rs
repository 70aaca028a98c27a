//! `mvp top`: one agent, or those of all nodes, live in a terminal.

mod cluster;
mod draw;

use std::io::{self, IsTerminal as _, Write};
use std::sync::mpsc;
use std::time::Duration;

use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::crossterm::terminal;
use ratatui::style::{Color, Modifier, Style};
use ratatui::{Frame, Terminal};

use super::client::ClientError;
use super::command::At;
use super::fleet::Fleet;
use super::talk::{get, parse};
use cluster::Nodes;
use draw::Shown;

/// The time between two queries of an agent.
const EVERY: Duration = Duration::from_secs(1);
/// The same if each query runs a program and is a request to kube-apiserver.
const SELDOM: Duration = Duration::from_secs(5);
/// The time between two looks at the keyboard.
const KEYS: Duration = Duration::from_millis(100);
/// The size of a frame that is printed where there is no terminal: columns and lines.
const SIZE: (u16, u16) = (120, 40);

#[derive(clap::Args, Debug)]
pub(super) struct Top {
    /// Print one frame and end; needs no terminal.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    fleet: Fleet,
    #[command(flatten)]
    at: At,
}

/// What is shown.
trait Screen: Send + 'static {
    fn draw(&self, frame: &mut Frame<'_>);
    /// True: what is bad is only bold, without a colour, because `NO_COLOR` is set or there is no terminal.
    fn plain(&mut self, plain: bool);
    /// Why it is not up to date.
    fn problem(&mut self, problem: String);
}

impl Top {
    pub(super) fn show(&self, out: &mut dyn Write) -> Result<(), ClientError> {
        if self.fleet.is_asked() {
            let every = if self.fleet.cluster { SELDOM } else { EVERY };
            let mut nodes = Nodes::new(self.fleet.clone());
            return self.run(out, every, move || nodes.look());
        }
        let at = self.at.clone();
        self.run(out, EVERY, move || look(&at))
    }

    fn run<S: Screen>(
        &self,
        out: &mut dyn Write,
        every: Duration,
        mut look: impl FnMut() -> Result<S, ClientError> + Send + 'static,
    ) -> Result<(), ClientError> {
        let first = look()?;
        if self.once {
            let size = match io::stdout().is_terminal() {
                true => terminal::size().unwrap_or(SIZE),
                false => SIZE,
            };
            // The reader may have closed its end.
            let _ = out.write_all(once(first, size).as_bytes());
            return Ok(());
        }
        if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            let missing = "standard input and output are no terminal";
            return Err(ClientError::Terminal(io::Error::other(missing)));
        }
        let mut terminal = ratatui::try_init().map_err(ClientError::Terminal)?;
        let done = follow(&mut terminal, first, every, look);
        let restored = ratatui::try_restore();
        done.and(restored).map_err(ClientError::Terminal)
    }
}

/// Runs until the user ends it. A thread of its own queries the agents: one that does not answer must not block the keyboard.
fn follow<S: Screen>(
    terminal: &mut ratatui::DefaultTerminal,
    first: S,
    every: Duration,
    mut look: impl FnMut() -> Result<S, ClientError> + Send + 'static,
) -> Result<(), io::Error> {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let (sender, looks) = mpsc::channel();
    std::thread::Builder::new()
        .name("top".into())
        .spawn(move || {
            loop {
                std::thread::sleep(every);
                if sender.send(look()).is_err() {
                    return;
                }
            }
        })?;
    let mut shown = first;
    loop {
        shown.plain(plain);
        terminal.draw(|frame| shown.draw(frame))?;
        if event::poll(KEYS)? && ends(&event::read()?) {
            return Ok(());
        }
        for looked in looks.try_iter() {
            match looked {
                Ok(next) => shown = next,
                Err(error) => shown.problem(error.to_string()),
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

/// Reads the documents that the other commands read too.
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

fn once(mut shown: impl Screen, size: (u16, u16)) -> String {
    shown.plain(true);
    text(&frame(&shown, size))
}

/// One frame. Drawing into memory does not fail.
fn frame(shown: &impl Screen, (width, height): (u16, u16)) -> Buffer {
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    let Ok(_) = terminal.draw(|frame| shown.draw(frame));
    terminal.backend().buffer().clone()
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

/// The style of what is bad.
fn bad(plain: bool) -> Style {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    match plain {
        true => bold,
        false => bold.fg(Color::Red),
    }
}

/// A rate per second.
fn rate(value: f64) -> String {
    match value >= 10.0 {
        true => format!("{value:.0}"),
        false => format!("{value:.1}"),
    }
}
