#!/bin/bash
# A compiler for cargo (RUSTC_WRAPPER) that puts libFuzzer's counters into thaw's own crates. What they depend on is
# built as always, and so is there already when anything else has been built.
set -euo pipefail
name=
arguments=("$@")
for ((at = 1; at < $#; at++)); do
    if [ "${arguments[at]}" = --crate-name ]; then
        name=${arguments[at + 1]}
        break
    fi
done
case $name in
    thaw_*)
        # The same as cargo-fuzz asks for (LLVM's SanitizerCoverage).
        exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
            -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
            -Cllvm-args=-sanitizer-coverage-trace-compares
        ;;
    *) exec "$@" ;;
esac
