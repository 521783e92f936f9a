//! What Linux measures: load, memory, and the chips under `/sys/class/hwmon`.
//!
//! A chip may take milliseconds to answer, so a thread of its own reads them once a second; the node gets
//! what was read last.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nodeos::platform::{Reading, Sensors};

/// Time between two rounds.
const EVERY: Duration = Duration::from_secs(1);
/// Values of chips that are read in a round.
const MAX_INPUTS: usize = 96;
/// Bytes that are read of a file.
const MAX_FILE: u64 = 4096;
/// Kinds of values of a chip, and their units (Documentation/hwmon/sysfs-interface).
const KINDS: [(&str, &str); 5] = [
    ("temp", "millicelsius"),
    ("fan", "rpm"),
    ("in", "millivolt"),
    ("curr", "milliampere"),
    ("power", "microwatt"),
];

/// The machine that this process runs on.
#[derive(Debug)]
pub struct Machine(Arc<Mutex<Vec<Reading>>>);

impl Machine {
    /// Reads everything once, and from then on in the background for as long as this exists.
    pub fn start() -> io::Result<Self> {
        let newest = Arc::new(Mutex::new(read(Path::new("/"))));
        let shared = Arc::downgrade(&newest);
        thread::Builder::new().name("sensors".into()).spawn(move || {
            loop {
                thread::sleep(EVERY);
                let readings = read(Path::new("/"));
                let Some(newest) = shared.upgrade() else { return };
                *newest.lock().unwrap_or_else(PoisonError::into_inner) = readings;
            }
        })?;
        Ok(Self(newest))
    }
}

impl Sensors for Machine {
    fn readings(&self) -> Vec<Reading> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One round. What a machine does not have is left out.
fn read(root: &Path) -> Vec<Reading> {
    let mut readings = Vec::new();
    let mut add = |name: String, value| {
        let name = name.chars().map(|c| if c.is_ascii_graphic() { c } else { '_' }).collect::<String>();
        readings.push(Reading { name: name.into(), value });
    };
    let load = text(&root.join("proc/loadavg")).unwrap_or_default();
    for (minutes, value) in ["1", "5", "15"].iter().zip(load.split(' ')) {
        if let Ok(value) = value.parse::<f64>() {
            add(format!("load-{minutes}min-thousandths"), (value * 1000.0) as i64);
        }
    }
    let memory = text(&root.join("proc/meminfo")).unwrap_or_default();
    for (key, name) in [("MemTotal:", "total"), ("MemAvailable:", "available")] {
        let line = memory.lines().find_map(|l| l.strip_prefix(key)).map(str::trim);
        let number = line.and_then(|l| l.strip_suffix(" kB")).and_then(|n| n.parse::<i64>().ok());
        if let Some(kilobytes) = number {
            add(format!("machine-memory-{name}-bytes"), kilobytes.saturating_mul(1024));
        }
    }
    let mut left = MAX_INPUTS;
    for chip in entries(&root.join("sys/class/hwmon")) {
        let path = root.join("sys/class/hwmon").join(&chip);
        let name = text(&path.join("name")).unwrap_or_default();
        for file in entries(&path) {
            let Some((what, unit)) = input(&file).filter(|_| left > 0) else { continue };
            left -= 1;
            if let Some(value) = text(&path.join(&file)).ok().and_then(|v| v.trim().parse().ok()) {
                add(format!("{chip}/{}/{what}-{unit}", name.trim()), value);
            }
        }
    }
    readings
}

/// `temp1` and its unit, of `temp1_input`.
fn input(file: &str) -> Option<(&str, &'static str)> {
    let what = file.strip_suffix("_input")?;
    let kind = what.trim_end_matches(|c: char| c.is_ascii_digit());
    KINDS.iter().find(|(k, _)| *k == kind).map(|(_, unit)| (what, *unit))
}

/// Names in a directory, in order.
fn entries(path: &Path) -> Vec<String> {
    let Ok(list) = fs::read_dir(path) else { return Vec::new() };
    let mut names: Vec<String> = list.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_memory_and_chips_are_read() {
        let root = std::env::temp_dir().join(format!("bees-sensors-{}", std::process::id()));
        let put = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("proc/loadavg", "0.60 1.38 x 2/111 18836\n");
        put("proc/meminfo", "MemTotal:       24684096 kB\nMemFree: 1 kB\nMemAvailable:   much\n");
        put("sys/class/hwmon/hwmon0/name", "k10 temp\n");
        put("sys/class/hwmon/hwmon0/temp1_input", "-42500\n");
        put("sys/class/hwmon/hwmon0/temp1_crit", "99000\n");
        put("sys/class/hwmon/hwmon0/fan2_input", "broken\n");
        let seen: Vec<(String, i64)> = read(&root).into_iter().map(|r| (r.name.into(), r.value)).collect();
        fs::remove_dir_all(&root).unwrap();
        let expected = [
            ("load-1min-thousandths", 600),
            ("load-5min-thousandths", 1380),
            ("machine-memory-total-bytes", 24_684_096 * 1024),
            ("hwmon0/k10_temp/temp1-millicelsius", -42_500),
        ];
        assert_eq!(seen, expected.map(|(name, value)| (name.to_string(), value)));
    }

    #[test]
    fn this_machine_has_a_load() {
        let machine = Machine::start().unwrap();
        assert!(machine.readings().iter().any(|r| &*r.name == "load-1min-thousandths"));
    }
}
