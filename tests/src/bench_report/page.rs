//! The page around the sections: style sheet, head, title.

use crate::bench::result::{Machine, Mode, Run};

use super::number::{escaped, utc};
use super::palette::{GRID, INK, MUTED, colour, hex};

/// Follows the reader's light or dark setting. Text and lines of the plots are found by their colour.
const STYLE: &str = "
:root { color-scheme: light dark; --paper: #ffffff; --ink: #22262b; --muted: #5b626b; --grid: #d9dde2; --card: #f6f7f9; \
--bad: #b3261e; --good: #00704f; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e8eaed; --muted: #a5adb7; --grid: #343a42; \
--card: #1d2126; --bad: #ff8a80; --good: #5fd3a8; } }
body { margin: 0 auto; max-width: 1120px; padding: 1.5rem; background: var(--paper); color: var(--ink); \
font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; } h2 { font-size: 1.25rem; margin: 2.4rem 0 .4rem; }
p, ul { max-width: 46rem; } .muted, figcaption { color: var(--muted); } .bad { color: var(--bad); } .good { color: var(--good); }
.note { border-left: 4px solid var(--bad); padding: .3rem .9rem; background: var(--card); }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 500px), 1fr)); gap: 1.2rem; }
figure { margin: 0; padding: .8rem; background: var(--card); border-radius: 8px; overflow-x: auto; }
figure h3 { margin: 0; font-size: 1rem; } figcaption { font-size: .87rem; margin-bottom: .4rem; }
figure svg { max-width: 100%; height: auto; display: block; } figure.wide svg { min-width: 760px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .87rem; margin: .4rem 0 1rem; }
th, td { padding: .22rem .7rem; border-bottom: 1px solid var(--grid); text-align: left; white-space: nowrap; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; } thead th { color: var(--muted); font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; } dt { color: var(--muted); } dd { margin: 0; }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .45em; }
summary { cursor: pointer; }
";

/// The whole document.
pub(super) fn page(run: &Run, body: &str) -> String {
    document("Overlay benchmark", &subtitle(&run.machine), &keys(), body)
}

/// When, what and on what, in one line.
pub(crate) fn subtitle(machine: &Machine) -> String {
    format!(
        "{} · {} · Linux {}",
        utc(machine.started_at),
        said(&machine.agent, "agent version unknown"),
        said(&machine.kernel, "unknown"),
    )
}

/// A document of one file; `rules` are added to the style sheet. Nothing is escaped here.
pub(crate) fn document(title: &str, subtitle: &str, rules: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>{STYLE}{}{rules}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<p class=\"muted\">{subtitle}</p>\n\
         {body}</body>\n</html>\n",
        colours()
    )
}

/// `text` for HTML, or what stands for it when it is empty.
pub(crate) fn said(text: &str, otherwise: &str) -> String {
    let text = text.trim();
    escaped(if text.is_empty() { otherwise } else { text })
}

/// The rules that give the plots' neutral colours the reader's setting.
fn colours() -> String {
    let mut rules = String::new();
    for (fixed, variable) in [(INK, "ink"), (MUTED, "muted"), (GRID, "grid")] {
        let fixed = hex(fixed);
        rules.push_str(&format!(
            "svg [fill=\"{fixed}\"] {{ fill: var(--{variable}); }} \
             svg [stroke=\"{fixed}\"] {{ stroke: var(--{variable}); }}\n"
        ));
    }
    rules
}

/// The rules that give the modes' keys their colours.
fn keys() -> String {
    let mut rules = String::new();
    for mode in Mode::ALL {
        rules.push_str(&format!(
            ".key.{} {{ background: {}; }}\n",
            mode.name(),
            hex(colour(mode))
        ));
    }
    rules
}

/// A plot with title and caption; `svg` gets the title as its name for readers that do not see it.
pub(crate) fn figure(title: &str, caption: &str, svg: &str, wide: bool) -> String {
    let (title, caption) = (escaped(title), escaped(caption));
    let class = if wide { " class=\"wide\"" } else { "" };
    let svg = svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{title}\" "), 1);
    format!("<figure{class}>\n<h3>{title}</h3>\n<figcaption>{caption}</figcaption>\n{svg}</figure>\n")
}
