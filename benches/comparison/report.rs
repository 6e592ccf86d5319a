//! BENCHMARKS.md and its charts, made from a record and from nothing else.
//!
//! Owns the words around the figures. No result is written here: figures come from [`crate::figures`], what may be said
//! of them from [`crate::verdicts`], goals from [`crate::goals`], charts from [`crate::plot`]. Findings that a person
//! wrote are appended as they are. The same record gives the same bytes, which a test holds the repository to.
//! Start at [`files`].

use crate::figures::{Metric, Row, bytes, has_failed, named, number, of_kind, ratio, rows, usual};
use crate::goals::{Reached, findings};
use crate::pieces::{one_line, table, text};
use crate::plot::{Chart, charts};
use crate::record::{Kind, Record, Who, Workload};
use crate::verdicts::{Against, Outcome, PAIRS, Standing, Verdict, compare, judged, verdicts};

/// Where the record is kept, from the repository's root.
pub const RECORD: &str = "benches/results/comparison.json";

/// Where findings that a person wrote are kept.
pub const NOTES: &str = "benches/NOTES.md";

/// Where charts go.
pub const CHARTS: &str = "benches/results";

/// Everything that is made of a record: paths from the repository's root, and contents. `sections` are those of other
/// benchmarks, and `notes` is [`NOTES`]' text.
pub fn files(record: &Record, sections: &[String], notes: &str) -> Vec<(String, String)> {
    let page = markdown(record, sections, notes);
    let mut files = vec![("BENCHMARKS.md".to_string(), page)];
    for chart in charts(record) {
        files.push((format!("{CHARTS}/{}", chart.file), chart.svg));
    }
    files
}

/// The whole of BENCHMARKS.md. `notes` end it, unchanged.
pub fn markdown(record: &Record, sections: &[String], notes: &str) -> String {
    let charts = charts(record);
    let mut parts = vec![
        opening(record, &charts),
        head(record),
        summary(record),
        setting(record),
        reading(record),
        throughput(record, &charts),
        closed(record),
        latency(record, &charts),
        idle(record),
        sections.join("\n\n"),
        goals(record),
        notes.trim().to_string(),
    ];
    parts.retain(|part| !part.is_empty());
    format!("{}\n", parts.join("\n\n"))
}

/// The title, a chart and five lines: what a reader takes along who reads no further.
fn opening(record: &Record, charts: &[Chart]) -> String {
    let title = match record.quick {
        true => {
            "# Benchmarks: a quick look\n\n\
             > **This is a quick look and not a result.** It is one run of few workloads. Its verdicts show what the \
             report looks like and prove nothing."
        }
        false => "# Benchmarks",
    };
    let mut parts = vec![title.to_string()];
    let chart = charts.iter().find(|chart| chart.kind.is_none());
    parts.extend(chart.map(|chart| format!("![{}]({CHARTS}/{})", chart.title, chart.file)));
    let lines = opening_lines(record);
    if !lines.is_empty() {
        parts.push(lines.join("\n"));
    }
    parts.join("\n\n")
}

/// Comparisons in the first lines of BENCHMARKS.md, always the same ones, whatever the results. README.md quotes some of the lines; a test
/// compares them.
const OPENING: [(&str, Who, Who, Metric); 5] = [
    ("pipelined-128", Who::SapwoodRedis, Who::Redis, Metric::Cpu),
    ("fanout-100", Who::SapwoodNats, Who::NatsNow, Metric::Cpu),
    (
        "idle-10000",
        Who::SapwoodRedis,
        Who::Redis,
        Metric::Connection,
    ),
    ("latency-10k", Who::SapwoodRedis, Who::Redis, Metric::P50),
    ("single-100", Who::SapwoodNats, Who::Nats, Metric::Cpu),
];

/// Those of [`OPENING`] that were measured, a line each.
pub fn opening_lines(record: &Record) -> Vec<String> {
    let line = |(id, who, peer, metric): &(&str, Who, Who, Metric)| {
        let workload = record.workloads.iter().find(|found| found.id == *id)?;
        let rows = rows(workload);
        let (ours, theirs) = (usual(&rows, *who)?, usual(&rows, *peer)?);
        let found = compare(ours, theirs, *metric, workload.kind)?;
        let (our, their) = (ours.spread(*metric)?, theirs.spread(*metric)?);
        let amount = |median: f64| match metric {
            Metric::Cpu => format!("{} s of CPU for a million deliveries", number(median)),
            Metric::Connection => format!("{} for each", bytes(median)),
            _ => format!("{} {}", metric.noun(), metric.show(median)),
        };
        let verdict = match found.outcome {
            Outcome::Better => "**ahead**",
            Outcome::Worse => "**behind**",
            Outcome::Even => "**even**, within the spread",
            Outcome::GeneratorLimit => "not comparable",
        };
        Some(format!(
            "- **{}**, {}: {}, {} {}; {}, {verdict}.",
            text(&workload.title),
            who.title(),
            amount(our.median),
            peer.title(),
            match metric {
                Metric::Cpu => format!("{} s", number(their.median)),
                _ => metric.show(their.median),
            },
            ratio(found.ratio),
        ))
    };
    OPENING.iter().filter_map(line).collect()
}

fn head(record: &Record) -> String {
    format!(
        "Sapwood beside its peers on one machine. This page is written by the comparison from \
         [{RECORD}]({RECORD}), verdicts included: do not edit it. What people found out is at its end, from \
         [{NOTES}]({NOTES}). To measure again:\n\n\
         ```console\n{}\n```",
        record.command.trim()
    )
}

fn summary(record: &Record) -> String {
    let titles = Who::ALL.map(|who| who.title());
    let mut header = vec!["workload", "figure"];
    header.extend(titles);
    header.push("verdict");
    let lines = record.workloads.iter().map(|workload| {
        let rows = rows(workload);
        let metric = headline(workload.kind);
        let mut line = vec![
            text(&workload.title),
            metric.title(workload.kind).to_string(),
        ];
        line.extend(Who::ALL.map(|who| headline_cell(record, workload, &rows, who)));
        line.push(short_verdict(workload, &rows));
        line
    });
    let table = table(&header, lines.collect());
    let standings = standings(record);
    format!(
        "## In half a minute\n\n\
         Medians. s/M is the server's CPU-seconds for a million deliveries; less is better in every column. \
         A ratio is Sapwood's figure divided by the other's: `CPU 0.143x` is a seventh of the CPU.\n\n\
         {table}\n\n{standings}"
    )
    .trim_end()
    .to_string()
}

/// The one figure that stands for a workload in the summary.
fn headline(kind: Kind) -> Metric {
    match kind {
        Kind::Throughput => Metric::Cpu,
        Kind::Closed | Kind::Latency => Metric::P50,
        Kind::Idle => Metric::Connection,
    }
}

fn headline_cell(record: &Record, workload: &Workload, rows: &[Row<'_>], who: Who) -> String {
    let metric = headline(workload.kind);
    let row = usual(rows, who);
    let figure = row.and_then(|row| Some((row.variant, row.spread(metric)?)));
    match figure {
        Some(("", spread)) => metric.show(spread.median),
        Some((variant, spread)) => format!("{} ({})", metric.show(spread.median), text(variant)),
        None if has_failed(workload, who) => "failed".to_string(),
        None if missing(record, who).is_some() => "missing".to_string(),
        None => "-".to_string(),
    }
}

fn short_verdict(workload: &Workload, rows: &[Row<'_>]) -> String {
    let all = verdicts(rows, workload.kind);
    let mut parts: Vec<_> = all
        .iter()
        .filter(|verdict| is_in_summary(rows, verdict))
        .map(|verdict| text(&verdict.short()))
        .collect();
    for who in failed(workload) {
        parts.insert(0, format!("**{} failed**", who.title()));
    }
    parts.join("<br>")
}

/// Each protocol against its nearest peer and the floor, as it usually runs; and variants against the usual.
fn is_in_summary(rows: &[Row<'_>], verdict: &Verdict<'_>) -> bool {
    match verdict.against {
        Against::Variant(_) => true,
        Against::Peer(peer) => PAIRS[..5].contains(&(verdict.who, peer)) && is_usual(rows, verdict),
    }
}

/// Whether it is about the row that stands for the contender.
fn is_usual(rows: &[Row<'_>], verdict: &Verdict<'_>) -> bool {
    usual(rows, verdict.who).is_some_and(|row| row.variant == verdict.variant)
}

/// How often Sapwood is ahead of each peer, and where it is not.
fn standings(record: &Record) -> String {
    let mut lines = Vec::new();
    for (who, peer) in &PAIRS[..4] {
        let mut found: Vec<(Standing, &str)> = Vec::new();
        for workload in &record.workloads {
            let all = verdicts(&rows(workload), workload.kind);
            // The first is the usual row's.
            let pair = |verdict: &&Verdict<'_>| {
                (verdict.who, verdict.against) == (*who, Against::Peer(*peer))
            };
            let pair = all.iter().find(pair);
            found.extend(pair.map(|verdict| (verdict.standing(), workload.title.as_str())));
        }
        if found.is_empty() {
            continue;
        }
        let of = |standing| {
            let titles = found.iter().filter(|(found, _)| *found == standing);
            titles.map(|(_, title)| text(title)).collect::<Vec<_>>()
        };
        let ahead = of(Standing::Ahead).len();
        let mut line = format!(
            "- {} is ahead of {} in {ahead} of {} workloads",
            who.title(),
            peer.title(),
            found.len()
        );
        for (standing, word) in [
            (Standing::Even, "even in"),
            (
                Standing::Mixed,
                "better in one figure and worse in another in",
            ),
            (Standing::Behind, "**behind** in"),
        ] {
            let titles = of(standing);
            if !titles.is_empty() {
                line += &format!("; {word} {} ({})", titles.len(), titles.join("; "));
            }
        }
        let failures = record
            .workloads
            .iter()
            .filter(|workload| has_failed(workload, *who));
        let failures: Vec<_> = failures.map(|workload| text(&workload.title)).collect();
        if !failures.is_empty() {
            line += &format!(
                "; **failed** in {} more ({})",
                failures.len(),
                failures.join("; ")
            );
        }
        lines.push(line + ".");
    }
    lines.extend(record.contenders.iter().filter_map(|contender| {
        let reason = text(contender.missing.as_deref()?);
        let title = contender.id.title();
        Some(format!(
            "- {title} **did not take part**, so nothing is said of it: {reason}"
        ))
    }));
    lines.join("\n")
}

fn setting(record: &Record) -> String {
    let machine = &record.machine;
    let mut lines = vec![
        "## Machine and versions\n".to_string(),
        format!(
            "{} CPUs of {}, {} of memory, Linux {}, {}. Sapwood {}, measured on {}: {}, contenders in turn within \
             each.\n",
            machine.cpus,
            text(&machine.cpu),
            bytes(machine.memory as f64),
            text(&machine.kernel),
            text(&machine.rustc),
            text(&record.commit),
            text(&record.date),
            plural(record.rounds, "round"),
        ),
    ];
    let contenders = record.contenders.iter().map(|contender| {
        let part = match &contender.missing {
            Some(reason) => format!("**did not take part:** {}", text(reason)),
            None => "yes".to_string(),
        };
        let version = match contender.version.trim() {
            "" => "-".to_string(),
            version => text(version),
        };
        vec![contender.id.title().to_string(), version, part]
    });
    lines.push(table(
        &["contender", "version", "took part"],
        contenders.collect(),
    ));
    lines.join("\n")
}

fn reading(record: &Record) -> String {
    let shown = match record.rounds {
        1 => {
            "Every figure is of one run, so there is no spread to judge differences by.".to_string()
        }
        rounds => format!(
            "Every figure is the median of {rounds} rounds, with the least and the most in parentheses."
        ),
    };
    format!(
        "## How to read it\n\n\
         - {shown} Where two of these ranges overlap, or the medians are within half a percent, the page says that \
         there is no difference beyond the spread.\n\
         - **s/M** is the server's CPU time, user and system and all threads, for a million deliveries (or operations). \
         It says what a delivery costs, and holds on noisy machines better than a rate does.\n\
         - **The relay** is the floor: one epoll thread that copies bytes from socket to socket and looks at none. \
         What it needs is what the kernel's sockets cost whoever stands between, so what is above it is the \
         broker's own. It has no topics, no limits and no policies, and is no rival.\n\
         - **The generator** is one thread and the same for every contender, with a CPU of its own unless a workload \
         says otherwise. It checks the content, the order and the count of every delivery; a run with a fault is a \
         failure and has no figure. Its **load** is its own CPU time beside the clock: above {}, it was the limit and \
         not the server, so rates are not compared, and s/M is.\n\
         - **Ratios** are Sapwood's figure divided by the other's: `CPU 0.143x` is a seventh of its CPU, `rate 4x` four \
         times as much.\n\
         - **Peak memory** is the server's largest resident size in the run, with what it takes before clients connect.",
        crate::figures::GENERATOR_LOAD_MAX
    )
}

fn throughput(record: &Record, charts: &[Chart]) -> String {
    let about = "As much as gets through.";
    let metrics = [Metric::Rate, Metric::Cpu, Metric::Memory, Metric::Load];
    section(
        record,
        Kind::Throughput,
        "Throughput",
        about,
        &metrics,
        charts,
    )
}

fn closed(record: &Record) -> String {
    let about =
        "Every client waits for its answer before it asks again, so latency makes the rate.";
    let metrics = [
        Metric::Rate,
        Metric::P50,
        Metric::P99,
        Metric::Cpu,
        Metric::Load,
    ];
    section(record, Kind::Closed, "Closed loop", about, &metrics, &[])
}

fn latency(record: &Record, charts: &[Chart]) -> String {
    let about = "A fixed rate, far from the limit. Latency counts from the time at which a message was scheduled, so a \
                 server that falls behind cannot hide it. p99.9 is the machine's noise as much as the server's: the \
                 scheduler and the host reach there, and no verdict uses it.";
    let metrics = [
        Metric::P50,
        Metric::P90,
        Metric::P99,
        Metric::P999,
        Metric::Cpu,
    ];
    section(
        record,
        Kind::Latency,
        "Latency at fixed rates",
        about,
        &metrics,
        charts,
    )
}

fn idle(record: &Record) -> String {
    let about =
        "Connections that do nothing: the server's resident memory, divided by their number.";
    section(
        record,
        Kind::Idle,
        "Idle connections",
        about,
        &[Metric::Connection],
        &[],
    )
}

/// A kind's workloads, each with its table and verdicts. Empty without any.
fn section(
    record: &Record,
    kind: Kind,
    title: &str,
    about: &str,
    metrics: &[Metric],
    charts: &[Chart],
) -> String {
    let workloads = of_kind(record, kind);
    if workloads.is_empty() {
        return String::new();
    }
    let mut parts = vec![format!("## {title}\n\n{about}")];
    let shown = charts.iter().filter(|chart| chart.kind == Some(kind));
    parts.extend(shown.map(|chart| format!("![{}]({CHARTS}/{})", chart.title, chart.file)));
    for workload in workloads {
        parts.push(format!(
            "### {} (`{}`)\n\n{}",
            text(&workload.title),
            workload.id,
            text(&workload.about)
        ));
        parts.extend(workload_table(workload, metrics));
        parts.extend(verdict_list(workload));
    }
    parts.join("\n\n")
}

/// Contenders as rows, figures as columns, and a column for each peer that some row is held against.
fn workload_table(workload: &Workload, metrics: &[Metric]) -> Option<String> {
    let rows = rows(workload);
    if rows.is_empty() {
        return None;
    }
    let peers: Vec<_> = [Who::Redis, Who::Nats, Who::NatsNow, Who::Relay]
        .into_iter()
        .filter(|peer| {
            rows.iter()
                .any(|row| against(&rows, row, *peer, workload.kind).is_some())
        })
        .collect();
    let heads: Vec<_> = peers
        .iter()
        .map(|peer| format!("against {}", Against::Peer(*peer).title()))
        .collect();
    let mut header = vec!["contender"];
    header.extend(metrics.iter().map(|metric| metric.title(workload.kind)));
    header.extend(heads.iter().map(String::as_str));
    let lines = rows.iter().map(|row| {
        let mut line = vec![text(&row.title())];
        line.extend(metrics.iter().map(|metric| row.cell(*metric)));
        let ratios = peers
            .iter()
            .map(|peer| against(&rows, row, *peer, workload.kind));
        line.extend(ratios.map(|ratios| ratios.unwrap_or_default()));
        line
    });
    Some(table(&header, lines.collect()))
}

/// A row's ratios to a peer, if it is one that the row is held against: `CPU 0.137x, rate 4.1x`.
fn against(rows: &[Row<'_>], row: &Row<'_>, peer: Who, kind: Kind) -> Option<String> {
    if !PAIRS.contains(&(row.who, peer)) {
        return None;
    }
    let theirs = crate::figures::peer(rows, row, peer)?;
    let ratios: Vec<_> = judged(kind)
        .iter()
        .filter_map(|metric| compare(row, theirs, *metric, kind))
        .map(|found| found.short())
        .collect();
    (!ratios.is_empty()).then(|| ratios.join(", "))
}

/// What follows from a workload's table, and what failed.
fn verdict_list(workload: &Workload) -> Option<String> {
    let rows = rows(workload);
    let mut lines: Vec<_> = verdicts(&rows, workload.kind)
        .iter()
        .map(|verdict| {
            let title = named(verdict.who.title(), verdict.variant);
            let against = verdict.against.title();
            format!(
                "- **{}, against {}:** {}",
                text(&title),
                text(&against),
                text(&verdict.sentences())
            )
        })
        .collect();
    lines.extend(workload.failures.iter().map(|failure| {
        let title = failure.who.title();
        // A code span ends at a backtick, and shows all else as it is.
        let error = one_line(&failure.error).replace('`', "'");
        format!(
            "- **{title} failed in round {}, so it has no figure:** `{error}`",
            failure.round
        )
    }));
    (!lines.is_empty()).then(|| lines.join("\n"))
}

fn goals(record: &Record) -> String {
    let findings = findings(record);
    let of = |reached: fn(&Reached) -> bool| {
        findings
            .iter()
            .filter(|found| reached(&found.reached))
            .count()
    };
    let met = of(|reached| *reached == Reached::Met);
    let not_met = of(|reached| *reached == Reached::NotMet);
    let open = findings.len() - met - not_met;
    let lines = findings.iter().map(|found| {
        let goal = &found.goal;
        let against = goal
            .against
            .map_or("-".to_string(), |who| Against::Peer(who).title());
        vec![
            format!("`{}`", found.workload),
            text(&named(goal.who.title(), goal.variant)),
            against,
            goal.words(),
            found.measured_words(),
            found.figure(found.ours),
            found.figure(found.theirs),
            found.words(),
        ]
    });
    let header = [
        "workload",
        "who",
        "against",
        "goal",
        "measured",
        "Sapwood",
        "the other",
        "result",
    ];
    format!(
        "## Goals\n\n\
         Set before measuring, for one shard and one generator, and judged by medians alone: \
         **{met} of {} are met, {not_met} are not met, {open} cannot be judged** from this record. \
         \"Within the spread\" says that the two ranges overlap, so the next run may show it the other way.\n\n{}",
        findings.len(),
        table(&header, lines.collect())
    )
}

/// Whoever failed a run, each once.
fn failed(workload: &Workload) -> Vec<Who> {
    let failed = |who: &Who| has_failed(workload, *who);
    Who::ALL.into_iter().filter(failed).collect()
}

fn missing(record: &Record, who: Who) -> Option<&str> {
    let contender = record.contenders.iter().find(|found| found.id == who)?;
    contender.missing.as_deref()
}

fn plural(number: u32, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        number => format!("{number} {noun}s"),
    }
}
