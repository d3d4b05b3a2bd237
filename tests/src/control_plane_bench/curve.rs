//! How a figure changes with the size of the cluster.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::result::{Entry, Figure, Kind, Load, Run};
use super::stats::Summary;
use crate::bench_report::number::{axis_end, count, plausible, tick};
use crate::bench_report::palette::{GRID, INK, MUTED, text};

/// Sizes in pixels.
const SIZE: (u32, u32) = (532, 300);
const LEFT: u32 = 56;
const RIGHT: u32 = 96;
const BOTTOM: u32 = 44;
/// Least distance of two labels.
const LABEL: i32 = 14;

/// What is drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Curve {
    pub(super) figure: Figure,
    /// Below the axis.
    pub(super) unit: &'static str,
    /// Which number of the entry.
    pub(super) value: fn(&Summary) -> f64,
    /// The most that is allowed, for some sizes.
    pub(super) limits: &'static [(u32, f64)],
}

/// A line of the plot: after Okabe and Ito, told apart with any colour vision.
fn series() -> [(Kind, Option<Load>, &'static str, RGBColor); 6] {
    let (blue, orange) = (RGBColor(0x00, 0x72, 0xb2), RGBColor(0xd5, 0x5e, 0x00));
    let (green, purple) = (RGBColor(0x00, 0x8f, 0x68), RGBColor(0xc0, 0x6a, 0x9b));
    [
        (Kind::Bare, None, "bare", blue),
        (Kind::Real, None, "real", orange),
        (Kind::Bare, Some(Load::Quiet), "bare, quiet", blue),
        (Kind::Real, Some(Load::Quiet), "real, quiet", orange),
        (Kind::Bare, Some(Load::Churn), "bare, churn", green),
        (Kind::Real, Some(Load::Churn), "real, churn", purple),
    ]
}

/// The plot as an SVG element; `None` if there are no two sizes to connect.
pub(super) fn draw(run: &Run, curve: Curve) -> Result<Option<String>> {
    let of_figure = |entry: &&Entry| entry.figure == curve.figure && plausible((curve.value)(&entry.summary));
    let entries: Vec<&Entry> = run.results.iter().filter(of_figure).collect();
    let mut sizes: Vec<u32> = entries.iter().map(|entry| entry.nodes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let Some(last) = sizes.last().copied().filter(|_| sizes.len() > 1) else {
        return Ok(None);
    };
    let limits: Vec<_> = curve
        .limits
        .iter()
        .filter(|(nodes, _)| sizes.contains(nodes))
        .collect();
    let shown = entries.iter().map(|entry| (curve.value)(&entry.summary));
    let end = axis_end(shown.chain(limits.iter().map(|(_, limit)| *limit)));
    let width = f64::from(last) * 1.03;

    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin_top(10)
            .margin_right(RIGHT)
            .set_label_area_size(LabelAreaPosition::Left, LEFT)
            .set_label_area_size(LabelAreaPosition::Bottom, BOTTOM)
            .build_cartesian_2d(0.0..width, 0.0..end)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(0)
            .y_labels(6)
            .y_label_formatter(&|value| tick(*value))
            .axis_style(GRID)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .label_style(text(11.0, MUTED, HPos::Right, VPos::Center))
            .draw()?;
        let area = chart.plotting_area();
        let below = |words: String, at: f64, y: i32| {
            let style = text(11.0, MUTED, HPos::Center, VPos::Top);
            area.draw(&(EmptyElement::at((at, 0.0)) + Text::new(words, (0, y), style)))
        };
        for nodes in &sizes {
            below(count(*nodes), f64::from(*nodes), 8)?;
        }
        below(format!("nodes ({})", curve.unit), width / 2.0, 26)?;
        let mut ends = Vec::new();
        for (kind, load, name, colour) in series() {
            let points: Vec<(f64, f64)> = sizes
                .iter()
                .filter_map(|nodes| run.find(kind, *nodes, curve.figure, load))
                .map(|entry| (f64::from(entry.nodes), (curve.value)(&entry.summary)))
                .filter(|(_, value)| plausible(*value))
                .collect();
            area.draw(&PathElement::new(points.clone(), colour.stroke_width(2)))?;
            for point in &points {
                area.draw(&(EmptyElement::at(*point) + Circle::new((0, 0), 4, colour.filled())))?;
            }
            ends.extend(
                points
                    .last()
                    .map(|point| (area.map_coordinate(point), name, colour)),
            );
        }
        for (nodes, limit) in limits {
            let dash = [
                (f64::from(*nodes) - width * 0.025, *limit),
                (f64::from(*nodes) + width * 0.025, *limit),
            ];
            area.draw(&PathElement::new(dash.to_vec(), INK.stroke_width(2)))?;
        }
        ends.sort_by_key(|((_, y), _, _)| *y);
        let mut free = i32::MIN;
        for ((x, y), name, colour) in ends {
            let at = y.max(free);
            free = at.saturating_add(LABEL);
            root.draw(&Text::new(
                name,
                (x + 18, at),
                text(11.5, colour, HPos::Left, VPos::Center),
            ))?;
        }
        root.present()?;
    }
    Ok(Some(svg))
}
