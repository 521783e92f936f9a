//! What the loader left: modules in memory, and its own text, which is not needed any more.

use std::env;
use std::str;

use crate::pages::{Rights, protect};

/// Further modules, in the order in which they were given to the loader. The first is the configuration.
pub fn modules() -> Vec<&'static [u8]> {
    let count = number(env::var("BEES_MODULES").ok().as_deref()).unwrap_or(0);
    (0..count)
        .map_while(|index| region(&format!("BEES_MODULE{index}")))
        // Safety: the loader put the modules below the image, into memory that nobody else uses, and
        // mapped it to itself.
        .map(|(start, size)| unsafe { std::slice::from_raw_parts(start as *const u8, size) })
        .collect()
}

/// The configuration: TOML text.
pub fn configuration() -> Result<&'static str, String> {
    let module = modules().into_iter().next();
    let bytes = module.ok_or("no configuration: give it as the second module (-initrd node,config.toml)")?;
    str::from_utf8(bytes).map_err(|error| format!("the configuration is not UTF-8: {error}"))
}

/// Makes the loader's text data: it has done its work.
pub fn seal_loader() -> Result<(), String> {
    let (start, size) = region("BEES_LOADER").ok_or("the loader did not say where it is")?;
    // Safety: the loader has jumped into the kernel and never runs again.
    unsafe { protect(start, size, Rights::ReadOnly) }
        .map_err(|_| "the loader's text is not mapped".to_owned())
}

/// When the loader was entered and when it was done, by the time-stamp counter.
pub fn loader_times() -> Option<(u64, u64)> {
    let (entered, done) = region("BEES_LOADED")?;
    Some((entered as u64, done as u64))
}

/// `start:size` in a variable that the loader set.
fn region(name: &str) -> Option<(usize, usize)> {
    let value = env::var(name).ok()?;
    let (start, size) = value.split_once(':')?;
    Some((number(Some(start))?, number(Some(size))?))
}

fn number(text: Option<&str>) -> Option<usize> {
    let text = text?;
    match text.strip_prefix("0x") {
        Some(digits) => usize::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
