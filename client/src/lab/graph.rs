//! `bees lab graph`: a lab's picture.

use std::fmt::Write;

use nodeos::units::{Rate, Time};
use sim::lab::{Lab, Link};

/// The language of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Lines that people read.
    Text,
    /// Graphviz.
    Dot,
    /// Mermaid, which code hosts draw in Markdown.
    Mermaid,
}

/// Draws `lab`.
pub fn draw(lab: &Lab, format: Format) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let mut line = |text: std::fmt::Arguments<'_>| writeln!(out, "{text}").unwrap_or_default();
    let name = |at: usize| lab.nodes[at].name.as_str();
    match format {
        Format::Text => {
            let width = lab.nodes.iter().map(|n| n.name.len()).max().unwrap_or(0);
            for link in &lab.links {
                let [a, b] = link.ends.map(name);
                let text = [link.name.clone(), label(link)].join("  ");
                line(format_args!("{a:width$} ── {b:width$}  {}", text.trim_end()));
            }
            let alone = |at: &usize| lab.links.iter().all(|l| !l.ends.contains(at));
            for at in (0..lab.nodes.len()).filter(alone) {
                line(format_args!("{}", name(at)));
            }
        }
        Format::Dot => {
            line(format_args!("graph \"{}\" {{", lab.name));
            lab.nodes.iter().for_each(|n| line(format_args!("  \"{}\";", n.name)));
            for link in &lab.links {
                let [a, b] = link.ends.map(name);
                let text = [link.name.clone(), label(link)].join("\\n");
                line(format_args!("  \"{a}\" -- \"{b}\" [label=\"{text}\"];"));
            }
            line(format_args!("}}"));
        }
        Format::Mermaid => {
            line(format_args!("graph LR"));
            // A node's name may be a word of the language; its number is not.
            let nodes = lab.nodes.iter().enumerate();
            nodes.for_each(|(i, n)| line(format_args!("  n{i}([\"{}\"])", n.name)));
            for link in &lab.links {
                let [a, b] = link.ends;
                let text = [link.name.clone(), label(link)].join(" ");
                line(format_args!("  n{a} ---|\"{}\"| n{b}", text.trim_end()));
            }
        }
    }
    out
}

/// How a link treats frames.
fn label(link: &Link) -> String {
    let shape = &link.shape;
    let rate = shape.rate.map(|r| Rate(r).to_string());
    let delay = (!shape.delay.is_zero()).then(|| Time(shape.delay).to_string());
    let share = |p: f64, what: &str| (p > 0.0).then(|| format!("{what} {}%", (p * 1e4).round() / 1e2));
    let parts = [rate, delay, share(shape.loss, "loss"), share(shape.reorder, "reorder")];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAB: &str = r#"
name = "two"
[[node]]
name = "a"
[[node]]
name = "long"
[[node]]
name = "alone"
[[link]]
name = "al"
ends = ["a", "long"]
rate = "100mbit"
delay = "1ms"
loss = "0.5%"
"#;

    #[test]
    fn every_language_has_nodes_and_links() {
        let lab = Lab::parse(LAB).unwrap();
        assert_eq!(draw(&lab, Format::Text), "a     ── long   al  100mbit 1ms loss 0.5%\nalone\n");
        assert_eq!(
            draw(&lab, Format::Dot),
            "graph \"two\" {\n  \"a\";\n  \"long\";\n  \"alone\";\n  \
             \"a\" -- \"long\" [label=\"al\\n100mbit 1ms loss 0.5%\"];\n}\n"
        );
        assert_eq!(
            draw(&lab, Format::Mermaid),
            "graph LR\n  n0([\"a\"])\n  n1([\"long\"])\n  n2([\"alone\"])\n  \
             n0 ---|\"al 100mbit 1ms loss 0.5%\"| n1\n"
        );
    }
}
