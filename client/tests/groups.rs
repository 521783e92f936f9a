//! multicast on the health agent's five nodes, as its users meet it: one program sends, others get what they want of it.

mod common;

use std::process::{Child, Command, Stdio};

use common::{BEES, Lab, root};

fn member(lab: &Lab, arguments: &[&str]) -> Child {
    let mut command = Command::new(BEES);
    command.args(arguments).current_dir(&lab.folder).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[track_caller]
fn printed(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn programs_get_what_they_want(on: &str) {
    let lab = Lab::deploy("health.toml", on);
    let module = root().join("target/capsules/multicast.wasm");
    lab.bees(&["flow", "build", module.to_str().unwrap(), "-o", "multicast.tuple"]);
    // Members may be there before the source is.
    for node in ["server", "e", "d"] {
        lab.bees(&["-n", node, "flow", "inject", "multicast.tuple", "--patience", "60"]);
    }
    let all = ["multicast", "join", "news", "--count", "6", "--wait", "60s"];
    let everything = member(&lab, &[&["-n", "e", "-j"], &all[..]].concat());
    let sport =
        member(&lab, &["-n", "d", "multicast", "join", "news", "sport/", "--count", "3", "--wait", "60s"]);
    let mut source = Command::new(BEES)
        .args(["-n", "server", "multicast", "send", "news", "--patience", "60s"])
        .current_dir(&lab.folder)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = source.stdin.take().unwrap();
    // Until both have what they wait for: the first ones go to whoever has joined first, and a link loses 1 %.
    let mut members = [Some(everything), Some(sport)];
    let mut outputs = [String::new(), String::new()];
    for round in 0..300 {
        use std::io::Write;
        if let Err(error) = writeln!(input, "sport/{round}").and_then(|()| writeln!(input, "weather/{round}"))
        {
            panic!("the source has ended: {error}");
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        for (member, output) in members.iter_mut().zip(&mut outputs) {
            if member.as_mut().is_some_and(|m| m.try_wait().unwrap().is_some()) {
                *output = printed(member.take().unwrap());
            }
        }
        if members.iter().all(Option::is_none) {
            break;
        }
    }
    drop(input);
    assert!(source.wait().unwrap().success());
    let [everything, sport] = outputs;
    assert_eq!(sport.lines().filter(|l| l.starts_with("sport/")).count(), 3, "{sport}");
    assert_eq!(sport.lines().count(), 3, "{sport}");
    let everything: Vec<serde_json::Value> =
        everything.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(everything.len(), 6);
    assert!(everything.iter().all(|p| p["hops"] == 3), "{everything:?}");
    assert!(everything.iter().any(|p| p["text"].as_str().unwrap().starts_with("weather/")));
    // Nobody is left: nothing is carried.
    let failed = lab.run(&["-n", "server", "multicast", "send", "news", "--patience", "2s", "--", "x"]);
    assert_eq!(failed.status.code(), Some(5), "{failed:?}");
    // Bounds are told.
    let failed = lab.run(&["-n", "d", "multicast", "join", "news", "seventeen-letters"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("a term is"), "{failed:?}");
}

#[test]
fn hosted_programs_get_what_they_want() {
    programs_get_what_they_want("hosted");
}

#[test]
fn qemu_programs_get_what_they_want() {
    programs_get_what_they_want("qemu");
}
