# How tools/test runs the test programs: cargo builds them and says what it would run, and then those that wait run beside
# those that compute. To be sourced by bash, after common.sh.
# shellcheck shell=bash

# These measure memory, allocations or turns, or fill the machine: nothing runs beside them.
alone=(sapwood:load sapwood:attacks sapwood:fairness sapwood:allocations sapwood:native_flood)
# These use less than half a processor, because they wait for clients, restarts and deadlines: two of them run beside one
# that does not. Those that take longest come first. A program that is not named here has its turn among the others.
waiting=(
    sapwood:page sapwood:conformance sapwood:faults sapwood:tree_namespaces sapwood:applications sapwood:http
    sapwood:web_clients sapwood:cli_bench sapwood:cli_native sapwood:native_hostile sapwood:cli_tree sapwood:cli_help
    sapwood:nats sapwood:docs
)
waiting_max=2
slowest_shown=10

# Has cargo build the tests, run those of the documentation, and queue the programs instead of running them.
queue_programs() {
    local queue=$1 host
    shift
    host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
    say "cargo test --locked --release --workspace $*"
    # Cargo says that it runs a program when it is queued; run_programs says when it does run.
    env "CARGO_TARGET_${host}_RUNNER=$root/tools/queue" "SAPWOOD_TEST_QUEUE=$queue" \
        cargo test --locked --release --workspace "$@" 2> >(grep -v '^ *Running ' >&2) >&2
}

# Runs a program as cargo would have, to its end, and leaves its time beside it.
run_program() {
    local entry=$1 environment command result=0 begin=${EPOCHREALTIME/[.,]/}
    mapfile -d '' environment <"$entry.environment"
    mapfile -d '' command <"$entry"
    (cd "${command[0]}" && exec env -i "${environment[@]}" "${command[@]:1}") </dev/null || result=$?
    printf '%s\n' "$(((${EPOCHREALTIME/[.,]/} - begin) / 1000))" >"$entry.ms"
    return "$result"
}

# Starts a program in the background; $running is what runs, by process.
start_program() {
    local entry=$1
    if [ "$queued" -gt 1 ]; then
        run_program "$entry" >"$entry.output" 2>&1 &
    else
        # What a single program prints is seen as it comes.
        run_program "$entry" >&2 &
    fi
    running[$!]=$entry
}

end_programs() {
    local pid
    for pid in "${!running[@]}"; do
        # With all that it started: each is a process group of its own.
        kill -- "-$pid" 2>/dev/null || true
    done
}

# Prints what a program said, once it has ended.
report_program() {
    local entry=$1 result=$2
    say "${entry##*/}: $(seconds "$(cat "$entry.ms")")"
    [ ! -e "$entry.output" ] || cat "$entry.output" >&2
    if [ "$result" != 0 ]; then
        say "${entry##*/} failed with exit status $result"
        failed+=("${entry##*/}")
    fi
}

seconds() {
    printf '%d.%d s' $(($1 / 1000)) $(($1 % 1000 / 100))
}

is_among() {
    local wanted=$1
    shift
    [[ " $* " == *" $wanted "* ]]
}

# Runs what is queued. After a failure nothing is begun any more, unless the second argument is yes; $failed has the names.
run_programs() {
    local queue=$1 goes_on=$2 entry name pid result lone=() patient=() busy=() queued=0 busy_now="" patient_now=0
    local -A running=()

    for name in "${waiting[@]}"; do
        [ ! -e "$queue/$name" ] || patient+=("$queue/$name")
    done
    for entry in "$queue"/*.environment; do
        entry=${entry%.environment}
        [ -e "$entry" ] || continue
        queued=$((queued + 1))
        name=${entry##*/}
        if is_among "$name" "${alone[@]}"; then
            lone+=("$entry")
        elif ! is_among "$name" "${waiting[@]}"; then
            busy+=("$entry")
        fi
    done
    # A group of processes for each program, and interrupts that it hears: a shell has its background jobs ignore them.
    set -m
    trap end_programs EXIT
    while true; do
        if [ ${#failed[@]} -gt 0 ] && [ "$goes_on" = no ]; then
            lone=() patient=() busy=()
        fi
        while [ ${#patient[@]} -gt 0 ] && [ "$patient_now" -lt "$waiting_max" ]; do
            start_program "${patient[0]}"
            patient=("${patient[@]:1}")
            patient_now=$((patient_now + 1))
        done
        if [ ${#busy[@]} -gt 0 ] && [ -z "$busy_now" ]; then
            start_program "${busy[0]}"
            busy_now=${busy[0]}
            busy=("${busy[@]:1}")
        fi
        if [ ${#running[@]} -eq 0 ]; then
            [ ${#lone[@]} -gt 0 ] || break
            start_program "${lone[0]}"
            lone=("${lone[@]:1}")
        fi
        result=0
        wait -n -p pid "${!running[@]}" || result=$?
        entry=${running[$pid]}
        unset "running[$pid]"
        if [ "$entry" = "$busy_now" ]; then
            busy_now=""
        elif is_among "${entry##*/}" "${waiting[@]}"; then
            patient_now=$((patient_now - 1))
        fi
        report_program "$entry" "$result"
    done
    set +m
    trap - EXIT
}

# The slowest programs of a queue, the slowest first.
say_slowest() {
    local queue=$1 ms name
    say "the slowest programs:"
    for name in "$queue"/*.ms; do
        [ ! -e "$name" ] || printf '%s %s\n' "$(cat "$name")" "$(basename "$name" .ms)"
    done | sort -rn | head -n "$slowest_shown" | while read -r ms name; do
        printf '%10s  %s\n' "$(seconds "$ms")" "$name" >&2
    done
}
