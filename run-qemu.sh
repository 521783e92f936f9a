#!/usr/bin/env bash
# Sets up, builds, boots a lab of nodes, injects a protocol at one of them and shows how it spreads.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
    cat <<'TEXT'
Usage: ./run-qemu.sh [OPTION]...

Sets up, builds, boots three nodes in a line, gives node a the protocol hello, shows who answered and
how the code came to each node, pings c from a, and takes the lab down again.

  --lab FILE        another lab than emulab/line3.toml
  --hosted          nodes are Linux processes instead of virtual machines
  --accel ACCEL     what QEMU runs on: tcg, kvm, or auto (the default: KVM where a trial succeeds)
  --console NODE    show this node's console meanwhile
  --keep            leave the lab up, and say what to type next
  -j, --json        print what was seen as JSON, for programs
  -h, --help        this text

Exit codes are those of bees (bees --help).
TEXT
}

lab=emulab/line3.toml
on=qemu
demo=()
global=()
while [ $# -gt 0 ]; do
    case $1 in
    --hosted) on=hosted ;;
    --keep) demo+=(--keep) ;;
    -j | --json) global+=(--json) ;;
    --lab | --accel | --console)
        if [ $# -lt 2 ]; then
            echo "run-qemu.sh: $1 needs a value" >&2
            exit 2
        fi
        if [ "$1" = --lab ]; then lab=$2; else demo+=("$1" "$2"); fi
        shift
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        echo "run-qemu.sh: unknown option $1; try -h" >&2
        exit 2
        ;;
    esac
    shift
done

# Everything else is installed by `cargo xtask setup`; cargo itself has to come from somewhere.
if ! command -v cargo >/dev/null; then
    install="apt-get install -y --no-install-recommends rustc-web cargo-web gcc libc6-dev"
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        echo "run-qemu.sh: there is no cargo; running: $install" >&2
        apt-get update >&2
        $install >&2
    else
        echo "run-qemu.sh: there is no cargo. Run: sudo $install   (or install it from https://rustup.rs)" >&2
        exit 3
    fi
fi

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
{
    cargo xtask setup
    cargo xtask capsules
    if [ "$on" = qemu ]; then cargo xtask image; fi
    echo "run-qemu.sh: build bees and the hosted node (some minutes the first time)"
    cargo build --quiet
} >&2

# Takes the lab down itself, also on Ctrl-C.
exec "$target/debug/bees" ${global[@]+"${global[@]}"} lab demo "$lab" --on "$on" ${demo[@]+"${demo[@]}"}
