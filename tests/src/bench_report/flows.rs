//! How a result changes with the number of concurrent flows.

use anyhow::Result;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use crate::bench::result::{Entry, Mode, Run};

use super::floors::Subject;
use super::number::{axis_end, count, plausible, tick};
use super::palette::{GRID, INK, MUTED, colour, mode, text};

/// Sizes in pixels.
const SIZE: (u32, u32) = (532, 320);
const LEFT: u32 = 56;
const RIGHT: u32 = 112;
const BOTTOM: u32 = 44;
/// Least distance of two labels.
const LABEL: i32 = 14;

type Area<'a> = DrawingArea<SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// A line per mode for what `subject` says, whatever its number of flows; `None` if the run knows only one number.
pub(super) fn draw(run: &Run, subject: Subject) -> Result<Option<String>> {
    let entries: Vec<&Entry> = run
        .results
        .iter()
        .filter(|entry| {
            (entry.workload, entry.target, entry.wire) == (subject.workload, subject.target, subject.wire)
                && plausible(entry.median)
        })
        .collect();
    let mut counts: Vec<u32> = entries.iter().map(|entry| entry.flows).collect();
    counts.sort_unstable();
    counts.dedup();
    if counts.len() < 2 {
        return Ok(None);
    }
    let position = |flows: u32| f64::from(flows.max(1)).log10();
    let first = counts.first().copied().map_or(0.0, position);
    let last = counts.last().copied().map_or(1.0, position);
    let margin = (last - first).max(0.1) * 0.05;
    let end = axis_end(entries.iter().flat_map(|entry| [entry.median, entry.max]));

    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin_top(10)
            .margin_right(RIGHT)
            .set_label_area_size(LabelAreaPosition::Left, LEFT)
            .set_label_area_size(LabelAreaPosition::Bottom, BOTTOM)
            .build_cartesian_2d((first - margin)..(last + margin), 0.0..end)?;
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
        for flows in &counts {
            let style = text(11.0, MUTED, HPos::Center, VPos::Top);
            area.draw(
                &(EmptyElement::at((position(*flows), 0.0)) + Text::new(count(*flows), (0, 8), style)),
            )?;
        }
        let style = text(11.0, MUTED, HPos::Center, VPos::Top);
        let unit = entries.first().map_or("", |entry| entry.unit.as_str());
        area.draw(
            &(EmptyElement::at((f64::midpoint(first, last), 0.0))
                + Text::new(
                    format!("concurrent flows ({unit}, all flows together)"),
                    (0, 26),
                    style,
                )),
        )?;
        let mut ends = Vec::new();
        for mode in Mode::ALL {
            let mut points: Vec<(f64, &Entry)> = entries
                .iter()
                .filter(|entry| entry.mode == mode)
                .map(|entry| (position(entry.flows), *entry))
                .collect();
            points.sort_by(|(a, _), (b, _)| a.total_cmp(b));
            if let Some((x, entry)) = points.last() {
                ends.push((mode, area.map_coordinate(&(*x, entry.median))));
            }
            draw_series(area, mode, &points)?;
        }
        label_ends(&root, ends)?;
        root.present()?;
    }
    Ok(Some(svg))
}

fn draw_series(area: &Area<'_>, mode: Mode, points: &[(f64, &Entry)]) -> Result<()> {
    let colour = colour(mode);
    let line: Vec<(f64, f64)> = points.iter().map(|(x, entry)| (*x, entry.median)).collect();
    area.draw(&PathElement::new(line, colour.stroke_width(2)))?;
    for (x, entry) in points {
        if plausible(entry.min) && plausible(entry.max) {
            area.draw(&PathElement::new(
                vec![(*x, entry.min), (*x, entry.max)],
                INK.stroke_width(1),
            ))?;
        }
        area.draw(&(EmptyElement::at((*x, entry.median)) + Circle::new((0, 0), 4, colour.filled())))?;
    }
    Ok(())
}

/// The modes' names at the ends of their lines, moved apart where they would overlap.
fn label_ends(
    root: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    mut ends: Vec<(Mode, (i32, i32))>,
) -> Result<()> {
    ends.sort_by_key(|(_, (_, y))| *y);
    let mut free = i32::MIN;
    for (named, (x, y)) in ends {
        let at = y.max(free);
        free = at.saturating_add(LABEL);
        root.draw(&Text::new(
            mode(named),
            (x + 12, at),
            text(11.5, colour(named), HPos::Left, VPos::Center),
        ))?;
    }
    Ok(())
}
