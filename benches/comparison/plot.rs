//! Charts of a record: what Sapwood costs beside its peers, bars for what gets through and what it costs, percentiles for
//! latencies.
//!
//! Owns what is drawn where; shapes and colours are [`crate::svg`]'s, figures [`crate::figures`]'. Bars are small panels,
//! one a workload, each with its own scale from 0: on one scale, or on a logarithmic one, lengths would say nothing. Ratios, as
//! in the overview, share one.

use crate::figures::{
    Metric, Row, Spread, count, has_failed, named, number, of_kind, ratio, rows, usual,
};
use crate::record::{Kind, Latency, Record, Who, Workload};
use crate::svg::{Anchor, FAINT, GRID, INK, Svg, WIDTH, colour, fitted, text_width};
use crate::verdicts::{Comparison, Outcome, compare};

/// A chart as a file.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Its name, without a directory.
    pub file: String,
    /// What it shows.
    pub title: String,
    /// Of which workloads; none is the one that the page opens with.
    pub kind: Option<Kind>,
    /// Its contents.
    pub svg: String,
}

/// From a chart's edges, and between panels.
const MARGIN: f64 = 24.0;
/// Below the title and the line under it.
const TOP: f64 = 112.0;
/// From one bar to the next.
const STEP: f64 = 21.0;
/// Of a panel without its bars: its title, its axis, and air.
const PANEL_EXTRA: f64 = 68.0;
/// For the names beside bars.
const NAMES_WIDTH: f64 = 176.0;
/// For the values after them.
const VALUES_WIDTH: f64 = 74.0;
/// For the names of workloads beside the overview's bars.
const GROUP_NAMES_WIDTH: f64 = 290.0;
/// Between two workloads of it.
const GROUP_GAP: f64 = 9.0;

/// Percentiles that an axis of nines is labelled with.
const PERCENTILES: [(f64, &str, Metric); 4] = [
    (50.0, "p50", Metric::P50),
    (90.0, "p90", Metric::P90),
    (99.0, "p99", Metric::P99),
    (99.9, "p99.9", Metric::P999),
];

/// Points of a line, from the first percentile to the last: one every 10 pixels or so.
const POINTS: usize = 64;

/// All charts that the record has figures for.
pub fn charts(record: &Record) -> Vec<Chart> {
    let mut charts = Vec::new();
    let throughput = of_kind(record, Kind::Throughput);
    charts.extend(overview(&throughput));
    if throughput.iter().any(|workload| !rows(workload).is_empty()) {
        charts.push(bars(
            &throughput,
            Metric::Cpu,
            "cpu.svg",
            "CPU for a million deliveries",
            "Server's CPU-seconds (s/M): shorter is better. Medians; thin lines from the least to the most of the rounds.",
        ));
        charts.push(bars(
            &throughput,
            Metric::Rate,
            "rate.svg",
            "Deliveries a second",
            "Longer is better. Medians; thin lines from the least to the most. With *, the generator was the limit.",
        ));
    }
    let latency = of_kind(record, Kind::Latency);
    charts.extend(latency.into_iter().filter_map(percentiles));
    charts
}

/// Sapwood's CPU time for a workload divided by a peer's.
struct Share {
    who: Who,
    found: Comparison,
}

/// Whom the overview holds Sapwood against: in each protocol the peer of this year.
const OVERVIEW: [(Who, Who); 2] = [
    (Who::SapwoodRedis, Who::Redis),
    (Who::SapwoodNats, Who::NatsNow),
];

/// CPU beside the peers', all workloads on one scale. None where nothing can be compared.
fn overview(workloads: &[&Workload]) -> Option<Chart> {
    let groups: Vec<_> = workloads
        .iter()
        .map(|workload| (workload.title.as_str(), shares(workload)))
        .filter(|(_, shares)| !shares.is_empty())
        .collect();
    let shares = groups.iter().flat_map(|(_, shares)| shares);
    // At least to where Sapwood needs as much as the peer.
    let most = shares
        .map(|share| share.found.ratio)
        .reduce(f64::max)?
        .max(1.0);
    let title = "CPU for the same deliveries, divided by the peer's";
    let about = "Shorter is better; 1x is as much as the peer needs. Medians. Hollow: no difference beyond the spread.";
    let bars: usize = groups.iter().map(|(_, shares)| shares.len()).sum();
    let bottom = TOP + bars as f64 * STEP + groups.len() as f64 * GROUP_GAP;
    let mut svg = Svg::new(bottom + 30.0, title, about);
    let mut x = MARGIN;
    for (who, peer) in OVERVIEW {
        let name = format!("{} / {}", who.title(), peer.title());
        svg.bar((x, 73.0), (13.0, 13.0), colour(who));
        svg.text((x + 20.0, 84.0), 13.0, Anchor::Start, INK, &name);
        x += 20.0 + text_width(&name, 13.0) + 24.0;
    }
    let left = MARGIN + GROUP_NAMES_WIDTH;
    let width = WIDTH - left - VALUES_WIDTH - MARGIN;
    let scale = |ratio: f64| ratio / most * width;
    let step = tick_step(most);
    for tick in 0..=(most / step) as usize {
        let at = left + scale(tick as f64 * step);
        svg.line((at, TOP - 4.0), (at, bottom), GRID, 1.0);
        let label = format!("{}x", number(tick as f64 * step));
        svg.text((at, bottom + 17.0), 11.0, Anchor::Middle, FAINT, &label);
    }
    svg.line(
        (left + scale(1.0), TOP - 4.0),
        (left + scale(1.0), bottom),
        INK,
        1.5,
    );
    let mut y = TOP;
    for (title, shares) in &groups {
        let middle = y + shares.len() as f64 * STEP / 2.0;
        let title = fitted(title, 13.0, GROUP_NAMES_WIDTH - 8.0);
        svg.text((left - 8.0, middle + 4.5), 13.0, Anchor::End, INK, &title);
        for share in shares {
            share_bar(&mut svg, (left, y), scale(share.found.ratio), share);
            y += STEP;
        }
        y += GROUP_GAP;
    }
    Some(Chart {
        file: "overview.svg".to_string(),
        title: title.to_string(),
        kind: None,
        svg: svg.finish(),
    })
}

/// A workload's, of those that took part.
fn shares(workload: &Workload) -> Vec<Share> {
    let rows = rows(workload);
    let share = |(who, peer): (Who, Who)| {
        let (ours, theirs) = (usual(&rows, who)?, usual(&rows, peer)?);
        let found = compare(ours, theirs, Metric::Cpu, workload.kind)?;
        Some(Share { who, found })
    };
    OVERVIEW.into_iter().filter_map(share).collect()
}

fn share_bar(svg: &mut Svg, (left, y): (f64, f64), length: f64, share: &Share) {
    let size = (length.max(1.0), STEP - 6.0);
    svg.bar((left, y + 3.0), size, colour(share.who));
    if share.found.outcome == Outcome::Even {
        let inner = ((size.0 - 4.0).max(0.0), size.1 - 4.0);
        svg.bar((left + 2.0, y + 5.0), inner, "#ffffff");
    }
    let value = ratio(share.found.ratio);
    let at = (left + length + 6.0, y + STEP / 2.0 + 4.0);
    svg.text(at, 12.0, Anchor::Start, INK, &value);
}

/// A bar of a panel.
struct Bar {
    who: Who,
    name: String,
    is_variant: bool,
    /// None of a contender that failed.
    spread: Option<Spread>,
    is_generator_bound: bool,
}

fn bars(workloads: &[&Workload], metric: Metric, file: &str, title: &str, about: &str) -> Chart {
    let panels: Vec<_> = workloads
        .iter()
        .map(|workload| (workload.title.as_str(), bars_of(workload, metric)))
        .filter(|(_, bars)| !bars.is_empty())
        .collect();
    let height_of = |pair: &[(&str, Vec<Bar>)]| {
        let most = pair.iter().map(|(_, bars)| bars.len()).max();
        most.unwrap_or(0) as f64 * STEP + PANEL_EXTRA
    };
    let height = TOP + panels.chunks(2).map(height_of).sum::<f64>();
    let mut svg = Svg::new(height, title, about);
    legend(&mut svg, &panels);
    let panel_width = (WIDTH - 3.0 * MARGIN) / 2.0;
    let mut y = TOP;
    for pair in panels.chunks(2) {
        for (column, (title, bars)) in pair.iter().enumerate() {
            let x = MARGIN + column as f64 * (panel_width + MARGIN);
            svg.bold(x, y + 14.0, 14.0, &fitted(title, 14.0, panel_width));
            panel(&mut svg, (x, y + 24.0), panel_width, bars, metric);
        }
        y += height_of(pair);
    }
    Chart {
        file: file.to_string(),
        title: title.to_string(),
        kind: Some(Kind::Throughput),
        svg: svg.finish(),
    }
}

/// A workload's bars in the order of its rows, with a place for each contender that failed.
fn bars_of(workload: &Workload, metric: Metric) -> Vec<Bar> {
    let rows = rows(workload);
    let mut bars = Vec::new();
    for who in Who::ALL {
        let own = rows.iter().filter(|row| row.who == who);
        bars.extend(own.enumerate().map(|(index, row)| Bar {
            who,
            name: name(row),
            is_variant: index > 0,
            spread: row.spread(metric),
            is_generator_bound: row.is_generator_bound(),
        }));
        if has_failed(workload, who) {
            bars.push(Bar {
                who,
                name: who.title().to_string(),
                is_variant: false,
                spread: None,
                is_generator_bound: false,
            });
        }
    }
    bars
}

/// A row's title, shortened where a variant follows.
fn name(row: &Row<'_>) -> String {
    let title = match (row.variant, row.who) {
        ("", who) => who.title(),
        (_, Who::SapwoodRedis) => "Sapwood Redis",
        (_, Who::SapwoodNats) => "Sapwood NATS",
        (_, Who::SapwoodNative) => "Sapwood native",
        (_, who) => who.title(),
    };
    named(title, row.variant)
}

/// What colour is whose, of those in any panel.
fn legend(svg: &mut Svg, panels: &[(&str, Vec<Bar>)]) {
    let mut x = MARGIN;
    for who in Who::ALL {
        let mut bars = panels.iter().flat_map(|(_, bars)| bars);
        if bars.any(|bar| bar.who == who) {
            svg.bar((x, 73.0), (13.0, 13.0), colour(who));
            svg.text((x + 20.0, 84.0), 13.0, Anchor::Start, INK, who.title());
            x += 20.0 + text_width(who.title(), 13.0) + 24.0;
        }
    }
}

fn panel(svg: &mut Svg, (left, top): (f64, f64), width: f64, bars: &[Bar], metric: Metric) {
    let x = left + NAMES_WIDTH;
    let bars_width = width - NAMES_WIDTH - VALUES_WIDTH;
    let most = bars.iter().filter_map(|bar| Some(bar.spread?.max));
    let most = most.fold(0.0, f64::max);
    let scale = |value: f64| {
        if most > 0.0 {
            value / most * bars_width
        } else {
            0.0
        }
    };
    let bottom = top + bars.len() as f64 * STEP;
    axis(svg, (x, top, bottom), most, &scale, metric);
    for (index, bar) in bars.iter().enumerate() {
        let y = top + index as f64 * STEP;
        let middle = y + STEP / 2.0;
        let name = fitted(&bar.name, 12.0, NAMES_WIDTH - 8.0);
        svg.text((x - 8.0, middle + 4.0), 12.0, Anchor::End, INK, &name);
        let Some(spread) = bar.spread else {
            svg.text(
                (x + 6.0, middle + 4.0),
                12.0,
                Anchor::Start,
                FAINT,
                "failed",
            );
            continue;
        };
        let size = (scale(spread.median).max(1.0), STEP - 6.0);
        svg.bar((x, y + 3.0), size, colour(bar.who));
        if bar.is_variant {
            // Hollow, beside the usual run.
            let inner = ((size.0 - 4.0).max(0.0), size.1 - 4.0);
            svg.bar((x + 2.0, y + 5.0), inner, "#ffffff");
        }
        let (least, most) = (x + scale(spread.min), x + scale(spread.max));
        svg.line((least, middle), (most, middle), INK, 1.5);
        let mut value = metric.show(spread.median);
        if metric == Metric::Rate && bar.is_generator_bound {
            value.push('*');
        }
        svg.text((most + 6.0, middle + 4.0), 12.0, Anchor::Start, INK, &value);
    }
}

/// Lines to read values by, under the bars, and their labels.
fn axis(
    svg: &mut Svg,
    (x, top, bottom): (f64, f64, f64),
    most: f64,
    scale: &dyn Fn(f64) -> f64,
    metric: Metric,
) {
    let step = tick_step(most);
    let ticks = if step > 0.0 {
        (most / step) as usize
    } else {
        0
    };
    for tick in 0..=ticks {
        let value = tick as f64 * step;
        let at = x + scale(value);
        svg.line((at, top), (at, bottom + 3.0), GRID, 1.0);
        let mut label = match metric {
            Metric::Rate => count(value),
            _ => number(value),
        };
        if tick == ticks {
            label.push_str(if metric == Metric::Rate {
                " /s"
            } else {
                " s/M"
            });
        }
        svg.text((at, bottom + 17.0), 11.0, Anchor::Middle, FAINT, &label);
    }
}

/// 1, 2 or 5 times a power of ten, so that there are two to five steps.
fn tick_step(most: f64) -> f64 {
    if most <= 0.0 {
        return 0.0;
    }
    let power = 10f64.powf((most / 5.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|times| times * power);
    let enough = steps.into_iter().find(|step| most / step <= 5.0);
    enough.unwrap_or(10.0 * power)
}

/// A line of a latency plot: its points in nines and nanoseconds.
struct Line<'a> {
    row: &'a Row<'a>,
    points: Vec<(f64, Spread)>,
}

fn percentiles(workload: &Workload) -> Option<Chart> {
    let rows = rows(workload);
    let lines: Vec<_> = rows.iter().filter_map(line).collect();
    let all = || lines.iter().flat_map(|line| &line.points);
    let least = all().map(|(_, spread)| spread.min).fold(f64::MAX, f64::min);
    let most = all().map(|(_, spread)| spread.max).fold(0.0, f64::max);
    if lines.is_empty() || least <= 0.0 {
        return None;
    }
    let title = format!("Latency percentiles: {}", workload.title);
    let about = "Lower is better. Medians of the rounds; shaded from the least to the most. Both axes are logarithmic.";
    let mut svg = Svg::new(500.0, &title, about);
    let place = Place::new((least, most));
    scales(&mut svg, &place);
    for line in &lines {
        let at = |get: fn(&Spread) -> f64| {
            let points = line.points.iter();
            points.map(move |(nines, spread)| place.of(*nines, get(spread)))
        };
        let upper = at(|spread| spread.max);
        let surround: Vec<_> = upper.chain(at(|spread| spread.min).rev()).collect();
        svg.area(&surround, colour(line.row.who));
    }
    for line in &lines {
        let points: Vec<_> = line.points.iter().collect();
        let points: Vec<_> = points
            .iter()
            .map(|(nines, spread)| place.of(*nines, spread.median))
            .collect();
        svg.path(&points, colour(line.row.who), dashes(line.row));
        for (percentile, _, metric) in PERCENTILES {
            if let Some(spread) = line.row.spread(metric) {
                svg.mark(place.of(nines(percentile), spread.median), line.row.who);
            }
        }
    }
    names(&mut svg, &place, &lines);
    Some(Chart {
        file: format!("{}.svg", file_name(&workload.id)),
        title,
        kind: Some(Kind::Latency),
        svg: svg.finish(),
    })
}

/// Variants are dashed, and the floor dotted.
fn dashes(row: &Row<'_>) -> &'static str {
    match (row.variant, row.who) {
        ("", Who::Relay) => "2 4",
        ("", _) => "none",
        _ => "8 5",
    }
}

/// Where a latency plot has what.
#[derive(Clone, Copy)]
struct Place {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    /// Nanoseconds at the bottom and at the top.
    least: f64,
    most: f64,
}

impl Place {
    fn new((least, most): (f64, f64)) -> Place {
        Place {
            left: 84.0,
            right: WIDTH - 274.0,
            top: 80.0,
            bottom: 434.0,
            // A little air, and never a scale without height.
            least: least / 1.15,
            most: most.max(least * 2.0) * 1.15,
        }
    }

    fn of(&self, at: f64, nanoseconds: f64) -> (f64, f64) {
        let (first, last) = (nines(50.0), nines(99.9));
        let x = self.left + (at - first) / (last - first) * (self.right - self.left);
        let share = (nanoseconds / self.least).ln() / (self.most / self.least).ln();
        (x, self.bottom - share * (self.bottom - self.top))
    }
}

fn scales(svg: &mut Svg, place: &Place) {
    for (percentile, label, _) in PERCENTILES {
        let (x, _) = place.of(nines(percentile), place.least);
        svg.line((x, place.top), (x, place.bottom + 5.0), GRID, 1.0);
        svg.text((x, place.bottom + 22.0), 13.0, Anchor::Middle, INK, label);
    }
    let times: &[f64] = match place.most / place.least < 8.0 {
        true => &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0],
        false => &[1.0, 2.0, 5.0],
    };
    // From a nanosecond to 100 s, in which every latency of a run lies.
    for power in 0..=11 {
        for times in times {
            let nanoseconds = *times * 10f64.powi(power);
            if nanoseconds >= place.least && nanoseconds <= place.most {
                let (_, y) = place.of(nines(50.0), nanoseconds);
                svg.line((place.left - 5.0, y), (place.right, y), GRID, 1.0);
                let label = number(nanoseconds / 1e3);
                svg.text((place.left - 10.0, y + 4.0), 13.0, Anchor::End, INK, &label);
            }
        }
    }
    let middle = (place.left + place.right) / 2.0;
    let (x_title, y_title) = ("percentile of deliveries", "latency, us");
    svg.text(
        (middle, place.bottom + 48.0),
        13.0,
        Anchor::Middle,
        FAINT,
        x_title,
    );
    svg.upwards(30.0, (place.top + place.bottom) / 2.0, 13.0, y_title);
}

/// The legend: names at the lines' right ends, moved apart where those are near to each other.
fn names(svg: &mut Svg, place: &Place, lines: &[Line<'_>]) {
    let mut ends: Vec<_> = lines
        .iter()
        .filter_map(|line| {
            let (nines, spread) = line.points.last()?;
            Some((place.of(*nines, spread.median), line.row))
        })
        .collect();
    ends.sort_by(|one, other| one.0.1.total_cmp(&other.0.1));
    let gap = 22.0;
    let lowest = place.bottom - gap * ends.len().saturating_sub(1) as f64;
    let mut y_least: f64 = place.top;
    for (index, ((x, y), row)) in ends.into_iter().enumerate() {
        // Down as far as the one above asks, and up as far as those below need.
        let name_y = y.max(y_least).min(lowest + gap * index as f64);
        y_least = name_y + gap;
        svg.line((x + 7.0, y), (x + 24.0, name_y), colour(row.who), 1.0);
        svg.mark((x + 31.0, name_y), row.who);
        let name = fitted(&name(row), 13.0, WIDTH - x - 46.0);
        svg.text((x + 42.0, name_y + 4.5), 13.0, Anchor::Start, INK, &name);
    }
}

/// A row's line over all its runs; none if one of them has no latencies.
fn line<'a>(row: &'a Row<'a>) -> Option<Line<'a>> {
    let latencies: Option<Vec<&Latency>> =
        row.runs.iter().map(|run| run.latency.as_ref()).collect();
    let curves: Vec<_> = latencies?.into_iter().map(curve).collect();
    let (first, last) = (nines(50.0), nines(99.9));
    let points = (0..=POINTS).map(|point| {
        let at = first + (last - first) * point as f64 / POINTS as f64;
        let values = curves.iter().map(|curve| value_at(curve, at)).collect();
        Some((at, Spread::of(values)?))
    });
    let points: Option<Vec<_>> = points.collect();
    Some(Line {
        row,
        points: points?,
    })
}

/// A run's curve in nines and nanoseconds, rising, with the percentiles that tables show among its points.
fn curve(latency: &Latency) -> Vec<(f64, f64)> {
    let shown = [latency.p50, latency.p90, latency.p99, latency.p999];
    let shown = PERCENTILES
        .iter()
        .zip(shown)
        .map(|(percentile, value)| (percentile.0, value));
    let mut points: Vec<_> = latency
        .curve
        .iter()
        .copied()
        .filter(|(percentile, _)| (0.0..100.0).contains(percentile))
        .chain(shown)
        .map(|(percentile, value)| (nines(percentile), value as f64))
        .collect();
    points.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.total_cmp(&other.1)));
    points
}

/// The latency between the points around a place; beyond the ends, that of the end.
fn value_at(curve: &[(f64, f64)], at: f64) -> f64 {
    let after = curve.partition_point(|(nines, _)| *nines < at);
    let (Some(before), Some(next)) = (curve.get(after.saturating_sub(1)), curve.get(after)) else {
        return curve.last().map_or(f64::NAN, |(_, value)| *value);
    };
    let width = next.0 - before.0;
    let share = if width > 0.0 {
        (at - before.0) / width
    } else {
        1.0
    };
    before.1 + (next.1 - before.1) * share
}

/// How many nines a percentile has: 1 for 90, 2 for 99, 3 for 99.9.
fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile / 100.0).log10()
}

/// An id with nothing in it that a path could stumble over.
fn file_name(id: &str) -> String {
    let safe = |character: char| match character.is_ascii_alphanumeric() {
        true => character,
        false => '-',
    };
    id.chars().map(safe).collect()
}
