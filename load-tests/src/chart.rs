//! Pictures of what was measured: lines over a grid, as SVG, and nothing else.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::error::LoadError;
use crate::report::number;

/// How an axis counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scale {
    /// From zero.
    Linear,
    /// By powers of ten; what is not above zero is left out.
    Log,
}

/// An axis.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Axis {
    pub(crate) name: String,
    pub(crate) scale: Scale,
}

impl Axis {
    pub(crate) fn new(name: &str, scale: Scale) -> Self {
        Self { name: name.to_owned(), scale }
    }
}

/// A line.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

impl Line {
    pub(crate) fn new(name: &str, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.to_owned(), points }
    }

    /// One value a round.
    pub(crate) fn by_round(name: &str, values: Vec<f64>) -> Self {
        Self::new(name, (1..).map(f64::from).zip(values).collect())
    }
}

/// A picture of one row.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Chart {
    /// Also the file's name: `P1`.
    pub(crate) id: &'static str,
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) lines: Vec<Line>,
}

/// The whole picture, and what lies around the grid: left, top, right, bottom.
const SIZE: (f64, f64) = (760.0, 420.0);
const MARGIN: (f64, f64, f64, f64) = (92.0, 40.0, 190.0, 54.0);
/// Told apart by people who do not see all colours (Okabe and Ito), and by their dashes.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#555555"];
const DASHES: [&str; 6] = ["none", "7 4", "2 3", "9 3 2 3", "4 4", "1 4"];

/// An axis with its range, and the pixels that it lies on.
struct Ruler {
    scale: Scale,
    from: f64,
    to: f64,
    pixels: (f64, f64),
}

impl Ruler {
    fn over(scale: Scale, values: impl Iterator<Item = f64>, pixels: (f64, f64)) -> Self {
        let usable = values.filter(|value| value.is_finite() && (scale == Scale::Linear || *value > 0.0));
        let (low, high) = usable
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        let (from, to) = match scale {
            _ if !low.is_finite() => (0.0, 1.0),
            Scale::Linear => (0.0, step(high / 5.0) * (high / step(high / 5.0)).ceil().max(1.0)),
            Scale::Log => (low.log10().floor(), high.log10().ceil().max(low.log10().floor() + 1.0)),
        };
        Self { scale, from, to, pixels }
    }

    fn at(&self, value: f64) -> Option<f64> {
        let value = match self.scale {
            Scale::Linear => value,
            Scale::Log => value.log10(),
        };
        let share = (value - self.from) / (self.to - self.from);
        value.is_finite().then_some(self.pixels.0 + share * (self.pixels.1 - self.pixels.0))
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let step = step(self.to / 5.0);
                (0..=10).map(|at| f64::from(at) * step).take_while(|tick| *tick <= self.to * 1.001).collect()
            }
            Scale::Log => (self.from as i32..=self.to as i32).map(|power| 10_f64.powi(power)).collect(),
        }
    }
}

/// The next of 1, 2, 5, 10, 20, ... that is not below `wanted`.
fn step(wanted: f64) -> f64 {
    if !(wanted.is_finite() && wanted > 0.0) {
        return 1.0;
    }
    let power = 10_f64.powf(wanted.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|of| of * power).into_iter().find(|step| *step >= wanted).unwrap_or(wanted)
}

/// As on an axis: no more digits than it takes.
fn tick_text(value: f64) -> String {
    if value >= 100.0 { number(value) } else { format!("{}", (value * 1e4).round() / 1e4) }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

impl Chart {
    /// As SVG.
    pub(crate) fn svg(&self) -> String {
        let ((width, height), (left, top, right, bottom)) = (SIZE, MARGIN);
        let (end_x, end_y) = (width - right, height - bottom);
        let points = || self.lines.iter().flat_map(|line| line.points.iter().copied());
        let x = Ruler::over(self.x.scale, points().map(|point| point.0), (left, end_x));
        let y = Ruler::over(self.y.scale, points().map(|point| point.1), (end_y, top));
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
             <text x=\"{left}\" y=\"22\" font-size=\"15\">{}: {}</text>\n",
            self.id,
            escaped(&self.title)
        );
        let mut add = |text: std::fmt::Arguments<'_>| {
            let _ = svg.write_fmt(text); // into memory
        };
        for tick in x.ticks() {
            let at = x.at(tick).unwrap_or(left);
            let (foot, text) = (end_y + 17.0, tick_text(tick));
            add(format_args!("<path d=\"M{at:.1} {top}V{end_y}\" stroke=\"#ddd\"/>\n"));
            add(format_args!("<text x=\"{at:.1}\" y=\"{foot}\" text-anchor=\"middle\">{text}</text>\n"));
        }
        for tick in y.ticks() {
            let at = y.at(tick).unwrap_or(end_y);
            let (side, foot, text) = (left - 6.0, at + 4.0, tick_text(tick));
            add(format_args!("<path d=\"M{left} {at:.1}H{end_x}\" stroke=\"#ddd\"/>\n"));
            add(format_args!("<text x=\"{side}\" y=\"{foot:.1}\" text-anchor=\"end\">{text}</text>\n"));
        }
        add(format_args!("<path d=\"M{left} {top}V{end_y}H{end_x}\" fill=\"none\" stroke=\"black\"/>\n"));
        let (middle, foot) = ((left + end_x) / 2.0, height - 14.0);
        let names = (escaped(&self.x.name), escaped(&self.y.name));
        add(format_args!("<text x=\"{middle}\" y=\"{foot}\" text-anchor=\"middle\">{}</text>\n", names.0));
        let middle = (top + end_y) / 2.0;
        add(format_args!(
            "<text transform=\"translate(16 {middle}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
            names.1
        ));
        let styles = COLOURS.iter().zip(DASHES).cycle();
        for ((at, line), (colour, dash)) in self.lines.iter().enumerate().zip(styles) {
            let placed: Vec<(f64, f64)> =
                line.points.iter().filter_map(|(a, b)| Some((x.at(*a)?, y.at(*b)?))).collect();
            let path: Vec<String> = placed.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let stroke = format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"");
            add(format_args!(
                "<polyline points=\"{}\" {stroke} stroke-dasharray=\"{dash}\"/>\n",
                path.join(" ")
            ));
            for (x, y) in placed {
                add(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>\n"));
            }
            let (from, height) = (end_x + 14.0, top + 8.0 + 20.0 * at as f64);
            let (to, beside, foot) = (from + 26.0, from + 32.0, height + 4.0);
            add(format_args!(
                "<path d=\"M{from} {height}H{to}\" {stroke} stroke-dasharray=\"{dash}\"/>\n\
                 <text x=\"{beside}\" y=\"{foot}\">{}</text>\n",
                escaped(&line.name)
            ));
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// Writes it into `folder`.
    ///
    /// # Errors
    /// [`LoadError::File`].
    pub(crate) fn save(&self, folder: &Path) -> Result<(), LoadError> {
        let path = folder.join(format!("{}.svg", self.id));
        std::fs::write(&path, self.svg()).map_err(LoadError::file(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(scale: Scale, points: Vec<(f64, f64)>) -> Chart {
        Chart {
            id: "P1",
            title: "a < b".to_owned(),
            x: Axis::new("load", Scale::Linear),
            y: Axis::new("ms", scale),
            lines: vec![Line::new("vault", points)],
        }
    }

    #[test]
    fn points_lie_where_their_values_are() {
        let svg = chart(Scale::Linear, vec![(0.0, 0.0), (10.0, 5.0)]).svg();
        // The corner of the grid, and the far corner: 10 and 5 are whole steps, so the axes end there.
        assert!(svg.contains("points=\"92.0,366.0 570.0,40.0\""), "{svg}");
        assert!(svg.contains("a &lt; b") && svg.contains(">vault<"));
        let svg = chart(Scale::Log, vec![(0.0, 1.0), (10.0, 1000.0), (10.0, 0.0)]).svg();
        assert!(svg.contains("points=\"92.0,366.0 570.0,40.0\""), "{svg}");
    }

    #[test]
    fn axes_are_counted_in_whole_steps() {
        assert_eq!([0.3, 1.0, 1.1, 4.0, 7.0, 30.0].map(step), [0.5, 1.0, 2.0, 5.0, 10.0, 50.0]);
        let ruler = Ruler::over(Scale::Log, [3.0, 40_000.0].into_iter(), (0.0, 1.0));
        assert_eq!(ruler.ticks(), [1.0, 10.0, 100.0, 1e3, 1e4, 1e5]);
        assert!(Ruler::over(Scale::Linear, std::iter::empty(), (0.0, 1.0)).ticks().len() > 1);
    }
}
