//! NodeOS: what lies between a platform and the execution environment.
#![no_std]
#![deny(unsafe_code)]
extern crate alloc;

pub mod buf;
pub mod platform;
