//! One run of one workload against one server that has just been started.
//!
//! Owns the course of a run: open, warm up, measure, stop, and wait until every delivery and answer
//! came. A run in which one is missing, doubled, wrong or out of order has no figures.

use std::io::Write;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::dialect::{Asked, Dialect, inbox, topic};
use crate::generator::{Generator, Link, Sender, Trouble, Writing, open};
use crate::record::Latency;
use crate::script::{Cycle, Expect, Mixed, Script, Share, payload};
use crate::servers::{Server, own_cpu};

/// Without any progress for so long a run is given up.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// How long the generator waits for what is late; what comes in it after the last delivery is one too many.
const LINGER: Duration = Duration::from_millis(20);

/// Largest latency that is told from larger ones, in nanoseconds.
const LATENCY_MAX: u64 = 60_000_000_000;

/// NATS's number of the first subscription: all have equally many digits.
pub const SID: usize = 10_000;

/// How long a run takes.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Not measured: connections, caches and adaptive rules settle.
    pub warm_up: Duration,
    /// Measured.
    pub measured: Duration,
}

/// What was measured.
#[derive(Debug)]
pub struct Figures {
    /// In seconds.
    pub seconds: f64,
    /// Deliveries, or answered operations.
    pub deliveries: u64,
    /// CPU-seconds.
    pub broker_cpu: f64,
    /// CPU-seconds.
    pub generator_cpu: f64,
    /// For closed loops and open ones.
    pub latency: Option<Latency>,
    /// For idle connections: how many.
    pub connections: u64,
}

/// Who publishes what, and who hears it.
#[derive(Clone, Debug)]
pub struct Throughput {
    /// One publisher each.
    pub scripts: Vec<Script>,
    /// One subscriber each: its topic (`None`: all) and how it asks for it.
    pub subscribers: Vec<(Option<usize>, Asked)>,
    /// Deliveries that each message makes.
    pub fan_out: u64,
    /// How publishers write.
    pub writing: Writing,
    /// Messages that may be on their way.
    pub window: u64,
}

/// CPU times and counts at one moment.
struct Mark {
    at: Instant,
    broker: Duration,
    generator: Duration,
    count: u64,
}

impl Mark {
    fn now(server: &Server, count: u64) -> Result<Mark, Trouble> {
        Ok(Mark {
            at: Instant::now(),
            broker: server.cpu()?,
            generator: own_cpu()?,
            count,
        })
    }

    fn since(&self, before: &Mark, latency: Option<Latency>) -> Figures {
        Figures {
            seconds: (self.at - before.at).as_secs_f64(),
            deliveries: self.count - before.count,
            broker_cpu: (self.broker - before.broker).as_secs_f64(),
            generator_cpu: (self.generator - before.generator).as_secs_f64(),
            latency,
            connections: 0,
        }
    }
}

fn histogram() -> Histogram<u64> {
    // invariant: the bounds are constants that the crate accepts.
    Histogram::new_with_bounds(1, LATENCY_MAX, 3).expect("the bounds are valid")
}

fn latency_of(histogram: &Histogram<u64>) -> Latency {
    let at = |percentile: f64| histogram.value_at_percentile(percentile);
    let shown = [
        0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9, 99.95, 99.99, 100.0,
    ];
    Latency {
        p50: at(50.0),
        p90: at(90.0),
        p99: at(99.0),
        p999: at(99.9),
        max: histogram.max(),
        curve: shown
            .iter()
            .map(|&percentile| (percentile, at(percentile)))
            .collect(),
    }
}

fn note(histogram: &mut Histogram<u64>, latency: Duration) {
    histogram.saturating_record(latency.as_nanos() as u64);
}

/// What a subscriber of `number` must read of these scripts.
fn expected(
    scripts: &[Script],
    number: Option<usize>,
    asked: &Asked,
    sid: usize,
    dialect: Dialect,
) -> Expect {
    let meets = |script: &&Script| number.is_none_or(|number| script.topics.contains(&number));
    let heard: Vec<&Script> = scripts.iter().filter(meets).collect();
    let size = heard[0].size;
    let frame = dialect
        .delivery(&topic(0), &payload(0, 0, size), asked, sid)
        .len();
    let mut lists: Vec<Vec<u8>> = heard
        .iter()
        .map(|script| script.received(dialect, number, asked, sid))
        .collect();
    if *asked == Asked::Group {
        return Expect::Share(Share::new(lists.swap_remove(0), frame, size, dialect));
    }
    if lists.len() == 1 {
        let list = lists.swap_remove(0);
        let frames = list.len() / frame;
        return Expect::Cycle(Cycle::new(list, frames));
    }
    Expect::Mixed(Mixed::new(lists, heard[0].publisher, frame, size, dialect))
}

fn add_subscribers(
    generator: &mut Generator,
    server: &Server,
    dialect: Dialect,
    scripts: &[Script],
    subscribers: &[(Option<usize>, Asked)],
    counts: bool,
) -> Result<(), Trouble> {
    for (index, (number, asked)) in subscribers.iter().enumerate() {
        let sid = SID + index;
        let wanted = dialect.subscribe(&topic(number.unwrap_or(0)), asked, sid);
        let stream = open(server.address, dialect, &wanted)?;
        generator.add(
            stream,
            None,
            Some(expected(scripts, *number, asked, sid, dialect)),
            counts,
        )?;
    }
    Ok(())
}

fn add_publisher(
    generator: &mut Generator,
    server: &Server,
    dialect: Dialect,
    script: &Script,
    writing: Writing,
    receivers: u64,
) -> Result<(), Trouble> {
    let mut stream = open(server.address, dialect, b"")?;
    let only = topic(script.topics[0]);
    let is_mixed = script
        .topics
        .iter()
        .any(|number| *number != script.topics[0]);
    stream.write_all(&dialect.announce_publisher((!is_mixed).then_some(&only)))?;
    let sender = Sender::new(script.sent(dialect), script.topics.len(), writing);
    let answer = dialect.publish_answer(receivers as usize);
    let expect = (!answer.is_empty()).then(|| Expect::Cycle(Cycle::of_frame(&answer)));
    generator.add(stream, Some(sender), expect, false)?;
    Ok(())
}

/// Sends and receives until then.
pub fn pump(generator: &mut Generator, window: u64, until: Instant) -> Result<(), Trouble> {
    while Instant::now() < until {
        let is_going = generator.send(window)?;
        generator.receive(if is_going {
            Duration::ZERO
        } else {
            Duration::from_millis(100)
        })?;
    }
    Ok(())
}

/// Waits until everything that was sent has been delivered and answered, and nothing more comes.
pub fn drain(generator: &mut Generator) -> Result<(), Trouble> {
    let mut progress = (Instant::now(), 0);
    loop {
        generator.finish()?;
        generator.receive(LINGER)?;
        let unanswered = |link: &Link| {
            let sent = link.sender.as_ref().map_or(0, Sender::frames);
            link.expect
                .as_ref()
                .map_or(0, |_| sent.saturating_sub(link.frames))
        };
        let unanswered: u64 = generator.links.iter().map(unanswered).sum();
        if generator.in_flight() == 0 && unanswered == 0 {
            break;
        }
        let done =
            generator.delivered + generator.links.iter().map(|link| link.frames).sum::<u64>();
        if done != progress.1 {
            progress = (Instant::now(), done);
        } else if progress.0.elapsed() > STUCK_AFTER {
            let missing = generator.in_flight();
            return Err(Trouble::Stuck(format!(
                "{missing} deliveries and {unanswered} answers never came"
            )));
        }
    }
    generator.receive(LINGER)?;
    let (sent, delivered) = (generator.sent * generator.fan_out, generator.delivered);
    if sent != delivered {
        return Err(Trouble::Wrong(format!(
            "{delivered} deliveries came, {sent} were due"
        )));
    }
    check_shares(generator)
}

/// Whether the members of a group together got each message once.
fn check_shares(generator: &Generator) -> Result<(), Trouble> {
    let sums: Vec<u64> = generator
        .links
        .iter()
        .filter_map(|link| match &link.expect {
            Some(Expect::Share(share)) => Some(share.sum),
            _ => None,
        })
        .collect();
    let Some(sender) = generator.links.iter().find_map(|link| link.sender.as_ref()) else {
        return Ok(());
    };
    let due = Share::sum_of(sender.frames(), sender.block_frames());
    if !sums.is_empty() && sums.iter().sum::<u64>() != due {
        return Err(Trouble::Wrong(
            "members lost some messages and got others twice".to_string(),
        ));
    }
    Ok(())
}

/// As much as gets through.
pub fn throughput(
    server: &Server,
    dialect: Dialect,
    plan: &Throughput,
    times: Times,
) -> Result<Figures, Trouble> {
    let mut generator = Generator::new(plan.fan_out, dialect.question())?;
    add_subscribers(
        &mut generator,
        server,
        dialect,
        &plan.scripts,
        &plan.subscribers,
        true,
    )?;
    for script in &plan.scripts {
        add_publisher(
            &mut generator,
            server,
            dialect,
            script,
            plan.writing,
            plan.fan_out,
        )?;
    }
    pump(&mut generator, plan.window, Instant::now() + times.warm_up)?;
    let begin = Mark::now(server, generator.delivered)?;
    pump(&mut generator, plan.window, begin.at + times.measured)?;
    let end = Mark::now(server, generator.delivered)?;
    drain(&mut generator)?;
    Ok(end.since(&begin, None))
}

/// A client that sends when its answers have come.
struct Asker {
    requests: Vec<u8>,
    at: usize,
    frame: usize,
    batch: usize,
    missing: u64,
    since: Instant,
}

impl Asker {
    fn new(requests: Vec<u8>, frames: usize, batch: usize) -> Asker {
        let frame = requests.len() / frames;
        let whole = frames / batch * batch * frame;
        Asker {
            requests: requests[..whole].to_vec(),
            at: 0,
            frame,
            batch,
            missing: 0,
            since: Instant::now(),
        }
    }

    /// Takes so many answers; whether they were the last that were missing.
    fn takes_last(&mut self, frames: u64) -> Result<bool, Trouble> {
        let wrong = || Trouble::Wrong("an answer came that nobody asked for".to_string());
        self.missing = self.missing.checked_sub(frames).ok_or_else(wrong)?;
        Ok(frames > 0 && self.missing == 0)
    }

    fn ask(&mut self, stream: &mut impl Write) -> Result<(), Trouble> {
        let end = self.at + self.batch * self.frame;
        self.since = Instant::now();
        self.missing = self.batch as u64;
        // Little enough for the socket's buffer, whose earlier bytes have all been answered.
        stream.write_all(&self.requests[self.at..end])?;
        self.at = end % self.requests.len();
        Ok(())
    }
}

/// Clients of which each waits for its answers.
#[derive(Clone, Copy, Debug)]
pub struct Closed {
    /// How many.
    pub clients: usize,
    /// Publishes that each sends at once.
    pub batch: usize,
    /// Whether one more connection floods another topic meanwhile.
    pub flood: bool,
    /// Bytes of a payload.
    pub size: usize,
}

/// Messages of a flood that may be on their way: enough to keep a shard busy, few enough that the
/// generator sees a closed client's answer soon.
const FLOOD_WINDOW: u64 = 256;

/// Runs askers until all is over; the links before `first` are not askers.
fn ask_all(
    generator: &mut Generator,
    server: &Server,
    askers: &mut [Asker],
    first: usize,
    times: Times,
) -> Result<(Figures, u64), Trouble> {
    let mut latencies = histogram();
    let start = Instant::now();
    let (begin_at, end_at) = (
        start + times.warm_up,
        start + times.warm_up + times.measured,
    );
    for (asker, link) in askers.iter_mut().zip(&mut generator.links[first..]) {
        asker.ask(&mut link.stream)?;
    }
    let (mut done, mut asking) = (0, askers.len());
    let (mut begin, mut end) = (None, None);
    let mut heard = Instant::now();
    while asking > 0 {
        let is_flooding = end.is_none() && generator.send(FLOOD_WINDOW)?;
        let wait = if is_flooding {
            Duration::ZERO
        } else {
            Duration::from_millis(100)
        };
        let before = done;
        generator.receive_with(wait, |link, place, frames| {
            answer_requests(link)?;
            let Some(asker) = place
                .checked_sub(first)
                .and_then(|place| askers.get_mut(place))
            else {
                return Ok(());
            };
            if !asker.takes_last(frames)? {
                return Ok(());
            }
            done += asker.batch as u64;
            if begin.is_some() && end.is_none() {
                note(&mut latencies, asker.since.elapsed());
            }
            if end.is_none() {
                asker.ask(&mut link.stream)
            } else {
                asking -= 1;
                Ok(())
            }
        })?;
        let now = Instant::now();
        if begin.is_none() && now >= begin_at {
            begin = Some(Mark::now(server, done)?);
        } else if end.is_none() && now >= end_at {
            end = Some(Mark::now(server, done)?);
        }
        if done != before {
            heard = now;
        } else if heard.elapsed() > STUCK_AFTER {
            return Err(Trouble::Stuck(format!(
                "{asking} clients wait for answers that do not come"
            )));
        }
    }
    match (begin, end) {
        (Some(begin), Some(end)) => Ok((end.since(&begin, Some(latency_of(&latencies))), done)),
        _ => Err(Trouble::Stuck(
            "the clients ended before the run did".to_string(),
        )),
    }
}

/// Publishers that wait for the answer to each publish, or batch of them.
pub fn closed(
    server: &Server,
    dialect: Dialect,
    plan: Closed,
    times: Times,
) -> Result<Figures, Trouble> {
    let scripts: Vec<Script> = (0..plan.clients)
        .map(|number| Script::on_topic(number, 0, plan.size))
        .collect();
    let cut = |script: &Script| Script {
        topics: vec![0; script.topics.len() / plan.batch * plan.batch],
        ..*script
    };
    let scripts: Vec<Script> = scripts.iter().map(cut).collect();
    let mut generator = Generator::new(1, dialect.question())?;
    add_subscribers(
        &mut generator,
        server,
        dialect,
        &scripts,
        &[(Some(0), Asked::Exact)],
        false,
    )?;
    if plan.flood {
        let flood = Script::on_topic(plan.clients, 1, plan.size);
        let wanted = [(Some(1), Asked::Exact)];
        add_subscribers(
            &mut generator,
            server,
            dialect,
            std::slice::from_ref(&flood),
            &wanted,
            true,
        )?;
        add_publisher(
            &mut generator,
            server,
            dialect,
            &flood,
            Writing::Run(16 * 1024),
            1,
        )?;
    }
    let first = generator.links.len();
    let mut askers = Vec::new();
    for script in &scripts {
        let encode = |place: usize| {
            dialect.publish_answered(&topic(0), &payload(script.publisher, place, plan.size), 1)
        };
        let requests: Vec<u8> = (0..script.topics.len())
            .flat_map(|place| encode(place).0)
            .collect();
        askers.push(Asker::new(requests, script.topics.len(), plan.batch));
        let expect = Expect::Cycle(Cycle::of_frame(&encode(0).1));
        generator.add(
            open(server.address, dialect, b"")?,
            None,
            Some(expect),
            false,
        )?;
    }
    let (figures, done) = ask_all(&mut generator, server, &mut askers, first, times)?;
    wait_for_frames(&mut generator, 0, done)?;
    drain(&mut generator)?;
    Ok(figures)
}

/// Waits until a link has read so many frames, and no more.
fn wait_for_frames(generator: &mut Generator, place: usize, due: u64) -> Result<(), Trouble> {
    let begin = Instant::now();
    while generator.links[place].frames < due && begin.elapsed() < STUCK_AFTER {
        generator.receive(LINGER)?;
    }
    generator.receive(LINGER)?;
    match generator.links[place].frames {
        came if came == due => Ok(()),
        came => Err(Trouble::Stuck(format!(
            "a subscriber got {came} of {due} messages"
        ))),
    }
}

/// Replies that the responder sends, by requester; empty for links that are not the responder.
fn answer_requests(link: &mut Link) -> Result<(), Trouble> {
    if let Some(Expect::Mixed(mixed)) = &mut link.expect
        && let Some(seen) = &mut mixed.seen
        && !seen.is_empty()
    {
        let out: Vec<u8> = seen
            .drain(..)
            .flat_map(|number| link.replies[number].iter().copied())
            .collect();
        link.stream.write_all(&out)?;
    }
    Ok(())
}

/// What makes a frame of an inbox and a payload.
type Encode<'a> = &'a dyn Fn(&[u8], &[u8]) -> Vec<u8>;

/// Requesters that wait for the reply of one responder, which is a client too.
pub fn requests(
    server: &Server,
    dialect: Dialect,
    clients: usize,
    size: usize,
    times: Times,
) -> Result<Figures, Trouble> {
    let scripts: Vec<Script> = (0..clients)
        .map(|number| Script::on_topic(number, 0, size))
        .collect();
    let (service, places) = (topic(0), scripts[0].topics.len());
    let mut generator = Generator::new(1, dialect.question())?;
    let each = |number: usize, encode: Encode<'_>| -> Vec<u8> {
        (0..places)
            .flat_map(|place| encode(&inbox(number), &payload(number, place, size)))
            .collect()
    };
    let lists: Vec<Vec<u8>> = (0..clients)
        .map(|number| {
            each(number, &|reply, payload| {
                dialect.request_delivery(&service, reply, payload, SID)
            })
        })
        .collect();
    let mut mixed = Mixed::new(lists.clone(), 0, lists[0].len() / places, size, dialect);
    mixed.seen = Some(Vec::new());
    let responder = open(
        server.address,
        dialect,
        &dialect.subscribe(&service, &Asked::Exact, SID),
    )?;
    let place = generator.add(responder, None, Some(Expect::Mixed(mixed)), false)?;
    let reply = |number: usize| dialect.reply(&inbox(number), &payload(number, 0, size), SID);
    generator.links[place].replies = (0..clients).map(|number| reply(number).0).collect();
    let mut askers = Vec::new();
    for number in 0..clients {
        let requests = each(number, &|inbox, payload| {
            dialect.request(&service, inbox, payload)
        });
        askers.push(Asker::new(requests, places, 1));
        let stream = open(
            server.address,
            dialect,
            &dialect.subscribe(&inbox(number), &Asked::Exact, SID),
        )?;
        generator.add(
            stream,
            None,
            Some(Expect::Cycle(Cycle::of_frame(&reply(number).1))),
            false,
        )?;
    }
    let (figures, done) = ask_all(&mut generator, server, &mut askers, place + 1, times)?;
    wait_for_frames(&mut generator, place, done)?;
    Ok(figures)
}

/// One publisher and one subscriber at a fixed rate. Latency counts from the moment at which a message
/// was to be sent, whatever kept the generator from sending it.
pub fn latency(
    server: &Server,
    dialect: Dialect,
    rate: u64,
    size: usize,
    times: Times,
) -> Result<Figures, Trouble> {
    let script = Script::on_topic(0, 0, size);
    let mut generator = Generator::new(1, dialect.question())?;
    add_subscribers(
        &mut generator,
        server,
        dialect,
        std::slice::from_ref(&script),
        &[(Some(0), Asked::Exact)],
        true,
    )?;
    add_publisher(
        &mut generator,
        server,
        dialect,
        &script,
        Writing::Single(1),
        1,
    )?;
    let pace = Pace { rate, batch: 1 };
    let mark = |count| Mark::now(server, count);
    let (begin, end, latencies) = paced(&mut generator, pace, times, mark)?;
    Ok(end.since(&begin, Some(latency_of(&latencies))))
}

/// A steady rate.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Messages a second.
    pub rate: u64,
    /// So many of them are due at the same time.
    pub batch: u64,
}

/// Sends at a steady rate while the generator has one sender, and waits until all came: what `mark` says of the
/// deliveries so far when the measured time begins and when it ends, and the latencies of those between.
pub fn paced<T>(
    generator: &mut Generator,
    pace: Pace,
    times: Times,
    mark: impl Fn(u64) -> Result<T, Trouble>,
) -> Result<(T, T, Histogram<u64>), Trouble> {
    let mut latencies = histogram();
    let start = Instant::now() + Duration::from_millis(5);
    let first = generator.sent;
    let batch_of = |message: u64| (message - first) / pace.batch;
    let scheduled = |message: u64| {
        start + Duration::from_nanos(batch_of(message) * pace.batch * 1_000_000_000 / pace.rate)
    };
    let after = |time: Duration| (time.as_secs_f64() * pace.rate as f64) as u64;
    let first_measured = first + after(times.warm_up);
    let messages = first_measured + after(times.measured);
    let mut begin = None;
    let mut progress = (Instant::now(), generator.delivered);
    while generator.delivered < messages {
        // The generator has a CPU of its own and spins, so that waking it is in nobody's latency.
        let due = generator.sent < messages && Instant::now() >= scheduled(generator.sent);
        if due {
            let batch_end = first + (batch_of(generator.sent) + 1) * pace.batch;
            let owed = batch_end.min(messages) - generator.sent;
            generator.send(generator.in_flight() + owed)?;
        }
        // A full socket may have taken a frame in part, which nothing else would complete.
        generator.finish()?;
        let before = generator.delivered;
        generator.receive(Duration::ZERO)?;
        let now = Instant::now();
        for message in before..generator.delivered {
            if message >= first_measured {
                note(
                    &mut latencies,
                    now.saturating_duration_since(scheduled(message)),
                );
            }
        }
        if begin.is_none() && generator.delivered >= first_measured {
            begin = Some(mark(generator.delivered)?);
        }
        if generator.delivered != progress.1 {
            progress = (now, generator.delivered);
        } else if progress.0.elapsed() > STUCK_AFTER {
            return Err(Trouble::Stuck(format!(
                "{} deliveries never came",
                generator.in_flight()
            )));
        }
    }
    let end = mark(generator.delivered)?;
    drain(generator)?;
    let begin = begin.ok_or_else(|| Trouble::Stuck("nothing was measured".to_string()))?;
    Ok((begin, end, latencies))
}

/// Connections that are part of what a server needs anyway, before memory is looked at.
const WARM_CONNECTIONS: usize = 100;

/// Connections that subscribe, each to a topic of its own, and then do nothing. Answers resident bytes before
/// and after, too.
pub fn idle(
    server: &Server,
    dialect: Dialect,
    connections: usize,
) -> Result<(Figures, u64, u64), Trouble> {
    let one = |number: usize| {
        open(
            server.address,
            dialect,
            &dialect.subscribe(&topic(number), &Asked::Exact, SID),
        )
    };
    let mut kept = (0..WARM_CONNECTIONS)
        .map(one)
        .collect::<Result<Vec<_>, _>>()?;
    std::thread::sleep(Duration::from_millis(300));
    let (before, _) = server.memory()?;
    for number in 0..connections {
        kept.push(one(WARM_CONNECTIONS + number)?);
    }
    std::thread::sleep(Duration::from_millis(300));
    let (after, _) = server.memory()?;
    let mark = Mark::now(server, 0)?;
    let figures = Figures {
        connections: connections as u64,
        ..mark.since(&mark, None)
    };
    Ok((figures, before, after))
}
