//! The course of a run: a broker, a crowd that comes, events for it, then the same beside a subscriber that never reads.
//!
//! A run in which anything is missing, doubled or wrong has no figures.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::audience::{Audience, counter, open_socket, open_stream};
use crate::crowd::{Phase, Round};
use crate::generator::Trouble;
use crate::listener::{Kind, Script};
use crate::machine;
use crate::record::Who;
use crate::script::payload;
use crate::servers::{Server, Setting, own_cpu, own_waited};

/// What the crowd hears, what the stalled subscriber hears besides, and who was there before memory is looked at.
const TOPIC: &str = "web.crowd";
const FLOOD_TOPIC: &str = "web.flood";
const WARM_TOPIC: &str = "web.warm";

/// Connections of each kind that are part of what a broker needs anyway.
const WARM_CONNECTIONS: u64 = 50;

/// Events at the start of a phase that are checked and not measured.
const WARM_EVENTS: usize = 10;

/// How long the broker has to settle before memory is looked at, and in which an event too many would come.
const LINGER: Duration = Duration::from_millis(300);

/// Without any progress for so long a run is given up.
const STUCK_AFTER: Duration = Duration::from_secs(20);

/// How large a run is.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Subscribers of each kind.
    pub subscribers: u64,
    /// Events for them in a second.
    pub events_per_second: u64,
    /// Seconds of each phase.
    pub seconds: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// Bytes of each payload for the stalled subscriber, and of all in a phase: more than the broker keeps for one
    /// connection and the sockets on the way hold.
    pub flood_payload_bytes: u64,
    /// See above.
    pub flood_bytes: u64,
}

impl Plan {
    /// Events of a phase, those that are not measured first.
    fn events(&self) -> usize {
        WARM_EVENTS + (self.events_per_second * self.seconds) as usize
    }

    /// Seconds of a phase, those at its start included that are not measured.
    pub fn phase_seconds(&self) -> u64 {
        self.events() as u64 / self.events_per_second
    }
}

/// Times of the broker and of this process at one moment.
struct Mark {
    at: Instant,
    broker: [Duration; 2],
    generator: [Duration; 2],
}

impl Mark {
    fn now(server: &Server) -> Result<Mark, Trouble> {
        Ok(Mark {
            at: Instant::now(),
            broker: [server.cpu()?, server.waited()?],
            generator: [own_cpu()?, own_waited()?],
        })
    }
}

/// What is published beside the crowd's events.
struct Flood {
    payload: Vec<u8>,
    events: u64,
    seconds: f64,
    sent: u64,
    /// When the first publish was answered that nobody heard.
    closed_after: Option<Duration>,
}

impl Flood {
    fn new(plan: &Plan) -> Flood {
        Flood {
            payload: payload(1, 0, plan.flood_payload_bytes as usize),
            events: plan.flood_bytes / plan.flood_payload_bytes,
            seconds: plan.seconds as f64,
            sent: 0,
            closed_after: None,
        }
    }

    fn is_due(&self, since: Duration) -> bool {
        let due = since.as_secs_f64() / self.seconds * self.events as f64;
        self.sent < self.events && due >= self.sent as f64
    }

    /// Publishes what is due, and looks whether somebody still hears it.
    fn go_on(&mut self, audience: &mut Audience, since: Duration) -> Result<(), Trouble> {
        let flooder = &mut audience.flooder;
        // One behind another, so that a broker that is behind is not given more at once than the plan says.
        if self.is_due(since) && !flooder.is_behind() {
            flooder.publish(FLOOD_TOPIC, &self.payload)?;
            self.sent += 1;
        }
        if self.closed_after.is_none() && flooder.heard.last() == Some(&0) {
            self.closed_after = Some(since);
        }
        Ok(())
    }

    fn is_done(&self, audience: &Audience) -> bool {
        audience.flooder.heard.len() as u64 == self.events
    }
}

/// One run.
pub fn run(plan: &Plan) -> Result<Round, Trouble> {
    let load_average = machine::load_average()?;
    let server = Server::start(&Setting {
        who: Who::SapwoodRedis,
        arguments: Vec::new(),
        cpus: vec![crate::SERVER_CPU],
    })?;
    let no_http = || Trouble::Wrong("the broker did not say where HTTP is".to_string());
    let http = server.http.ok_or_else(no_http)?;
    let script = Script::new(TOPIC, 2 * plan.events(), plan.payload_bytes as usize);
    let mut audience = Audience::new(server.address, TOPIC, script)?;
    let mut warm: Vec<TcpStream> = Vec::new();
    for _ in 0..WARM_CONNECTIONS {
        warm.push(open_socket(http, &[WARM_TOPIC])?);
        warm.push(open_stream(http, WARM_TOPIC)?);
    }
    let memory_before = memory(&server)?;
    for _ in 0..plan.subscribers {
        audience.add(open_socket(http, &[TOPIC])?, Kind::Socket)?;
    }
    let memory_with_sockets = memory(&server)?;
    for _ in 0..plan.subscribers {
        audience.add(open_stream(http, TOPIC)?, Kind::Stream)?;
    }
    let memory_with_streams = memory(&server)?;
    let alone = phase(&server, &mut audience, plan, None)?;
    check_heard(&audience, 0, false)?;
    let stalled = open_socket(http, &[TOPIC, FLOOD_TOPIC])?;
    let mut flood = Flood::new(plan);
    let beside_stalled = phase(&server, &mut audience, plan, Some(&mut flood))?;
    check_heard(&audience, plan.events(), true)?;
    drop(stalled);
    let closed = counter(http, "closed_outbox_full")?;
    let Some(closed_after) = flood.closed_after.filter(|_| closed == 1) else {
        return Err(Trouble::Wrong(format!(
            "the broker closed {closed} connections at the cap, which should be the stalled one"
        )));
    };
    Ok(Round {
        load_average,
        memory_before,
        memory_with_sockets,
        memory_with_streams,
        alone,
        beside_stalled,
        stalled_closed_after: closed_after.as_secs_f64(),
    })
}

/// Publishes the next events of the script and waits until all of them came.
fn phase(
    server: &Server,
    audience: &mut Audience,
    plan: &Plan,
    mut flood: Option<&mut Flood>,
) -> Result<Phase, Trouble> {
    let (from, events) = (audience.published(), plan.events());
    let start = Instant::now();
    let due = |event: usize| {
        start + Duration::from_secs(1) * event as u32 / plan.events_per_second as u32
    };
    let mut begin = None;
    let mut progress = (start, audience.missing());
    // Ends: all events are published in a known time, and what does not come in time is an error.
    loop {
        let (now, event) = (Instant::now(), audience.published() - from);
        if event < events && now >= due(event) {
            if event == WARM_EVENTS {
                begin = Some(Mark::now(server)?);
            }
            audience.publish()?;
            progress = (now, progress.1);
        }
        if let Some(flood) = &mut flood {
            flood.go_on(audience, now - start)?;
        }
        let is_flooding = flood.as_ref().is_some_and(|flood| !flood.is_done(audience));
        if event == events && audience.missing() == 0 && !is_flooding {
            break;
        }
        let wait = due(event).saturating_duration_since(Instant::now());
        audience.receive(match is_flooding || event == events {
            // What the flood may do next depends on no socket.
            true => wait.min(Duration::from_millis(1)),
            false => wait,
        })?;
        audience.publisher.write()?;
        audience.flooder.write()?;
        if audience.missing() != progress.1 {
            progress = (now, audience.missing());
        } else if audience.missing() > 0 && progress.0.elapsed() > STUCK_AFTER {
            let missing = audience.missing();
            return Err(Trouble::Stuck(format!("{missing} deliveries never came")));
        }
    }
    let end = Mark::now(server)?;
    wait_for_more(audience)?;
    let begin = begin.ok_or_else(|| Trouble::Stuck("nothing was measured".to_string()))?;
    measured(audience, from + WARM_EVENTS, &begin, &end)
}

/// What comes after the last event is one too many, which the audience notices.
fn wait_for_more(audience: &mut Audience) -> Result<(), Trouble> {
    let since = Instant::now();
    while since.elapsed() < LINGER {
        audience.receive(Duration::from_millis(20))?;
    }
    match audience.is_between_events() {
        true => Ok(()),
        false => Err(Trouble::Wrong(
            "a part of an event came that was not published".to_string(),
        )),
    }
}

fn measured(audience: &Audience, from: usize, begin: &Mark, end: &Mark) -> Result<Phase, Trouble> {
    let between = |of: fn(&Mark) -> Duration| (of(end) - of(begin)).as_secs_f64();
    Ok(Phase {
        seconds: (end.at - begin.at).as_secs_f64(),
        deliveries: ((audience.published() - from) * audience.members()) as u64,
        broker_cpu_seconds: between(|mark| mark.broker[0]),
        broker_waited_seconds: between(|mark| mark.broker[1]),
        generator_cpu_seconds: between(|mark| mark.generator[0]),
        generator_waited_seconds: between(|mark| mark.generator[1]),
        sockets: audience.arrivals(from, Kind::Socket)?,
        streams: audience.arrivals(from, Kind::Stream)?,
    })
}

/// Whether the broker counted the crowd for each event from a place on, and the stalled subscriber until it was closed.
fn check_heard(audience: &Audience, from: usize, has_stalled: bool) -> Result<(), Trouble> {
    let heard = &audience.publisher.heard;
    let crowd = audience.members() as u64;
    let most = crowd + u64::from(has_stalled);
    let is_right = |heard: &u64| (crowd..=most).contains(heard);
    let is_all = heard.len() == audience.published();
    match is_all && heard[from..].iter().all(is_right) && heard[from..].is_sorted_by(|a, b| a >= b)
    {
        true => Ok(()),
        false => Err(Trouble::Wrong(format!(
            "publishes to {crowd} subscribers were answered by {heard:?}"
        ))),
    }
}

/// Resident bytes, when all is quiet.
fn memory(server: &Server) -> Result<u64, Trouble> {
    std::thread::sleep(LINGER);
    Ok(server.memory()?.0)
}
