//! Logs: `tracing` events to lines on stderr, without ever making the thread that logs wait.
//!
//! A line is formatted where it is logged, then offered to a bounded queue that one thread empties into stderr. When
//! stderr stalls the queue fills, and further lines are dropped and counted: a shard that logs never waits for a
//! terminal. The writing thread says how many were dropped as soon as it can write again, so the gap stands in the log
//! where it happened. Policy at the cap: drop the newest, counted.

use std::io::{self, Write};
use std::sync::{Arc, OnceLock};

use tracing::Dispatch;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use super::config::Given;
use super::problem::{Problem, Source, Wrong};
use super::value::LogFormat;

/// Lines that wait for stderr: some seconds of a busy log. The broker's own lines are below 512 bytes, so this is about
/// 2 MiB at worst.
const QUEUED_LINES_MAX: usize = 4_096;

/// The running log. Dropping it writes out what is queued, for at most about a second.
pub struct Logs {
    _flush_at_end: WorkerGuard,
    dropped: ErrorCounter,
}

impl Logs {
    /// How many lines were dropped so far because stderr was too slow.
    pub fn dropped_lines(&self) -> usize {
        self.dropped.dropped_lines()
    }
}

/// Reads the filter that `RUST_LOG` gave; without one it is `info`.
pub fn read_filter(given: Option<Result<Given, Problem>>) -> Result<EnvFilter, Problem> {
    let Some(given) = given.transpose()? else {
        return Ok(EnvFilter::new("info"));
    };
    EnvFilter::try_new(&given.text).map_err(|error| Problem {
        source: Source::Env("RUST_LOG".to_string()),
        wrong: Wrong::Filter(error.to_string()),
    })
}

/// Sends every log line of this process, of `tracing` as of `log`, to stderr. To be called once.
pub fn start(format: LogFormat, filter: EnvFilter) -> Result<Logs, TryInitError> {
    let (writer, logs) = queue_to(io::stderr(), format, QUEUED_LINES_MAX);
    dispatch(writer, format, filter).try_init()?;
    Ok(logs)
}

fn dispatch(writer: NonBlocking, format: LogFormat, filter: EnvFilter) -> Dispatch {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    match format {
        LogFormat::Text => builder.with_ansi(false).into(),
        LogFormat::Json => builder.json().flatten_event(true).into(),
    }
}

fn queue_to<W>(sink: W, format: LogFormat, lines_max: usize) -> (NonBlocking, Logs)
where
    W: Write + Send + 'static,
{
    let counter = Arc::new(OnceLock::new());
    let reporting = Reporting {
        sink,
        format,
        counter: counter.clone(),
        reported: 0,
    };
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(lines_max)
        .thread_name("sapwood-log")
        .finish(reporting);
    let dropped = counter.get_or_init(|| writer.error_counter()).clone();
    (
        writer,
        Logs {
            _flush_at_end: guard,
            dropped,
        },
    )
}

/// The sink as the writing thread sees it: each flush, which ends a batch, also reports what was dropped meanwhile.
struct Reporting<W> {
    sink: W,
    format: LogFormat,
    counter: Arc<OnceLock<ErrorCounter>>,
    reported: usize,
}

impl<W: Write> Reporting<W> {
    fn report_dropped(&mut self) -> io::Result<()> {
        let dropped = self.counter.get().map_or(0, ErrorCounter::dropped_lines);
        if dropped == self.reported {
            return Ok(());
        }
        let line = dropped_line(self.format, dropped - self.reported, dropped);
        self.reported = dropped;
        self.sink.write_all(line.as_bytes())
    }
}

impl<W: Write> Write for Reporting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.report_dropped()?;
        self.sink.flush()
    }
}

fn dropped_line(format: LogFormat, dropped: usize, dropped_total: usize) -> String {
    let mut time = String::new();
    // A clock that cannot be formatted leaves the line without a time, which is better than no line.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    let target = module_path!();
    let message = "log lines were dropped, because stderr took them too slowly";
    match format {
        LogFormat::Text => {
            format!(
                "{time}  WARN {target}: {message} dropped={dropped} dropped_total={dropped_total}\n"
            )
        }
        LogFormat::Json => {
            let line = serde_json::json!({
                "timestamp": time, "level": "WARN", "message": message,
                "dropped": dropped, "dropped_total": dropped_total, "target": target,
            });
            format!("{line}\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Mutex, PoisonError};

    /// A sink that says when it is first written to, then stays stuck until it is told to go on.
    struct Stuck {
        entered: Option<Sender<()>>,
        go_on: Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(entered) = self.entered.take() {
                entered.send(()).unwrap();
                self.go_on.recv().unwrap();
            }
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn stuck_writer_drops_and_counts(format: LogFormat) -> String {
        let (entered, is_stuck) = channel();
        let (release, go_on) = channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let sink = Stuck {
            entered: Some(entered),
            go_on,
            written: written.clone(),
        };
        let (writer, logs) = queue_to(sink, format, 8);
        let dispatch = dispatch(writer, format, EnvFilter::new("info"));
        tracing::dispatcher::with_default(&dispatch, || {
            tracing::info!("first");
            is_stuck.recv().unwrap();
            // Were logging to wait for the writer, this loop would never end: nothing releases it before.
            for number in 0..1_000 {
                tracing::info!(number, "while stuck");
            }
        });
        assert_eq!(logs.dropped_lines(), 1_000 - 8);
        release.send(()).unwrap();
        drop(logs);
        let written = written.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8(written.clone()).unwrap()
    }

    #[test]
    fn stuck_stderr_never_blocks_and_the_dropped_are_reported() {
        let text = stuck_writer_drops_and_counts(LogFormat::Text);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 1 + 8 + 1, "{text}");
        assert!(lines[0].ends_with("first"), "{text}");
        assert!(lines[8].ends_with("number=7"), "{text}");
        assert!(
            lines[9].ends_with("dropped=992 dropped_total=992"),
            "{text}"
        );
    }

    #[test]
    fn json_lines_are_objects_also_when_lines_were_dropped() {
        let text = stuck_writer_drops_and_counts(LogFormat::Json);
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 1 + 8 + 1, "{text}");
        assert_eq!(lines[1]["number"], 0);
        assert_eq!(lines[9]["dropped"], 992);
    }

    #[test]
    fn filter_is_info_unless_told_and_a_wrong_one_is_refused() {
        assert_eq!(read_filter(None).unwrap().to_string(), "info");
        let given = |text: &str| Given {
            source: Source::Env("RUST_LOG".to_string()),
            text: text.to_string(),
            directory: None,
        };
        assert!(read_filter(Some(Ok(given("sapwood=debug")))).is_ok());
        let problem = read_filter(Some(Ok(given("sapwood=loud")))).unwrap_err();
        assert!(
            problem
                .to_string()
                .starts_with("RUST_LOG in the environment: "),
            "{problem}"
        );
    }
}
