#!/bin/sh
# rustc for the node's image (RUSTC_WRAPPER): Cranelift without its backend for an interpreter, Pulley.
# wasmtime always asks cargo for it, the node compiles for its own processor only, and it would be 9 % of
# the image.
case " $* " in
*' --crate-name cranelift_codegen '*)
    for argument; do
        shift
        [ "$argument" = 'feature="pulley"' ] && argument=without_pulley
        set -- "$@" "$argument"
    done
    ;;
esac
exec "$@"
