# What the tools share: where things are kept, and how the tools speak. To be sourced by bash.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Everything that is downloaded or built stays here, so that a fresh clone need not do it again.
export SAPWOOD_CACHE=${SAPWOOD_CACHE:-${XDG_CACHE_HOME:-${HOME:?is not set, so say in SAPWOOD_CACHE where to keep things}/.cache}/sapwood}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$SAPWOOD_CACHE/target}

# As the caller has it: what follows adds places that the caller's shell does not know.
callers_path=$PATH

# rustup's default place, which a shell that does not log in may not have in its PATH.
if ! command -v cargo >/dev/null && [ -x "${HOME:-}/.cargo/bin/cargo" ]; then
    export PATH="$HOME/.cargo/bin:$PATH"
fi

# Where tools/setup puts Node when the machine's own is missing or too old.
node_runtime=$SAPWOOD_CACHE/node-runtime/node-bin
use_node_runtime() {
    if [ -x "$node_runtime/node" ]; then
        export PATH="$node_runtime:$PATH"
    fi
}
use_node_runtime

# Where tools/setup puts RocksDB. Without it cargo builds it anew in each target directory, which takes 20 minutes.
rocksdb=$SAPWOOD_CACHE/rocksdb
use_rocksdb() {
    if [ -e "$rocksdb/librocksdb.a" ]; then
        export ROCKSDB_LIB_DIR=$rocksdb ROCKSDB_STATIC=1
    fi
}
use_rocksdb

# To stderr, because stdout belongs to what a tool runs: the broker's table is parsed by scripts.
say() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
}

fail() {
    say "$*"
    exit 1
}

# Says a command, then runs it.
step() {
    say "$*"
    "$@" >&2
}

has() {
    command -v "$1" >/dev/null 2>&1
}

# Has the caller's shell find `sapwood`, which stands in this directory. What is installed already is left alone.
offer_command() {
    local built=$1 bin=${HOME:-}/.local/bin
    local link=$bin/sapwood
    if [ "$(PATH=$callers_path command -v sapwood)" -ef "$built/sapwood" ]; then
        return
    fi
    if [[ ":$callers_path:" == *":$bin:"* ]] && { [ -L "$link" ] || [ ! -e "$link" ]; } &&
        mkdir -p "$bin" && ln -sfn "$built/sapwood" "$link" 2>/dev/null &&
        [ "$(PATH=$callers_path command -v sapwood)" = "$link" ]; then
        say "sapwood is now a command: $link"
    else
        say "for sapwood to be a command in other terminals: export PATH=$(printf '%q' "$built"):\$PATH"
    fi
}

wasm_target=wasm32-wasip1
# Where programs that use the client run, besides Linux. They are checked, not linked: that would take each one's linker.
client_targets=(x86_64-pc-windows-msvc aarch64-apple-darwin aarch64-linux-android)

# Whether a toolchain (as "+1.90.0", or empty for the active one) can build for a target.
builds_for() {
    local target=$1 toolchain=$2 sysroot
    sysroot=$(rustc ${toolchain:+"$toolchain"} --print sysroot 2>/dev/null) && [ -d "$sysroot/lib/rustlib/$target" ]
}

# The active toolchain under its exact version, which rustup also knows where "stable" cannot be changed.
exact_toolchain() {
    printf '+%s' "$(rustc --version | cut -d' ' -f2)"
}
