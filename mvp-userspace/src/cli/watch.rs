//! `--watch`: the same answer again and again.

use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use super::client::ClientError;

/// The time between two queries. The agent itself polls its servers once per second.
const EVERY: Duration = Duration::from_secs(1);
/// Home, then clear to the end (ECMA-48): the terminal's lines of before stay where they are.
const CLEAR: &[u8] = b"\x1b[H\x1b[2J";

/// Shows the result of `look`: once, or until the reader closes its end. If the first call fails, that is an error. If a later
/// one fails, the failure is shown and the query repeated, since people may be waiting for the agent to start again.
///
/// # Errors
/// As `look`, the first time.
pub(super) fn show(
    watch: bool,
    out: &mut dyn Write,
    look: &mut dyn FnMut(&mut dyn Write) -> Result<(), ClientError>,
) -> Result<(), ClientError> {
    if !watch {
        return look(out);
    }
    repeat(io::stdout().is_terminal(), EVERY, out, look)
}

fn repeat(
    terminal: bool,
    every: Duration,
    out: &mut dyn Write,
    look: &mut dyn FnMut(&mut dyn Write) -> Result<(), ClientError>,
) -> Result<(), ClientError> {
    let mut last = Vec::new();
    look(&mut last)?;
    let mut there = write(out, terminal, None, &last);
    while there {
        std::thread::sleep(every);
        let mut next = Vec::new();
        if let Err(error) = look(&mut next) {
            next = format!("mvp: {error}\n").into_bytes();
        }
        if next != last {
            there = write(out, terminal, Some(&last), &next);
            last = next;
        }
    }
    Ok(())
}

/// Whether the reader is still there. Without a terminal, an empty line separates the answers.
fn write(out: &mut dyn Write, terminal: bool, before: Option<&[u8]>, text: &[u8]) -> bool {
    let divider: &[u8] = match (terminal, before) {
        (true, _) => CLEAR,
        (false, Some(_)) => b"\n",
        (false, None) => b"",
    };
    let written = out.write_all(divider).and_then(|()| out.write_all(text));
    written.and_then(|()| out.flush()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that closes its end after so many writes.
    struct Reader {
        heard: Vec<u8>,
        flushes: usize,
    }

    impl Write for Reader {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.heard.extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            self.flushes = self.flushes.saturating_sub(1);
            match self.flushes {
                0 => Err(io::ErrorKind::BrokenPipe.into()),
                _ => Ok(()),
            }
        }
    }

    #[test]
    fn what_changes_is_shown_until_the_reader_goes() {
        let mut answers = vec![Ok("a\n"), Ok("a\n"), Err("gone"), Ok("b\n")].into_iter();
        let mut out = Reader {
            heard: Vec::new(),
            flushes: 3,
        };
        let shown = repeat(false, Duration::ZERO, &mut out, &mut |out| match answers
            .next()
            .unwrap_or(Ok("too often\n"))
        {
            Ok(text) => {
                out.write_all(text.as_bytes()).unwrap();
                Ok(())
            }
            Err(problem) => Err(ClientError::Unexpected(problem.into())),
        });
        assert!(shown.is_ok());
        let heard = String::from_utf8(out.heard).unwrap();
        assert!(heard.starts_with("a\n\nmvp: "), "{heard}");
        assert!(heard.ends_with("gone\n\nb\n"), "{heard}");
    }

    #[test]
    fn the_first_failure_is_the_commands() {
        let fails = &mut |_: &mut dyn Write| Err(ClientError::Unexpected("no".into()));
        assert!(repeat(false, Duration::ZERO, &mut Vec::new(), fails).is_err());
    }
}
