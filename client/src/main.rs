//! The `bees` command.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    client::cli::main()
}
