//! The log on standard error, written by one thread behind a bounded queue: a host that never reads
//! standard error must not stop a call. Lines that do not fit into the queue are lost.

use std::{
    io::{self, ErrorKind, Write},
    mem,
    sync::Arc,
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::backups::AUDIT_TARGET;

/// About two thousand lines.
const MAX_QUEUED_BYTES: usize = 512 << 10;
/// Between two writes, so that one write takes many lines: a write for each line halves the calls a
/// second.
const WRITE_INTERVAL: Duration = Duration::from_millis(2);
/// Before a full pipe is written to again.
const RETRY_PAUSE: Duration = Duration::from_millis(10);
/// How long the end of the process waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How a line of the log is formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Installs the global subscriber. Dropping the returned guard flushes the queue.
///
/// # Errors
///
/// When the thread cannot be started.
pub fn init_log(filter: Targets, format: LogFormat) -> io::Result<Flush> {
    let queue = Arc::new(Queue::default());
    let writer = Arc::clone(&queue);
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || writer.run(io::stderr()))?;
    // No filter silences the audit trail.
    let filter = filter.with_target(AUDIT_TARGET, LevelFilter::INFO);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(queue.clone())
        .with_ansi(false);
    let layer = match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().boxed(),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .init();
    // The default hook writes to standard error itself, and would block there.
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    Ok(Flush(queue))
}

/// The queued lines.
#[derive(Default)]
struct Queue {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Default)]
struct Lines {
    queued: Vec<u8>,
    /// Whether lines that left the queue are being written.
    writing: bool,
}

impl Queue {
    fn run(&self, mut output: impl Write) {
        let mut batch = Vec::new();
        loop {
            {
                let mut lines = self.lines.lock();
                self.changed
                    .wait_while(&mut lines, |lines| lines.queued.is_empty());
                mem::swap(&mut lines.queued, &mut batch);
                lines.writing = true;
            }
            write_all(&mut output, &batch);
            batch.clear();
            self.lines.lock().writing = false;
            self.changed.notify_all();
            thread::sleep(WRITE_INTERVAL);
        }
    }
}

/// Writes as much as standard error takes. Some hosts make it a non-blocking pipe.
fn write_all(output: &mut impl Write, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY_PAUSE),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Standard error is closed.
            Err(_) => return,
        }
    }
}

impl Write for &Queue {
    /// Queues one line, or drops it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut lines = self.lines.lock();
        if lines.queued.len() + line.len() <= MAX_QUEUED_BYTES {
            lines.queued.extend_from_slice(line);
            self.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits for the queued lines when it is dropped, up to a second.
pub struct Flush(Arc<Queue>);

impl Drop for Flush {
    fn drop(&mut self) {
        let Queue { lines, changed } = &*self.0;
        let is_open = |lines: &mut Lines| !lines.queued.is_empty() || lines.writing;
        changed.wait_while_for(&mut lines.lock(), is_open, FLUSH_TIMEOUT);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A pipe that accepts a write only when the test reads.
    struct UnreadPipe(mpsc::SyncSender<Vec<u8>>);

    impl Write for UnreadPipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let sent = self.0.send(bytes.to_vec());
            sent.map(|()| bytes.len()).map_err(io::Error::other)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_flood_into_an_unread_pipe_is_cut() {
        let (pipe, reader) = mpsc::sync_channel(0);
        let queue = Arc::new(Queue::default());
        let writer = Arc::clone(&queue);
        thread::spawn(move || writer.run(UnreadPipe(pipe)));
        let log = |text: &str| (&*queue).write_all(text.as_bytes()).unwrap();
        log("first\n");
        while !queue.lines.lock().writing {
            thread::yield_now();
        }
        let line = "x".repeat(1024);
        (0..1000).for_each(|_| log(&line));
        assert_eq!(reader.recv().unwrap(), b"first\n");
        assert_eq!(reader.recv().unwrap().len(), MAX_QUEUED_BYTES);
        log("last\n");
        assert_eq!(reader.recv().unwrap(), b"last\n");
        drop(Flush(queue));
        assert!(reader.try_recv().is_err(), "the queue is empty");
    }
}
