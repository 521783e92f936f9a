//! Compiles again when the tag changes.

fn main() {
    println!("cargo:rerun-if-env-changed=HELLO_TAG");
}
