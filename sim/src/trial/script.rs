//! A trial as a text file, so that a protocol in any language has its tests in a lab beside it:
//!
//! ```text
//! # What b's program hears of what a's program says.
//! lab line 3
//! n1 < is anybody there
//! n2 <
//! n1 < good morning
//! n2 > good
//! ```
//!
//! | line | what |
//! |---|---|
//! | `lab line N`, `lab ring N`, `lab star N` | the first line: so many nodes, n1, n2, ...; the flow is injected at n1 |
//! | `NODE < TEXT` | a program at the node opens a session, if it has none, and says the text, if there is some |
//! | `NODE > TEXT` | it waits for a line that contains the text, at most ten seconds of virtual time |
//! | `loss P` | from now on each link loses this part of its frames, 0 to 1 |
//! | `wait SECONDS` | time passes |

use std::fmt;
use std::time::Duration;

use super::{Trial, TrialError};
use crate::lab::Lab;
use crate::medium::Shape;

/// Nodes of a script's lab, at most.
const MAX_NODES: usize = 200;
/// Seconds that a script may wait for at a time.
const MAX_WAIT: u64 = 3600;

/// What a script says.
#[derive(Debug, Clone, PartialEq)]
pub struct Script {
    lab: Lab,
    steps: Vec<(usize, Step)>,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Say { node: String, text: String },
    Hear { node: String, text: String },
    Loss(f64),
    Wait(u64),
}

/// Where a script fails, and why. Its author erred, or the protocol's.
#[derive(Debug)]
pub struct ScriptError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub why: Why,
}

/// What is wrong with a line.
#[derive(Debug)]
pub enum Why {
    /// It is none that a script may have.
    Unread(&'static str),
    /// It did not come about.
    Failed(TrialError),
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        match &self.why {
            Why::Unread(why) => f.write_str(why),
            Why::Failed(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for ScriptError {}

impl Script {
    /// Reads a script.
    pub fn parse(text: &str) -> Result<Self, ScriptError> {
        let lines = text.lines().map(str::trim).enumerate().map(|(at, line)| (at + 1, line));
        let mut lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let unread = |line, why| ScriptError { line, why: Why::Unread(why) };
        let (line, first) = lines.next().unwrap_or((1, ""));
        let lab = lab(first).map_err(|why| unread(line, why))?;
        let steps = lines.map(|(line, text)| Ok((line, step(text).map_err(|why| unread(line, why))?)));
        Ok(Self { lab, steps: steps.collect::<Result<_, _>>()? })
    }

    /// Runs it with a protocol's module; how many lines did what they say.
    pub fn run(&self, module: &[u8]) -> Result<usize, ScriptError> {
        let failed = |line: &usize, why| ScriptError { line: *line, why: Why::Failed(why) };
        let mut trial = Trial::start(&self.lab, module).map_err(|why| failed(&1, why))?;
        for (line, step) in &self.steps {
            match step {
                Step::Say { node, text } if text.is_empty() => trial.open(node),
                Step::Say { node, text } => trial.say(node, text),
                Step::Hear { node, text } => trial.hear(node, text).map(|_| ()),
                Step::Loss(loss) => {
                    let shape = Shape { loss: *loss, ..Shape::default() };
                    (0..self.lab.links.len()).for_each(|link| trial.sim().set_shape(link, shape));
                    Ok(())
                }
                Step::Wait(seconds) => {
                    trial.run(Duration::from_secs(*seconds));
                    Ok(())
                }
            }
            .map_err(|why| failed(line, why))?;
        }
        Ok(self.steps.len())
    }
}

fn lab(line: &str) -> Result<Lab, &'static str> {
    const USAGE: &str = "a script begins with its lab: line N, ring N or star N, at most 200 nodes";
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["lab", form, count] = words[..] else { return Err(USAGE) };
    let nodes = count.parse().ok().filter(|n| (1..=MAX_NODES).contains(n)).ok_or(USAGE)?;
    match form {
        "line" => Ok(Lab::line(nodes)),
        "ring" if nodes > 2 => Ok(Lab::ring(nodes)),
        "star" if nodes > 1 => Ok(Lab::star(nodes)),
        _ => Err(USAGE),
    }
}

fn step(line: &str) -> Result<Step, &'static str> {
    let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim_start();
    let (sign, text) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let (node, text) = (first.to_string(), text.trim().to_string());
    match (first, sign) {
        ("loss", part) => {
            let part = part.parse().ok().filter(|part| (0.0..=1.0).contains(part));
            part.map(Step::Loss).ok_or("a loss is a part between 0 and 1")
        }
        ("wait", seconds) => {
            let seconds = seconds.parse().ok().filter(|seconds| *seconds <= MAX_WAIT);
            seconds.map(Step::Wait).ok_or("a wait is a whole number of seconds, at most an hour")
        }
        (_, "<") => Ok(Step::Say { node, text }),
        (_, ">") if text.is_empty() => Err("what is waited for?"),
        (_, ">") => Ok(Step::Hear { node, text }),
        _ => Err("expected NODE < TEXT, NODE > TEXT, loss PART or wait SECONDS"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_read() {
        let script =
            Script::parse("# a comment\n\nlab ring 4\n n1 <  hello  you \nn2 <\nn1 > you\nloss 0.1\nwait 3");
        let steps: Vec<Step> = script.unwrap().steps.into_iter().map(|(_, step)| step).collect();
        let (say, hear) = (
            |node: &str, text: &str| Step::Say { node: node.into(), text: text.into() },
            Step::Hear { node: "n1".into(), text: "you".into() },
        );
        assert_eq!(steps, [say("n1", "hello  you"), say("n2", ""), hear, Step::Loss(0.1), Step::Wait(3)]);
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, line, why) in [
            ("", 1, "begins with its lab"),
            ("n1 < x", 1, "begins with its lab"),
            ("lab line 0", 1, "at most 200"),
            ("lab line 201", 1, "at most 200"),
            ("lab ring 2", 1, "at most 200"),
            ("lab line 2\n\nn1 >", 3, "waited for"),
            ("lab line 2\nloss 2", 2, "between 0 and 1"),
            ("lab line 2\nloss nan", 2, "between 0 and 1"),
            ("lab line 2\nwait 4000", 2, "an hour"),
            ("lab line 2\nhello", 2, "expected NODE"),
        ] {
            let error = Script::parse(text).unwrap_err();
            assert!(error.line == line && error.to_string().contains(why), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(lab line [0-9]{1,3}\n)?([ a-z0-9<>.#\n]|\\PC){0,80}") {
            let _ = Script::parse(&text);
        }
    }
}
