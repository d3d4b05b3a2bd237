//! Ratios to the kernel's vxlan device of the same run, with the floors.

use anyhow::Result;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use crate::bench::result::{Mode, Run, Wire, Workload};

use super::floors::{Ratio, Subject};
use super::number::count;
use super::palette::{GRID, INK, MUTED, colour, mode, target, text, wire, workload};

/// Sizes in pixels.
const ROW: u32 = 15;
const AXIS: u32 = 44;
const WIDTH: u32 = 1100;
const LEFT: u32 = 330;
const RIGHT: u32 = 150;
const TOP: u32 = 8;

/// The modes of a row, from top to bottom.
const MODES: [Mode; 3] = [Mode::Bare, Mode::Slow, Mode::Fast];

type Area<'a> = DrawingArea<SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// One line of the chart.
struct Line {
    mode: Mode,
    ratio: Ratio,
    floor: Option<f64>,
}

/// The chart; `None` when there is nothing to divide.
pub(super) fn draw(run: &Run) -> Result<Option<String>> {
    let blocks: Vec<(Subject, Vec<Line>)> = Subject::all(run)
        .into_iter()
        .map(|subject| (subject, lines(run, subject)))
        .filter(|(_, lines)| !lines.is_empty())
        .collect();
    if blocks.is_empty() {
        return Ok(None);
    }
    let slots = blocks
        .iter()
        .fold(0, |sum: u32, (_, lines)| sum.saturating_add(height(lines)));
    let end = blocks
        .iter()
        .flat_map(|(_, lines)| lines)
        .flat_map(|line| [line.ratio.median, line.floor.unwrap_or_default()])
        .fold(1.0, f64::max)
        .min(20.0)
        * 1.1;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, slots * ROW + AXIS + TOP)).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin_top(TOP)
            .margin_right(RIGHT)
            .set_label_area_size(LabelAreaPosition::Left, LEFT)
            .set_label_area_size(LabelAreaPosition::Bottom, AXIS)
            .build_cartesian_2d(0.0..end, 0.0..f64::from(slots))?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .y_labels(0)
            .x_labels(8)
            .x_label_formatter(&|value| format!("{value:.1}×"))
            .x_desc("by the median of the kernel's vxlan device")
            .axis_style(GRID)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .label_style(text(11.0, MUTED, HPos::Center, VPos::Top))
            .axis_desc_style(text(11.0, MUTED, HPos::Center, VPos::Top))
            .draw()?;
        let area = chart.plotting_area();
        let top = f64::from(slots);
        area.draw(&PathElement::new(
            vec![(1.0, 0.0), (1.0, top)],
            colour(Mode::Kernel).stroke_width(2),
        ))?;
        let mut slot = 0;
        for (subject, lines) in &blocks {
            let first = top - f64::from(slot) - 0.5;
            let label = text(12.0, INK, HPos::Left, VPos::Center);
            area.draw(
                &(EmptyElement::at((0.0, first))
                    + Text::new(title(*subject), (4 - LEFT.cast_signed(), 0), label)),
            )?;
            for (offset, line) in (0_u32..).zip(lines) {
                draw_line(area, line, top - f64::from(slot + offset) - 0.5, end)?;
            }
            slot += height(lines);
        }
        root.present()?;
    }
    Ok(Some(svg))
}

fn lines(run: &Run, subject: Subject) -> Vec<Line> {
    MODES
        .into_iter()
        .filter_map(|mode| {
            Some(Line {
                mode,
                ratio: subject.ratio(run, mode, Mode::Kernel)?,
                floor: subject.floor(mode),
            })
        })
        .collect()
}

/// Slots of a block, the gap after it included.
fn height(lines: &[Line]) -> u32 {
    u32::try_from(lines.len()).unwrap_or(0).max(1) + 1
}

fn title(subject: Subject) -> String {
    let flows = match subject.flows {
        1 => "1 flow".to_owned(),
        many => format!("{} flows", count(many)),
    };
    // Only large packets are cut or not.
    let wire = if subject.workload == Workload::TcpBulk || subject.wire == Wire::Segments {
        format!(" · {}", wire(subject.wire))
    } else {
        String::new()
    };
    format!(
        "{} · {} · {flows}{wire}",
        workload(subject.workload),
        target(subject.target),
    )
}

fn draw_line(area: &Area<'_>, line: &Line, y: f64, end: f64) -> Result<()> {
    let colour = colour(line.mode);
    let inside = |value: f64| value.clamp(0.0, end);
    let median = inside(line.ratio.median);
    area.draw(&PathElement::new(
        vec![(inside(line.ratio.low), y), (inside(line.ratio.high), y)],
        colour.stroke_width(2),
    ))?;
    area.draw(&(EmptyElement::at((median, y)) + Circle::new((0, 0), 5, colour.filled())))?;
    let mut shown = format!("{} {:.2}×", mode(line.mode), line.ratio.median);
    if let Some(floor) = line.floor {
        area.draw(&PathElement::new(
            vec![(inside(floor), y - 0.5), (inside(floor), y + 0.5)],
            INK.stroke_width(2),
        ))?;
        shown.push_str(if line.ratio.median >= floor {
            " ✓"
        } else {
            " ✗"
        });
    }
    let style = text(11.0, INK, HPos::Left, VPos::Center);
    area.draw(&(EmptyElement::at((end, y)) + Text::new(shown, (6, 0), style)))?;
    Ok(())
}
