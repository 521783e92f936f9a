//! Links the kernel into the node, and makes the guests of the self-tests. `cargo xtask image` names
//! the kernel's object in HERMIT_OBJECT.

use std::fmt::Write;
use std::path::PathBuf;
use std::{env, fs};

/// Functions of the module that takes long to compile.
const BIG_FUNCTIONS: usize = 64;
/// Loop bodies in each.
const BIG_BODIES: usize = 16;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/selftest/guest.wat");
    println!("cargo:rerun-if-env-changed=HERMIT_OBJECT");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    let guest = wat::parse_file("src/selftest/guest.wat").expect("the guest is WebAssembly");
    fs::write(out.join("guest.wasm"), guest).expect("the output folder is writable");
    let big = wat::parse_str(big()).expect("the big guest is WebAssembly");
    fs::write(out.join("big.wasm"), big).expect("the output folder is writable");

    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("hermit") {
        let object = env::var("HERMIT_OBJECT").expect("build the image with: cargo xtask image");
        println!("cargo:rerun-if-changed={object}");
        println!("cargo:rustc-link-arg-bins={object}");
        // Segments with different rights must not share a page: the loader protects them apart.
        println!("cargo:rustc-link-arg-bins=-zseparate-code");
        println!("cargo:rustc-link-arg-bins=-zrelro");
        // A tenth of a percent instead of 3 % of the image: image/boot/src/relocate.rs applies them.
        println!("cargo:rustc-link-arg-bins=--pack-dyn-relocs=relr");
        // Functions with the same code are one: the compiler that the image carries has many of them.
        println!("cargo:rustc-link-arg-bins=--icf=all");
        // What is where: the image itself is stripped.
        let map = PathBuf::from(&object).with_file_name("node.map");
        println!("cargo:rustc-link-arg-bins=-Map={}", map.display());
    }
}

/// A module of many functions, as WebAssembly text.
fn big() -> String {
    let mut text = String::from("(module (memory 1)\n");
    for function in 0..BIG_FUNCTIONS {
        let _ = writeln!(text, "(func (export \"f{function}\") (param $a i64) (result i64) (local $b i64)");
        for body in 0..BIG_BODIES {
            let _ = writeln!(
                text,
                "(loop $l (local.set $b (i64.add (i64.mul (local.get $a) (i64.const {body})) \
                 (i64.rotl (local.get $b) (i64.const {function})))) \
                 (i64.store (i32.wrap_i64 (i64.and (local.get $b) (i64.const 65528))) (local.get $a)) \
                 (br_if $l (i64.lt_u (local.tee $a (i64.add (local.get $a) (i64.const 1))) (local.get $b))))"
            );
        }
        text.push_str("local.get $a)\n");
    }
    text.push(')');
    text
}
