//! scratch
mod common;
use common::real::{self, ask, found, number, start, total};
use sim::lab::Lab;
use sim::medium::Shape;
use sim::{Options, Sim};
use std::time::{Duration, Instant};

#[test]
fn scratch() {
    let seeds: Vec<u64> =
        std::env::var("SEEDS").unwrap_or("0".into()).split(' ').map(|s| s.parse().unwrap()).collect();
    for seed in seeds {
        let t = Instant::now();
        let shape = Shape {
            rate: Some(12_500_000),
            delay: Duration::from_millis(1),
            jitter: Duration::from_micros(300),
            loss: 0.1,
            ..Shape::default()
        };
        let lab = Lab::random(500, 3 + (seed % 3) as usize, seed).shaped(shape);
        let mut sim = Sim::new(&lab, seed, Options::default()).unwrap();
        let made = t.elapsed();
        let session = start(&mut sim, 0, "hello");
        let lines =
            ask(&mut sim, session, &std::env::var("FIND").unwrap_or("find".into()), Duration::from_secs(120));
        let f = found(&lines);
        println!(
            "seed {seed}: {} nodes, max round {:?}, hops {:?}, {:?}",
            f.len(),
            f.iter().map(|f| f.round).max(),
            f.iter().map(|f| f.hops).max(),
            lines.last()
        );
        println!("  {:?} {:?} virtual {} stats {:?}", made, t.elapsed(), sim.now().micros(), sim.stats());
        for c in &real::node(&mut sim, 0).counters {
            let n = total(&mut sim, &c.name);
            if n > 0 {
                print!("  {} {}", c.name, n);
            }
        }
        println!();
        let teams: Vec<_> =
            (0..500).flat_map(|at| real::teams(&mut sim, at)).filter(|t| t.flow.is_some()).collect();
        println!(
            "  strikes {} refused {} dropped {} maxmem {} cpu {}",
            teams.iter().map(|t| t.strikes).sum::<u32>(),
            teams.iter().map(|t| t.refused).sum::<u64>(),
            teams.iter().map(|t| t.events.2).sum::<u64>(),
            teams.iter().map(|t| t.memory.1).max().unwrap_or(0),
            teams.iter().map(|t| t.cpu_us).sum::<u64>()
        );
        let mut arr: Vec<_> = (0..500).flat_map(|at| real::flows(&mut sim, at)).map(|f| f.arrival).collect();
        arr.sort_by_key(|a| a.download_us);
        println!("  median {:?}\n  worst {:?}", arr[arr.len() / 2], arr.last().unwrap());
        let _ = number;
    }
}
