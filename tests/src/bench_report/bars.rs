//! Horizontal bars in groups, with whiskers from the smallest to the largest round.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::number::{axis_end, plausible, short, tick};
use super::palette::{GRID, INK, MUTED, text};

/// One bar.
pub(super) struct Bar {
    /// Left of it.
    pub(super) label: String,
    /// Its length; not drawn if it is not plausible.
    pub(super) value: f64,
    /// Lower end of the whisker.
    pub(super) low: f64,
    /// Upper end of the whisker.
    pub(super) high: f64,
    /// Its colour.
    pub(super) colour: RGBColor,
}

/// Bars below a title.
pub(super) struct Group {
    /// Above the bars.
    pub(super) title: String,
    /// From top to bottom.
    pub(super) bars: Vec<Bar>,
}

/// Sizes in pixels.
const ROW: u32 = 21;
const AXIS: u32 = 44;
const RIGHT: u32 = 66;
const TOP: u32 = 6;

/// The chart as an SVG element; `unit` is written below the axis, labels have `label_width` pixels.
pub(super) fn draw(groups: &[Group], unit: &str, width: u32, label_width: u32) -> Result<String> {
    let rows: u32 = groups.iter().map(|group| count(group.bars.len()) + 2).sum();
    let rows = rows.saturating_sub(1).max(1);
    let end = axis_end(
        groups
            .iter()
            .flat_map(|group| &group.bars)
            .flat_map(|bar| [bar.value, bar.high]),
    );
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (width, rows * ROW + AXIS + TOP)).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin_top(TOP)
            .margin_right(RIGHT)
            .set_label_area_size(LabelAreaPosition::Left, label_width)
            .set_label_area_size(LabelAreaPosition::Bottom, AXIS)
            .build_cartesian_2d(0.0..end, 0.0..f64::from(rows))?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .y_labels(0)
            .x_labels(6)
            .x_label_formatter(&|value| tick(*value))
            .x_desc(unit)
            .axis_style(GRID)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .label_style(text(11.0, MUTED, HPos::Center, VPos::Top))
            .axis_desc_style(text(11.0, MUTED, HPos::Center, VPos::Top))
            .draw()?;
        let area = chart.plotting_area();
        let mut row = 0;
        for group in groups {
            let y = middle(rows, row);
            let style = text(12.0, INK, HPos::Left, VPos::Center);
            let left = -pixels(label_width) + 4;
            area.draw(&(EmptyElement::at((0.0, y)) + Text::new(group.title.clone(), (left, 0), style)))?;
            row += 1;
            for bar in &group.bars {
                draw_bar(area, bar, middle(rows, row))?;
                row += 1;
            }
            row += 1;
        }
        root.present()?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<
    SVGBackend<'a>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

fn draw_bar(area: &Area<'_>, bar: &Bar, y: f64) -> Result<()> {
    let label = text(11.5, INK, HPos::Right, VPos::Center);
    area.draw(&(EmptyElement::at((0.0, y)) + Text::new(bar.label.clone(), (-6, 0), label)))?;
    let value_style = text(11.5, INK, HPos::Left, VPos::Center);
    if !plausible(bar.value) {
        let absent = text(11.5, MUTED, HPos::Left, VPos::Center);
        area.draw(&(EmptyElement::at((0.0, y)) + Text::new("no valid result", (6, 0), absent)))?;
        return Ok(());
    }
    area.draw(&Rectangle::new(
        [(0.0, y - 0.38), (bar.value, y + 0.38)],
        bar.colour.filled(),
    ))?;
    let mut end = bar.value;
    if plausible(bar.low) && plausible(bar.high) && bar.low < bar.high {
        end = end.max(bar.high);
        let line = INK.stroke_width(1);
        for path in [
            [(bar.low, y), (bar.high, y)],
            [(bar.low, y - 0.2), (bar.low, y + 0.2)],
            [(bar.high, y - 0.2), (bar.high, y + 0.2)],
        ] {
            area.draw(&PathElement::new(path.to_vec(), line))?;
        }
    }
    area.draw(&(EmptyElement::at((end, y)) + Text::new(short(bar.value), (6, 0), value_style)))?;
    Ok(())
}

/// The middle of row `row` from the top, in the chart's coordinates, which count from the bottom.
fn middle(rows: u32, row: u32) -> f64 {
    f64::from(rows) - f64::from(row) - 0.5
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX / (4 * ROW))
}

fn pixels(size: u32) -> i32 {
    i32::try_from(size).unwrap_or(i32::MAX)
}
