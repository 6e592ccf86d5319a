//! The little of SVG that charts need, as text.
//!
//! Owns escaping, colours and shapes; knows nothing of results. A picture brings its own light background, because the
//! page it stands on may be dark. Coordinates are pixels from the top left.

use std::fmt::Write as _;

use crate::record::Who;

/// As wide as a page of GitHub shows without shrinking it much.
pub const WIDTH: f64 = 980.0;

/// Text that matters.
pub const INK: &str = "#1f2328";

/// Text and lines that do not.
pub const FAINT: &str = "#59636e";

/// Lines to read values by.
pub const GRID: &str = "#d1d9e0";

/// How wide a character is in sizes of its font, on average and a little more.
const CHARACTER_WIDTH: f64 = 0.56;

/// Where a text's x is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// At its left end.
    Start,
    /// In its middle.
    Middle,
    /// At its right end.
    End,
}

/// A picture in the making.
#[derive(Debug)]
pub struct Svg {
    body: String,
    height: f64,
    title: String,
}

/// A contender's colour: from the palette of Okabe and Ito, which people with any colour vision can tell apart, so that
/// peers are warm, Sapwood blue and the floor grey.
pub fn colour(who: Who) -> &'static str {
    match who {
        Who::Redis => "#d55e00",
        Who::Nats => "#e69f00",
        Who::NatsNow => "#f0c75e",
        Who::SapwoodNats => "#009e73",
        Who::SapwoodRedis => "#56b4e9",
        Who::SapwoodNative => "#0072b2",
        Who::Relay => "#8c959f",
    }
}

/// As much of a text as fits, with a mark where it was cut.
pub fn fitted(text: &str, size: f64, width: f64) -> String {
    let most = (width / (size * CHARACTER_WIDTH)) as usize;
    if text.chars().count() <= most {
        return text.to_string();
    }
    let cut: String = text.chars().take(most.saturating_sub(1)).collect();
    format!("{}\u{2026}", cut.trim_end())
}

/// About how wide a text is.
pub fn text_width(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * CHARACTER_WIDTH
}

impl Svg {
    /// An empty one, with its title at the top and a line below it that says what is drawn.
    pub fn new(height: f64, title: &str, about: &str) -> Svg {
        let mut svg = Svg {
            body: String::new(),
            height,
            title: title.to_string(),
        };
        svg.bold(24.0, 34.0, 18.0, title);
        svg.text((24.0, 56.0), 13.0, Anchor::Start, FAINT, about);
        svg
    }

    /// A line of text, with a white edge to set it off from lines behind it.
    pub fn text(&mut self, at: (f64, f64), size: f64, anchor: Anchor, colour: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.put(format_args!(
            r##"<text x="{:.1}" y="{:.1}" font-size="{size}" text-anchor="{anchor}" fill="{colour}" stroke="#ffffff" stroke-width="3" paint-order="stroke">{}</text>"##,
            at.0,
            at.1,
            escaped(text)
        ));
    }

    /// A heading.
    pub fn bold(&mut self, x: f64, y: f64, size: f64, text: &str) {
        self.put(format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" font-size="{size}" font-weight="600" fill="{INK}">{}</text>"#,
            escaped(text)
        ));
    }

    /// Text that runs upwards, its middle at the place.
    pub fn upwards(&mut self, x: f64, y: f64, size: f64, text: &str) {
        self.put(format_args!(
            r#"<text transform="translate({x:.1} {y:.1}) rotate(-90)" font-size="{size}" text-anchor="middle" fill="{FAINT}">{}</text>"#,
            escaped(text)
        ));
    }

    /// A filled box from its top left corner.
    pub fn bar(&mut self, at: (f64, f64), size: (f64, f64), colour: &str) {
        self.put(format_args!(
            r#"<rect x="{:.1}" y="{:.1}" width="{:.1}" height="{:.1}" fill="{colour}"/>"#,
            at.0, at.1, size.0, size.1
        ));
    }

    /// A straight line.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
        self.put(format_args!(
            r#"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="{colour}" stroke-width="{width}"/>"#,
            from.0, from.1, to.0, to.1
        ));
    }

    /// A line through points; dashes as in `stroke-dasharray`.
    pub fn path(&mut self, points: &[(f64, f64)], colour: &str, dashes: &str) {
        self.put(format_args!(
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2.5" stroke-linejoin="round" stroke-dasharray="{dashes}"/>"#,
            joined(points)
        ));
    }

    /// The area that points surround, faintly.
    pub fn area(&mut self, points: &[(f64, f64)], colour: &str) {
        self.put(format_args!(
            r#"<polygon points="{}" fill="{colour}" fill-opacity="0.13"/>"#,
            joined(points)
        ));
    }

    /// A mark on a line. Each contender has a shape of its own, for whom colour is not enough.
    pub fn mark(&mut self, (x, y): (f64, f64), who: Who) {
        let corners: &[(f64, f64)] = match who {
            Who::Redis => &[(-4.5, -4.5), (4.5, -4.5), (4.5, 4.5), (-4.5, 4.5)],
            Who::Nats => &[(0.0, -6.0), (5.5, 4.5), (-5.5, 4.5)],
            Who::NatsNow => &[(-6.0, -4.5), (6.0, 0.0), (-6.0, 4.5)],
            Who::SapwoodNats => &[(6.0, -4.5), (-6.0, 0.0), (6.0, 4.5)],
            Who::SapwoodRedis => &[(0.0, -6.0), (6.0, 0.0), (0.0, 6.0), (-6.0, 0.0)],
            Who::Relay => &[(0.0, 6.0), (5.5, -4.5), (-5.5, -4.5)],
            Who::SapwoodNative => {
                let (x, y, colour) = (format!("{x:.1}"), format!("{y:.1}"), colour(who));
                return self.put(format_args!(
                    r##"<circle cx="{x}" cy="{y}" r="5" fill="{colour}" stroke="#ffffff"/>"##
                ));
            }
        };
        let corners: Vec<_> = corners.iter().map(|(dx, dy)| (x + dx, y + dy)).collect();
        self.put(format_args!(
            r##"<polygon points="{}" fill="{}" stroke="#ffffff"/>"##,
            joined(&corners),
            colour(who)
        ));
    }

    /// The file's text.
    pub fn finish(self) -> String {
        let (height, title) = (self.height, escaped(&self.title));
        format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" font-family="-apple-system, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif">
<title>{title}</title>
<rect x="0.5" y="0.5" width="{:.1}" height="{:.1}" rx="6" fill="#ffffff" stroke="{GRID}"/>
{}</svg>
"##,
            WIDTH - 1.0,
            height - 1.0,
            self.body
        )
    }

    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        // invariant: writing to a String cannot fail.
        writeln!(self.body, "{element}").expect("a String takes everything");
    }
}

fn joined(points: &[(f64, f64)]) -> String {
    let points = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}"));
    points.collect::<Vec<_>>().join(" ")
}

/// Text as it can stand in an element or an attribute, without what XML forbids.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&apos;"),
            '\u{fffe}' | '\u{ffff}' => safe.push('\u{fffd}'),
            control if control.is_control() => safe.push(' '),
            other => safe.push(other),
        }
    }
    safe
}
