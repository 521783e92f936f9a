//! Labs as their users run them: the `bees` command on QEMU nodes (`qemu_`) and on hosted nodes
//! (`hosted_`). `cargo xtask test` builds what they need: image, capsules, `bees-node`.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{BEES, Lab, root};
use wire::describe::{self, Description};
use wire::id::PartHash;
use wire::tuple::Events;

/// A piece of a module that is looked for elsewhere: long enough not to be there by chance.
const PIECE: usize = 48;

/// `hello` with a constant that did not exist before this run.
fn tagged_hello(folder: &Path) -> (PathBuf, String) {
    let mut random = [0; 8];
    getrandom::fill(&mut random).unwrap();
    let tag = format!("tag-{:016x}", u64::from_le_bytes(random));
    let out = folder.join("modules");
    let status = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "-p", "xtask", "--", "capsules", "--out"])
        .arg(&out)
        .env("HELLO_TAG", &tag)
        .current_dir(root())
        .status()
        .unwrap();
    assert!(status.success(), "the tagged module could not be built");
    (out.join("hello.wasm"), tag)
}

/// Where `needle` first is in `hay`.
fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|window| window == needle)
}

/// The seconds at which a frame with `needle` in it first crossed a link, out of its capture.
fn first_crossing(pcap: &Path, needle: &[u8]) -> Option<f64> {
    let bytes = fs::read(pcap).unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!(word(0), 0xa1b2_c3d4, "{} is a capture with microseconds", pcap.display());
    let mut at = 24;
    while at + 16 <= bytes.len() {
        let (seconds, micros, len) = (word(at), word(at + 4), word(at + 8) as usize);
        let frame = &bytes[at + 16..at + 16 + len];
        if find(frame, needle).is_some() {
            return Some(f64::from(seconds) + f64::from(micros) / 1e6);
        }
        at += 16 + len;
    }
    None
}

/// The whole demonstration: code that nobody but the client had spreads from a over b to c, and answers.
fn spreads_along_the_line(on: &str) {
    // Where the code crosses is seen in the captures.
    let lab = Lab::deploy_readable("line3.toml", on);
    let (module, tag) = tagged_hello(&lab.folder);
    let code = fs::read(&module).unwrap();

    // Nothing that the nodes booted from has the module in it, by bytes or by hash.
    let hash = PartHash::of(&code);
    let state = lab.state();
    let mut booted_from: Vec<PathBuf> = fs::read_dir(&state)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "toml"))
        .collect();
    booted_from.extend([root().join("target/image/node"), root().join("target/image/loader.bin")]);
    for file in &booted_from {
        let bytes = fs::read(file).unwrap();
        let text = hash.to_string();
        for needle in [tag.as_bytes(), &hash.0, text.as_bytes(), &code[code.len() / 2..][..PIECE]] {
            assert_eq!(find(&bytes, needle), None, "{} knows the module", file.display());
        }
    }

    lab.bees(&["-n", "a", "flow", "inject", module.to_str().unwrap(), "--patience", "60"]);
    let answers = lab.bees(&["-n", "a", "session", "hello", "--wait", "60", "--until", "done", "--", "find"]);
    for (node, hops) in [("a", 0), ("b", 1), ("c", 2)] {
        let start = format!("node {node} hops {hops} ");
        let line =
            answers.lines().find(|l| l.starts_with(&start)).unwrap_or_else(|| panic!("{start}: {answers}"));
        assert!(line.ends_with(&tag), "{line} lacks {tag}");
    }
    assert!(answers.lines().any(|l| l.starts_with("done") && l.contains("nodes 3")), "{answers}");

    // How the code came: from the neighbor before, all of its bytes.
    for (node, source) in [("b", "a"), ("c", "b")] {
        let flows = lab.json(&["-n", node, "flow", "show"]);
        let flow = flows.as_array().unwrap().iter().find(|f| f["name"] == "hello").unwrap().clone();
        assert_eq!((flow["source"].as_str(), flow["state"].as_str()), (Some(source), Some("running")));
        let bytes = flow["arrival"]["bytes"].as_u64().unwrap();
        assert!(bytes > code.len() as u64, "{bytes} bytes of at least {}", code.len());
    }
    let piece = &code[code.len() / 2..][..PIECE];
    let ab = first_crossing(&state.join("ab.pcap"), piece).expect("the code crosses a-b");
    let bc = first_crossing(&state.join("bc.pcap"), piece).expect("the code crosses b-c");
    assert!(ab < bc, "a-b at {ab}, b-c at {bc}");

    // A ping from a to c, over code that c gets for it.
    let ping = root().join("target/capsules/ping.wasm");
    lab.bees(&["-n", "a", "flow", "inject", ping.to_str().unwrap(), "--patience", "60"]);
    // The first one waits for the compilers on the way.
    let request = "ping c count 5 interval 200 timeout 30000";
    let replies = lab.bees(&["-n", "a", "session", "ping", "--wait", "60", "--until", "done", "--", request]);
    assert!(replies.contains("5 sent, 5 received, 0% loss"), "{replies}");
    assert!(replies.contains("from c: seq=5 hops=2"), "{replies}");

    // Everything that ends gives back what it had.
    for node in ["a", "b", "c"] {
        for name in ["hello", "ping"] {
            lab.bees(&["-n", node, "flow", "stop", name]);
        }
        let info = lab.json(&["-n", node, "node", "show"]);
        let teams = lab.json(&["-n", node, "team", "show"]);
        assert_eq!(teams.as_array().map(Vec::len), Some(1), "only the root is left on {node}: {teams}");
        assert_eq!(info["flows"]["running"].as_u64(), Some(0), "{info}");
        // Nothing but the root's own record.
        assert!(info["memory"]["used"].as_u64().unwrap() < 4096, "{info}");
    }
}

#[test]
fn hosted_code_spreads_along_the_line() {
    spreads_along_the_line("hosted");
}

#[test]
fn qemu_code_spreads_along_the_line() {
    spreads_along_the_line("qemu");
}

/// In a lab as it is nodes prove who they are, and who captures its links learns nothing of what they say.
#[test]
fn hosted_links_are_protected() {
    let lab = Lab::deploy("line3.toml", "hosted");
    let hello = root().join("target/capsules/hello.wasm");
    let code = fs::read(&hello).unwrap();
    lab.bees(&["-n", "a", "flow", "inject", hello.to_str().unwrap(), "--patience", "60"]);
    let answers = lab.bees(&["-n", "a", "session", "hello", "--wait", "60", "--until", "done", "--", "find"]);
    assert!(answers.contains("nodes 3"), "{answers}");
    for node in ["a", "b", "c"] {
        let neighbors = lab.json(&["-n", node, "neighbor", "show"]);
        for neighbor in neighbors.as_array().unwrap() {
            assert_eq!(neighbor["protection"], "protected", "{neighbor}");
            assert!(neighbor["received"].as_u64().unwrap() > 0, "{neighbor}");
        }
    }
    let state = lab.state();
    for capture in ["ab.pcap", "bc.pcap"] {
        let capture = state.join(capture);
        assert!(first_crossing(&capture, &[0x88, 0xb5, 1, 0, 0xbe, 0xe6]).is_some(), "sealed frames cross");
        assert_eq!(first_crossing(&capture, &code[code.len() / 2..][..PIECE]), None);
        assert_eq!(first_crossing(&capture, &[0x88, 0xb5, 1, 0, 0xbe, 0xe5]), None, "a readable capsule");
    }
}

/// Processor time of a process so far.
fn processor_time(pid: u64) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[test]
fn qemu_idle_nodes_leave_the_processor_alone() {
    let lab = Lab::deploy("line3.toml", "qemu");
    let nodes = lab.json(&["lab", "inspect"]);
    let pids: Vec<u64> =
        nodes["nodes"].as_array().unwrap().iter().map(|n| n["pid"].as_u64().unwrap()).collect();
    assert_eq!(pids.len(), 3);
    std::thread::sleep(Duration::from_secs(2));
    let before: Vec<Duration> = pids.iter().map(|&p| processor_time(p)).collect();
    let start = Instant::now();
    std::thread::sleep(Duration::from_secs(10));
    let elapsed = start.elapsed();
    for (pid, before) in pids.iter().zip(before) {
        let used = processor_time(*pid) - before;
        assert!(used.as_secs_f64() <= 0.03 * elapsed.as_secs_f64(), "{used:?} of {elapsed:?}");
    }
}

#[test]
fn hosted_ring_and_star_answer() {
    for (file, nodes) in [("ring4.toml", 4), ("star5.toml", 5)] {
        let lab = Lab::deploy(file, "hosted");
        let hello = root().join("target/capsules/hello.wasm");
        let first = lab.json(&["lab", "inspect"])["nodes"][0]["name"].as_str().unwrap().to_string();
        lab.bees(&["-n", &first, "flow", "inject", hello.to_str().unwrap()]);
        let answers =
            lab.bees(&["-n", &first, "session", "hello", "--wait", "60", "--until", "done", "--", "find"]);
        assert!(answers.contains(&format!("nodes {nodes}")), "{file}: {answers}");
    }
}

#[test]
fn hosted_errors_say_what_to_do() {
    let lab = Lab::deploy("line3.toml", "hosted");
    let failed = |arguments: &[&str]| {
        let output = lab.run(arguments);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = failed(&["-n", "x", "node", "show"]);
    assert_eq!(code, Some(3), "{text}");
    let (code, text) = failed(&["-n", "a", "flow", "stop", "nothing"]);
    assert_eq!(code, Some(3), "{text}");
    let noise = lab.folder.join("noise.wasm");
    fs::write(&noise, b"\0asm\x01\0\0\0").unwrap();
    let (code, text) = failed(&["-n", "a", "flow", "inject", noise.to_str().unwrap()]);
    assert!(code.is_some_and(|c| c != 0) && text.contains("bees"), "{text}");
    // Another key than the administrator's opens nothing.
    let stranger = lab.folder.join("stranger.key");
    fs::write(&stranger, "07".repeat(32)).unwrap();
    let (code, text) = failed(&["-n", "a", "--key", stranger.to_str().unwrap(), "node", "show"]);
    assert_eq!(code, Some(4), "{text}");
    lab.bees(&["-n", "a", "node", "show"]);
}

/// README's first protocol: its text is the template's source, and its commands do what it says.
#[test]
fn hosted_readme_protocol_runs() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let blocks = |language: &str| -> Vec<String> {
        let fence = format!("```{language}\n");
        let starts = readme.split(&fence).skip(1);
        starts.map(|rest| rest.split("```").next().unwrap().to_string()).collect()
    };
    let source = fs::read_to_string(root().join("capsules/template/src/lib.rs")).unwrap();
    let shown = blocks("rust").into_iter().next().expect("README shows a protocol");
    assert_eq!(shown.trim_end(), source.split("#[cfg(test)]").next().unwrap().trim_end());

    // The commands, all but those that build, in a folder of their own.
    let script = blocks("sh").concat();
    let commands = script.lines().filter(|l| !l.starts_with("cargo ") && !l.starts_with("export "));
    let script = commands.collect::<Vec<_>>().join("\n");
    let folder = std::env::temp_dir().join(format!("bees-readme-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    for part in ["emulab", "target"] {
        std::os::unix::fs::symlink(root().join(part), folder.join(part)).unwrap();
    }
    let path = format!("{}:{}", Path::new(BEES).parent().unwrap().display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .args(["-e", "-c", &script])
        .current_dir(&folder)
        .env("PATH", path)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}\n{out}{err}");
    assert!(out.lines().any(|l| l == "good morning"), "{out}{err}");
    assert!(out.lines().any(|l| l.contains("template") && l.contains("running")), "b runs it: {out}");
    fs::remove_dir_all(&folder).unwrap();
}

/// A module about as large as a node admits, which keeps its compiler busy.
fn large_module() -> Vec<u8> {
    let mut text = String::from(
        "(module (memory (export \"memory\") 1 1) (global (export \"bees_inbox\") i32 (i32.const 64))
         (func (export \"bees_abi_1\"))",
    );
    for function in 0..1390 {
        text.push_str(&format!(
            "(func (param $a i64) (result i64) (local $b i64)
               (loop $l
                 (local.set $b (i64.add (i64.mul (local.get $a) (i64.const {function}))
                   (i64.rotl (local.get $b) (i64.const 7))))
                 (i64.store (i32.wrap_i64 (i64.and (local.get $b) (i64.const 65528))) (local.get $a))
                 (if (i64.eqz (i64.and (local.get $a) (i64.const 3)))
                   (then (local.set $b (i64.xor (local.get $b) (i64.const {function}))))
                   (else (local.set $b (i64.sub (local.get $b) (local.get $a)))))
                 (br_if $l (i64.lt_u (local.tee $a (i64.add (local.get $a) (i64.const 1))) (local.get $b))))
               local.get $a)"
        ));
    }
    text.push(')');
    let mut module = wat::parse_str(&text).unwrap();
    let description = Description {
        name: "large".into(),
        capsules: vec![],
        events: Events::default(),
        session: false,
        params: vec![],
        companions: vec![],
    };
    let mut section = vec![describe::SECTION.len() as u8];
    section.extend(describe::SECTION.as_bytes());
    section.extend(description.encode());
    module.push(0);
    module.push(u8::try_from(section.len()).unwrap());
    module.extend(section);
    module
}

/// While a large module is compiled at b, every ping passes through b.
fn compiling_delays_nobody(on: &str) {
    let lab = Lab::deploy("line3.toml", on);
    let module = lab.folder.join("large.wasm");
    fs::write(&module, large_module()).unwrap();
    let ping = root().join("target/capsules/ping.wasm");
    lab.bees(&["-n", "a", "flow", "inject", ping.to_str().unwrap(), "--patience", "60"]);
    let session = |request: &str| {
        let mut command = Command::new(BEES);
        command.args(["-n", "a", "session", "ping", "--wait", "90", "--until", "done", "--", request]);
        command.current_dir(&lab.folder).stdout(std::process::Stdio::piped()).spawn().unwrap()
    };
    let replies =
        |child: std::process::Child| String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    // The first one waits for the compilers on the way; the next ones show the path at rest.
    replies(session("ping c count 1 timeout 30000"));
    let rest = replies(session("ping c count 20 interval 100 timeout 2000"));
    let pinging = session("ping c count 200 interval 100 timeout 2000");
    std::thread::sleep(Duration::from_millis(500));
    lab.bees(&["-n", "b", "flow", "inject", module.to_str().unwrap(), "--patience", "120"]);
    let busy = replies(pinging);
    let flows = lab.json(&["-n", "b", "flow", "show"]);
    let large = flows.as_array().unwrap().iter().find(|f| f["name"] == "large").unwrap();
    let compiled = large["arrival"]["compile_us"].as_u64().unwrap();
    let rtt = |text: &str| text.lines().find(|l| l.starts_with("rtt")).unwrap_or_default().to_string();
    println!("{on}: {} bytes compiled in {compiled} us", fs::metadata(&module).unwrap().len());
    println!("{on}: at rest {}", rtt(&rest));
    println!("{on}: compiling {}", rtt(&busy));
    assert!(rest.contains("20 sent, 20 received"), "{rest}");
    assert!(busy.contains("200 sent, 200 received"), "{busy}");
}

#[test]
fn hosted_compiling_delays_nobody() {
    compiling_delays_nobody("hosted");
}

#[test]
fn qemu_compiling_delays_nobody() {
    compiling_delays_nobody("qemu");
}
