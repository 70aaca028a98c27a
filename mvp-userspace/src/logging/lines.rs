//! Where log lines go: to standard error, access lines several at a time. A `write` for each request would cost as much as a fifth of
//! what the agent does for it.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

/// The target of access lines.
const ACCESS: &str = "access";
/// An access line is written so long after it was made, at the latest; sooner if another line follows it or many come.
const LATEST: Duration = Duration::from_millis(100);
/// Bytes that are worth a `write`.
const ENOUGH: usize = 32 << 10;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Lines(Arc<Inner>);

struct Inner {
    /// Access lines that are not written yet, whole ones. Whoever writes holds it, so that lines stay in order.
    waiting: Mutex<Vec<u8>>,
    /// Something waits.
    news: Condvar,
    out: Box<Out>,
}

/// Writes whole lines.
type Out = dyn Fn(&[u8]) -> io::Result<()> + Send + Sync;

/// Takes what one event is formatted to.
pub(super) struct Line<'a> {
    lines: &'a Inner,
    access: bool,
}

impl Lines {
    /// To standard error, with a thread that writes what has waited long enough.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn to_stderr() -> io::Result<Self> {
        let lines = Self::to(Box::new(|text| io::stderr().write_all(text)));
        let inner = Arc::clone(&lines.0);
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || inner.write_late())?;
        Ok(lines)
    }

    fn to(out: Box<Out>) -> Self {
        Self(Arc::new(Inner {
            waiting: Mutex::new(Vec::with_capacity(2 * ENOUGH)),
            news: Condvar::new(),
            out,
        }))
    }

    /// Writes what waits; for the end of the process.
    pub(super) fn flush(&self) {
        let mut waiting = self.0.lock();
        // Nobody could be told of an error.
        let _ = self.0.write(&mut waiting);
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            lines: &self.0,
            access: false,
        }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Line<'a> {
        Line {
            lines: &self.0,
            access: event.target() == ACCESS,
        }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut waiting = self.lines.lock();
        let first = waiting.is_empty();
        waiting.extend_from_slice(text);
        if !self.access || waiting.len() >= ENOUGH {
            self.lines.write(&mut waiting)?;
        } else if first {
            self.lines.news.notify_one();
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Inner {
    /// A line that cannot be written is lost, as it would be without waiting.
    fn write(&self, waiting: &mut Vec<u8>) -> io::Result<()> {
        let done = match waiting.is_empty() {
            true => Ok(()),
            false => (self.out)(waiting),
        };
        waiting.clear();
        done
    }

    fn write_late(&self) {
        loop {
            let waiting = self
                .news
                .wait_while(self.lock(), |waiting| waiting.is_empty());
            drop(waiting.unwrap_or_else(PoisonError::into_inner));
            std::thread::sleep(LATEST);
            let mut waiting = self.lock();
            // As in `Lines::flush`.
            let _ = self.write(&mut waiting);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was written, each write by itself.
    fn lines() -> (Lines, Arc<Mutex<Vec<String>>>) {
        let written = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&written);
        let lines = Lines::to(Box::new(move |text| {
            let text = String::from_utf8_lossy(text).into_owned();
            kept.lock().unwrap().push(text);
            Ok(())
        }));
        (lines, written)
    }

    fn say(lines: &Lines, access: bool, text: &str) {
        let lines = &lines.0;
        Line { lines, access }.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn access_lines_wait_for_another_line_and_keep_their_place() {
        let (lines, written) = lines();
        say(&lines, true, "GET a\n");
        say(&lines, true, "GET b\n");
        assert_eq!(written.lock().unwrap().len(), 0);
        say(&lines, false, "armed\n");
        assert_eq!(*written.lock().unwrap(), ["GET a\nGET b\narmed\n"]);
        say(&lines, true, "GET c\n");
        lines.flush();
        lines.flush();
        assert_eq!(written.lock().unwrap()[1..], ["GET c\n"]);
    }

    #[test]
    fn many_lines_do_not_wait() {
        let (lines, written) = lines();
        let line = format!("{}\n", "x".repeat(99));
        for _ in 0..2 * ENOUGH / line.len() {
            say(&lines, true, &line);
        }
        let written = written.lock().unwrap();
        assert!(written[0].len() >= ENOUGH && written[0].len() < ENOUGH + line.len());
        assert!(written.iter().all(|text| text.ends_with('\n')));
    }
}
