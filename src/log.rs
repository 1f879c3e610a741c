//! The log, on standard error. Nobody waits for it: a host may never read that pipe, and a call must not
//! hang on a log. What the pipe does not take waits here, and where too much waits, lines are lost.
//!
//! The audit trail waits apart from the other lines, of which anybody can cause as many as they like.

use std::{
    io::{self, ErrorKind, Write},
    mem,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tracing::Metadata;
use tracing_subscriber::{
    Layer, filter::LevelFilter, fmt::MakeWriter, layer::SubscriberExt, util::SubscriberInitExt,
};

use crate::{
    backups::AUDIT_TARGET,
    config::{Log, LogFormat},
};

/// Bytes of lines that may wait, of either kind: about a thousand lines.
const MOST: usize = 256 << 10;

/// When to try again to write to a pipe that is full.
const AGAIN: Duration = Duration::from_millis(10);

/// What the end of the process waits for the last lines.
const PATIENCE: Duration = Duration::from_secs(1);

/// Logs from now on. What still waits when this gives is dropped is written then.
pub(crate) fn start(log: &Log) -> io::Result<Flush> {
    let lines = Lines::default();
    let writer = lines.clone();
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || writer.write_out(io::stderr()))?;
    let filter = log.filter.clone();
    let filter = filter.with_target(AUDIT_TARGET, LevelFilter::INFO);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(lines.clone())
        .with_ansi(false);
    let layer = match log.format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().boxed(),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .init();
    // The default hook writes to standard error itself, and would wait there.
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    Ok(Flush(lines))
}

/// The lines that wait. Clones share them.
#[derive(Clone, Default)]
struct Lines(Arc<(Mutex<Waiting>, Condvar)>);

#[derive(Default)]
struct Waiting {
    audit: Vec<u8>,
    others: Vec<u8>,
    /// Whether some that were taken are being written.
    writing: bool,
}

impl Waiting {
    fn is_over(&self) -> bool {
        self.audit.is_empty() && self.others.is_empty() && !self.writing
    }
}

impl Lines {
    /// Writes lines as they come, for ever.
    fn write_out(&self, mut to: impl Write) {
        let (waiting, changed) = &*self.0;
        let mut lines = Vec::new();
        let mut waiting = waiting.lock();
        loop {
            let next = if waiting.audit.is_empty() {
                &mut waiting.others
            } else {
                &mut waiting.audit
            };
            mem::swap(next, &mut lines);
            waiting.writing = !lines.is_empty();
            if waiting.writing {
                MutexGuard::unlocked(&mut waiting, || write_all(&mut to, &lines));
                lines.clear();
            } else {
                changed.notify_all();
                changed.wait(&mut waiting);
            }
        }
    }
}

/// Where standard error is closed, nobody is left to be told. A host may also have made a pipe of it
/// that says when it is full instead of waiting.
fn write_all(to: &mut impl Write, mut lines: &[u8]) {
    while !lines.is_empty() {
        match to.write(lines) {
            Ok(written) => lines = &lines[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(AGAIN),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Takes one line.
struct Line<'a> {
    lines: &'a Lines,
    is_audit: bool,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            lines: self,
            is_audit: false,
        }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Line<'a> {
        Line {
            lines: self,
            is_audit: event.target() == AUDIT_TARGET,
        }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let (waiting, changed) = &*self.lines.0;
        let mut waiting = waiting.lock();
        let queue = if self.is_audit {
            &mut waiting.audit
        } else {
            &mut waiting.others
        };
        if queue.len() + line.len() <= MOST {
            queue.extend_from_slice(line);
            changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits for the last lines when it is dropped, but not for a pipe that nobody reads.
pub(crate) struct Flush(Lines);

impl Drop for Flush {
    fn drop(&mut self) {
        let (waiting, changed) = &*self.0.0;
        let until = Instant::now() + PATIENCE;
        let mut waiting = waiting.lock();
        while !waiting.is_over() && !changed.wait_until(&mut waiting, until).timed_out() {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A pipe that takes what is written only once it is asked for.
    struct Unread(mpsc::SyncSender<Vec<u8>>);

    impl Write for Unread {
        fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
            let sent = self.0.send(lines.to_vec());
            sent.map(|()| lines.len()).map_err(io::Error::other)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_flood_that_nobody_reads_is_cut_and_the_audit_trail_goes_first() {
        let (pipe, reader) = mpsc::sync_channel(0);
        let lines = Lines::default();
        let writer = lines.clone();
        thread::spawn(move || writer.write_out(Unread(pipe)));
        let write = |is_audit, text: &str| {
            let lines = &lines;
            let mut line = Line { lines, is_audit };
            line.write_all(text.as_bytes()).unwrap();
        };
        write(false, "first\n");
        // It is on its way, and stalls.
        while !lines.0.0.lock().others.is_empty() {
            thread::yield_now();
        }
        let flood = "x".repeat(1024);
        (0..1000).for_each(|_| write(false, &flood));
        write(true, "removed\n");
        assert_eq!(reader.recv().unwrap(), b"first\n");
        assert_eq!(reader.recv().unwrap(), b"removed\n");
        assert_eq!(reader.recv().unwrap().len(), MOST);
        drop(Flush(lines));
        assert!(reader.try_recv().is_err(), "nothing waits any more");
    }
}
