//! Links the loader as a flat binary at 1 MiB.

fn main() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    println!("cargo:rerun-if-changed=link.ld");
    println!("cargo:rustc-link-arg=-T{folder}/link.ld");
    println!("cargo:rustc-link-arg=--oformat=binary");
}
