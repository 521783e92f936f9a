//! The lessons of `docs/tutorial`, followed to the letter: their files are written, their commands run, and what they
//! say is printed is printed.
//!
//! Of a lesson's fenced blocks, ```` ```sh ```` is run, ```` ```LANGUAGE PATH ```` is written to that file, and
//! ```` ```text ```` are lines that the commands before it print, in this order; `...` stands for anything.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{BEES, root};

/// Cargo's alias for xtask is the project's; the lessons' folders lie elsewhere.
const CARGO: &str = r#"cargo() { [ "$1" = xtask ] || return 1; shift; "$XTASK" "$@"; }"#;

#[derive(Debug, PartialEq)]
enum Block<'a> {
    Run(&'a str),
    Write(&'a str, &'a str),
    Printed(&'a str),
}

/// The blocks of a page that mean something.
fn blocks(page: &str) -> Vec<Block<'_>> {
    let mut blocks = vec![];
    let mut rest = page;
    while let Some((_, fenced)) = rest.split_once("\n```") {
        let (info, body) = fenced.split_once('\n').expect("a fence has a line of its own");
        let (body, after) = body.split_once("\n```").expect("a block ends");
        blocks.push(match info.split_once(' ') {
            Some((_, path)) => Block::Write(path, body),
            None if info == "sh" => Block::Run(body),
            None if info == "text" => Block::Printed(body),
            None => panic!("nobody checks a block of \"{info}\""),
        });
        rest = after;
    }
    blocks
}

/// Whether a line is as the lesson says.
fn matches(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split("...");
    let first = parts.next().unwrap_or("");
    let Some(mut line) = line.strip_prefix(first) else { return false };
    let rest: Vec<&str> = parts.collect();
    let Some((last, middle)) = rest.split_last() else { return line.is_empty() };
    for part in middle {
        let Some((_, after)) = line.split_once(part) else { return false };
        line = after;
    }
    line.ends_with(last)
}

/// A folder for one lesson; its lab is taken down in any case.
struct Desk(PathBuf);

impl Desk {
    fn new(lesson: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("bees-{}-{lesson}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for part in ["emulab", "target"] {
            std::os::unix::fs::symlink(root().join(part), folder.join(part)).unwrap();
        }
        Self(folder)
    }

    /// Runs commands; what they printed.
    fn run(&self, commands: &str) -> String {
        let bin = Path::new(BEES).parent().unwrap();
        let output = Command::new("bash")
            .args(["-e", "-c", &format!("{CARGO}\n{commands}")])
            .current_dir(&self.0)
            .env("XTASK", bin.join("xtask"))
            .env("BEES", BEES)
            .env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()))
            .output()
            .unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{commands}\n{out}{err}");
        out.into_owned()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = Command::new(BEES).args(["lab", "destroy"]).current_dir(&self.0).output();
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn follow(lesson: &str) {
    let page = fs::read_to_string(root().join("docs/tutorial").join(lesson).with_extension("md")).unwrap();
    let desk = Desk::new(lesson);
    let mut printed = String::new();
    for block in blocks(&page) {
        match block {
            Block::Run(commands) => printed = desk.run(commands),
            Block::Write(path, contents) => {
                let path = desk.0.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, format!("{contents}\n")).unwrap();
            }
            Block::Printed(expected) => {
                let mut lines = printed.lines();
                for pattern in expected.lines() {
                    assert!(lines.any(|l| matches(pattern, l)), "{lesson}: no \"{pattern}\" in\n{printed}");
                }
            }
        }
    }
}

macro_rules! lessons {
    ($($test:ident: $lesson:literal),* $(,)?) => {
        $(#[test]
        fn $test() {
            follow($lesson);
        })*

        #[test]
        fn hosted_lessons_are_all_here() {
            let folder = fs::read_dir(root().join("docs/tutorial")).unwrap();
            let mut pages: Vec<_> = folder.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            pages.sort();
            pages.retain(|page| page != "README.md");
            let mut named = [$(concat!($lesson, ".md")),*];
            named.sort();
            assert_eq!(pages, named);
            let contents = fs::read_to_string(root().join("docs/tutorial/README.md")).unwrap();
            pages.iter().for_each(|page| assert!(contents.contains(page.as_str()), "{page}"));
        }
    };
}

lessons! {
    hosted_lesson_1: "1-lab",
    hosted_lesson_2: "2-first-protocol",
    hosted_lesson_3: "3-capsules-and-limits",
    hosted_lesson_4: "4-neighbors",
    hosted_lesson_5: "5-sessions",
    hosted_lesson_6: "6-soft-state-and-timers",
    hosted_lesson_7: "7-simulator",
    hosted_lesson_8: "8-budgets",
    hosted_lesson_9: "9-c",
    hosted_lesson_10: "10-replacement",
}

#[test]
fn hosted_lessons_are_read_as_they_are_meant() {
    assert!(
        matches("a ... c", "a b c")
            && matches("...c", "abc")
            && matches("a...", "abc")
            && matches("abc", "abc")
    );
    assert!(!matches("a ... c", "a b d") && !matches("ab", "abc") && !matches("...b...d", "abc"));
    let page = "# x\n\n```sh\nls\n```\n\n```rust a/b.rs\nfn\n```\n\n```text\nb\n```\n";
    assert_eq!(blocks(page), [Block::Run("ls"), Block::Write("a/b.rs", "fn"), Block::Printed("b")]);
}
