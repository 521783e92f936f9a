//! Lines of a protocol server and of those that ask it, cut anywhere.
#![no_main]

use fuzz::pieces;
use libfuzzer_sys::fuzz_target;
use wire::server::{Head, MAX_ANSWER, MAX_LINE, Question, take_line};

fuzz_target!(|bytes: &[u8]| {
    let mut input = Vec::new();
    for (_, piece) in pieces(bytes) {
        input.extend_from_slice(piece);
        loop {
            match take_line(&mut input) {
                Ok(Some(line)) => {
                    assert!(line.len() < MAX_LINE);
                    if let Ok(question) = Question::parse(&line) {
                        assert_eq!(Question::parse(&question.to_string()), Ok(question));
                    }
                    if let Ok(Head::Ok(len)) = Head::parse(&line) {
                        assert!(len <= MAX_ANSWER);
                    }
                }
                Ok(None) => break assert!(input.len() < MAX_LINE),
                Err(_) => return,
            }
        }
    }
});
