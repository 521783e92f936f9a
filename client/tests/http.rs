//! HTTP through the health agent's five nodes, with curl as it is: a real server behind the gateway, proxies at two other
//! nodes. What one of them got the other one gets from the network.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{BEES, Lab, root};

const LARGE: usize = 200_000;

/// A server: `/large` may be kept, `/short` for four seconds, `/never` not at all, and all else is not found.
struct Origin {
    at: SocketAddr,
    /// Requests that came.
    hits: Arc<AtomicUsize>,
}

fn large() -> Vec<u8> {
    (0..LARGE as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

impl Origin {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (at, hits) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = hits.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                loop {
                    let mut header = String::new();
                    if reader.read_line(&mut header).unwrap() == 0 || header == "\r\n" {
                        break;
                    }
                }
                let number = count.fetch_add(1, Ordering::SeqCst);
                let number = format!("{number}\n").into_bytes();
                let (status, control, body) = match line.split(' ').nth(1).unwrap() {
                    "/large" => ("200 OK", "max-age=600", large()),
                    "/short" => ("200 OK", "max-age=4", number),
                    "/never" => ("200 OK", "no-store", number),
                    _ => ("404 Not Found", "no-store", b"there is no such thing\n".to_vec()),
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\nCache-Control: {control}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(&[head.as_bytes(), &body].concat());
            }
        });
        Self { at, hits }
    }

    fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

/// A program that ends with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn program(lab: &Lab, arguments: &[&str]) -> Program {
    let mut command = Command::new(BEES);
    command.args(arguments).current_dir(&lab.folder).stdout(Stdio::piped());
    Program(command.spawn().unwrap())
}

/// A proxy at a node, and where clients find it.
fn proxy(lab: &Lab, node: &str, more: &[&str]) -> (Program, String) {
    let arguments = [&["-n", node, "http", "proxy", "--listen", "127.0.0.1:0"], more].concat();
    let mut program = program(lab, &arguments);
    let mut line = String::new();
    BufReader::new(program.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (program, line.trim().to_string())
}

fn curl(arguments: &[&str]) -> Output {
    let mut command = Command::new("curl");
    command.args(["-q", "--silent", "--max-time", "60", "--noproxy", ""]).args(arguments);
    for variable in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"] {
        command.env_remove(variable);
    }
    command.output().expect("curl is installed (cargo xtask setup --tests)")
}

/// Head and body of an answer.
#[track_caller]
fn answer(arguments: &[&str]) -> (String, Vec<u8>) {
    let output = curl(&[&["--include"], arguments].concat());
    assert!(output.status.success(), "curl {arguments:?}: {output:?}");
    let end = output.stdout.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    (String::from_utf8(output.stdout[..end].to_vec()).unwrap(), output.stdout[end..].to_vec())
}

fn curl_gets_what_the_network_keeps(on: &str) {
    let lab = Lab::deploy("health.toml", on);
    let module = root().join("target/capsules/http.wasm");
    lab.bees(&["flow", "build", module.to_str().unwrap(), "-o", "http.tuple"]);
    for node in ["server", "d", "e"] {
        lab.bees(&["-n", node, "flow", "inject", "http.tuple", "--patience", "60"]);
    }
    let origin = Origin::start();
    let allow = origin.at.to_string();
    let _gateway = program(&lab, &["-n", "server", "http", "gateway", "--allow", &allow]);
    let (_first, e) = proxy(&lab, "e", &[]);
    let server = format!("http://{}", origin.at);
    let (_second, d) = proxy(&lab, "d", &["--origin", &server]);
    // Over three hops, one of which loses a frame in a hundred.
    let (head, body) = answer(&["-x", &e, &format!("{server}/large")]);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("\r\nVia: 1.1 bees\r\n"), "{head}");
    assert!(body == large(), "{} bytes", body.len());
    assert_eq!(origin.hits(), 1);
    // Again, there and at another node: nothing reaches the server, nor the gateway.
    let stats = |node: &str| {
        let line = lab.bees(&["-n", node, "session", "http", "--until", "done", "--", "stats"]);
        let words: Vec<String> = line.split_whitespace().map(String::from).collect();
        move |name: &str| -> u64 {
            let at = words.iter().position(|w| w == name).unwrap_or_else(|| panic!("{name}: {words:?}"));
            words[at + 1].parse().unwrap()
        }
    };
    let fetched = stats("server")("fetched");
    let (head, body) = answer(&["-x", &e, &format!("{server}/large")]);
    assert!(body == large() && head.contains("\r\nX-Bees-Hops: 0\r\n"), "{head}");
    // As a plain server, without a proxy that the client knows of.
    let (head, body) = answer(&[&format!("{d}/large")]);
    assert!(body == large(), "{head}");
    let hops: u32 = head.split("X-Bees-Hops: ").nth(1).unwrap().split('\r').next().unwrap().parse().unwrap();
    assert!(hops <= 1, "{head}");
    assert_eq!((origin.hits(), stats("server")("fetched")), (1, fetched));
    assert!(stats("e")("hits") as usize >= LARGE / 1024);

    // What has expired is fetched again, what may not be kept always is.
    let text = |path: &str| String::from_utf8(answer(&["-x", &e, &format!("{server}{path}")]).1).unwrap();
    assert_eq!((text("/short"), text("/short")), ("1\n".into(), "1\n".into()));
    std::thread::sleep(Duration::from_millis(4500));
    assert_eq!(text("/short"), "2\n");
    assert_eq!((text("/never"), text("/never")), ("3\n".into(), "4\n".into()));
    let reload = answer(&["-x", &e, "-H", "Cache-Control: no-cache", &format!("{server}/short")]);
    assert_eq!(reload.1, b"5\n");
    // Heads, errors, and what is not carried.
    let head = curl(&["--head", "-x", &e, &format!("{server}/large")]);
    let head = String::from_utf8(head.stdout).unwrap();
    assert!(head.contains(&format!("\r\nContent-Length: {LARGE}\r\n")), "{head}");
    for (arguments, status) in [
        (vec!["-x", &e, &format!("{server}/nothing")], 404),
        (vec!["-x", &e, "http://127.0.0.1:1/"], 403),
        (vec!["-x", &e, "-X", "POST", &format!("{server}/large")], 405),
        (vec!["-x", &e, "-X", "BREW", &format!("{server}/large")], 501),
        (vec![&*format!("{e}/large")], 400),
    ] {
        let (head, _) = answer(&arguments);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{arguments:?}: {head}");
    }
    // Several at once, on connections that stay open.
    let urls: Vec<String> = (0..6).map(|n| format!("{server}/nothing?{n}")).collect();
    let clients: Vec<_> = urls
        .chunks(2)
        .map(|pair| {
            let arguments: Vec<String> = [&["-x".to_string(), e.clone()][..], pair].concat();
            std::thread::spawn(move || curl(&arguments.iter().map(String::as_str).collect::<Vec<_>>()))
        })
        .collect();
    for client in clients {
        let output = client.join().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "there is no such thing\n".repeat(2),
            "{output:?}"
        );
    }
}

#[test]
fn hosted_curl_gets_what_the_network_keeps() {
    curl_gets_what_the_network_keeps("hosted");
}

#[test]
fn qemu_curl_gets_what_the_network_keeps() {
    curl_gets_what_the_network_keeps("qemu");
}
