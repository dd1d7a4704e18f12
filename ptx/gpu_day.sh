#!/usr/bin/env bash
# Everything that a machine with a card is needed for, in one call: is it right, how fast, and where does the time go.
#
#   ptx/gpu_day.sh --build BIN
#   ptx/gpu_day.sh BIN OUT [cuda|ptx-vm]
#
# BIN is a folder with `dynavit` and the test programs `cuda` and `card_training`, made by the first call on a machine with
# the toolchain; nothing else is needed where the second one runs. PyTorch is measured beside it where python3 has torch
# and timm, and compute-sanitizer is run where it is installed. All output goes to OUT, the table to OUT/table.md.
# Less of it: MODEL, KEEPS, BATCHES, STEPS, PRECISIONS, RIVALS, and SANITIZE with names of compute-sanitizer's tools; an
# empty RIVALS or SANITIZE means none. LIMIT is the seconds of one command (300), BUDGET those of all; what is left then is
# named as skipped. ARCHIVE names a file that gets all of OUT. All of it takes hours, most of them PyTorch's compiler, and
# what matters most comes first. Where a command may run for ten minutes, after `ptx/gpu_day.sh --build target/day`:
#
#   BUDGET=570 LIMIT=150 KEEPS="100 70" PRECISIONS=f16 ARCHIVE="$OUT/day.tar.gz" ptx/gpu_day.sh target/day /tmp/day
#
# The exit status is 1 when a test, the sanitizer or the doctor failed. One that did not finish is no failure, and a timing
# without a result is a dash in the table; below the table all of them are named.
set -uo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# MiB that may be carried to a machine that is lent.
carried=64

if [[ ${1-} == --build && $# == 2 ]]; then
    mkdir -p "$2"
    cargo build --release --locked || exit
    cp "${CARGO_TARGET_DIR:-target}/release/dynavit" "$2/" || exit
    for test in cuda card_training; do
        built=$(CARGO_TERM_COLOR=never cargo test --locked --test "$test" --no-run 2>&1 |
            sed -n "s/.*Executable.*(\(.*\))$/\1/p")
        cp "$built" "$2/$test" || exit
    done
    strip "$2"/{dynavit,cuda,card_training} || exit
    {
        git ls-files -z
        printf '%s\0' "$2"/{dynavit,cuda,card_training}
    } | xargs -0 stat -c %s | awk -v most="$carried" '
        { sum += $1 / 1048576 }
        END { printf "%.1f of %d MiB to carry: tracked files and programs\n", sum, most; exit sum >= most }'
    exit
fi
if [[ $# -lt 2 ]]; then
    sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 2
fi
bin=$1 out=$2 device=${3:-cuda}
model=${MODEL:-vit_base_patch16_224}
steps=${STEPS:-10}
budget=${BUDGET:-1000000}
read -ra keeps <<<"${KEEPS:-100 70 50 30}"
read -ra batches <<<"${BATCHES:-64 256}"
read -ra precisions <<<"${PRECISIONS:-f16 bf16}"
read -ra rivals <<<"${RIVALS-eager compile max-autotune}"
all_tools=
[[ $device == ptx-vm ]] || all_tools="memcheck racecheck initcheck synccheck"
read -ra tools <<<"${SANITIZE-$all_tools}"
mkdir -p "$out" || exit
proven=0
# How each command ended by its name, and the names in order of each ending.
declare -A ended=()
failed=() unfinished=() skipped=()

# Runs a command once, tells and keeps what it says, and remembers how it ended.
keep() {
    local name=$1 seconds=$((budget - SECONDS)) begun=$SECONDS status=0
    shift
    [[ -z ${ended[$name]-} ]] || return 0
    if ((seconds <= 0)); then
        ended[$name]=skipped
        skipped+=("$name")
        return
    fi
    if ((seconds > ${LIMIT:-300})); then seconds=${LIMIT:-300}; fi
    printf '\n== %s, %d s so far: %s\n' "$name" "$SECONDS" "$*"
    timeout -k 5 "$seconds" "$@" >"$out/$name.txt" 2>&1 || status=$?
    if ((status == 0)); then
        ended[$name]=well
    elif ((status == 124 || (status == 137 && SECONDS - begun >= seconds))); then
        ended[$name]="not finished in $seconds s"
        unfinished+=("$name")
    else
        ended[$name]="failed with $status"
        failed+=("$name")
    fi
    [[ ${ended[$name]} == well ]] || echo "${ended[$name]^^}" >>"$out/$name.txt"
    tail -n "${LINES_KEPT:-12}" "$out/$name.txt"
}

# Runs a command whose failure is a failure of the whole.
prove() {
    keep "$@"
    [[ ${ended[$1]} != failed* ]] || proven=1
}

# Runs a test program and, when it fails, each of its tests in a process of its own, where an error names its kernel.
try() {
    prove "tests-$1" "$bin/$1"
    [[ ${ended[tests-$1]} == failed* ]] || return 0
    local name
    for name in $("$bin/$1" --list 2>/dev/null | sed -n 's/: test$//p'); do
        LINES_KEPT=6 keep "tests-$1-${name//::/-}" env DYNAVIT_CUDA_SYNC=1 "$bin/$1" --exact "$name"
    done
}

# A number of what a command that ended well printed as JSON.
field() {
    [[ ${ended[$2]-} != well ]] || sed -n "s/.*\"$1\":[[:space:]]*\"\{0,1\}\([-0-9.e+]*\).*/\1/p" "$out/$2.txt" | head -n 1
}

# A number with digits after the point, or a dash.
show() { if [[ -n ${2-} ]]; then printf "%.$1f" "$2"; else printf -- '-'; fi; }

# Writes the table of what is known so far.
table() {
    local what precision k batch name ours theirs rival
    printf '| step | precision | K | batch | img/s | ms | of peak'
    for rival in "${rivals[@]}"; do printf ' | torch %s | ratio' "$rival"; done
    printf ' |\n|---|---|---|---|---|---|---'
    for _ in "${rivals[@]}"; do printf '|---|---'; done
    printf '|\n'
    for what in train infer; do
        for precision in "${precisions[@]}"; do
            for k in "${keeps[@]}"; do
                for batch in "${batches[@]}"; do
                    name=$what-$precision-k$k-b$batch
                    ours=$(field images_per_second "$name")
                    printf '| %s | %s | %s | %s | %s | %s | %s' "$what" "$precision" "$k" "$batch" "$(show 1 "$ours")" \
                        "$(show 2 "$(field median "$name")")" "$(show 3 "$(field share_of_peak "$name")")"
                    for rival in "${rivals[@]}"; do
                        theirs=$(field images_per_second "$name-$rival")
                        printf ' | %s | %s' "$(show 1 "$theirs")" "$(awk -v a="$ours" -v b="$theirs" \
                            'BEGIN { if (a > 0 && b > 0) printf "%.2f", a / b; else printf "-" }')"
                    done
                    printf ' |\n'
                done
            done
        done
    done
    printf '\nfailed: %s\n' "${failed[*]:-none}"
    printf 'not finished: %s\nskipped: %s\n' "${unfinished[*]:-none}" "${skipped[*]:-none}"
}

# Times a step: ours STEP PRECISION K BATCH.
ours() {
    LINES_KEPT=3 keep "$1-$2-k$3-b$4" "$bin/dynavit" bench "$1" --device "$device" --model "$model" --keep "$3" \
        --batch-size "$4" --precision "$2" --steps "$steps" --json
    table >"$out/table.md"
}

# Times PyTorch at it: theirs STEP PRECISION K BATCH RIVAL.
theirs() {
    [[ $torch == 1 ]] || return 0
    LINES_KEPT=1 keep "$1-$2-k$3-b$4-$5" python3 benches/peers/torch_vit_cuda.py "$1" "$model" "$3" "$4" "$2" "$5" "$steps"
    table >"$out/table.md"
}

# Tells where the time of a step goes, at the first K and the largest batch: kernels STEP PRECISION.
kernels() {
    LINES_KEPT=40 keep "kernels-$1-$2" "$bin/dynavit" bench "$1" --device "$device" --model "$model" \
        --keep "${keeps[0]}" --batch-size "${batches[-1]}" --precision "$2" --steps 1 --kernels
}

export DYNAVIT_REQUIRE_GPU=1
[[ $device == cuda ]] || unset DYNAVIT_REQUIRE_GPU

# Not every machine knows git or nvidia-smi, and nothing hangs on either.
keep machine bash -c 'uname -srm; date -u +%F; sha256sum "$1/dynavit"; nvidia-smi -L
    nvidia-smi --query-gpu=driver_version,clocks.max.sm --format=csv; git rev-parse HEAD; true' machine "$bin"
prove doctor "$bin/dynavit" doctor --device "$device" --json
# A card of capability 7 has no bf16.
if [[ -z ${PRECISIONS-} && $(field capability doctor) == 7.* ]]; then precisions=(f16); fi
for test in cuda card_training; do
    if [[ $device == cuda || -x $bin/$test ]]; then
        try "$test"
    else
        printf '\n== %s is not in %s\n' "$test" "$bin"
    fi
done

torch=0
if [[ $device == cuda && ${#rivals[@]} -gt 0 ]] &&
    timeout 120 python3 -c 'import timm, torch; assert torch.cuda.is_available()' 2>/dev/null; then torch=1; fi
# What is asked first: the first two K in the first type at the largest batch, beside the first two rivals. What a compiler
# does for the second rival takes minutes, so our kernels come before.
for k in "${keeps[@]:0:2}"; do
    for what in train infer; do
        ours "$what" "${precisions[0]}" "$k" "${batches[-1]}"
        for rival in "${rivals[@]:0:1}"; do theirs "$what" "${precisions[0]}" "$k" "${batches[-1]}" "$rival"; done
    done
done
for what in train infer; do kernels "$what" "${precisions[0]}"; done
for k in "${keeps[@]:0:2}"; do
    for what in train infer; do
        for rival in "${rivals[@]:1:1}"; do theirs "$what" "${precisions[0]}" "$k" "${batches[-1]}" "$rival"; done
    done
done
# All the rest, without what was done above.
for precision in "${precisions[@]}"; do
    for what in train infer; do
        for k in "${keeps[@]}"; do
            for batch in "${batches[@]}"; do
                ours "$what" "$precision" "$k" "$batch"
                for rival in "${rivals[@]}"; do theirs "$what" "$precision" "$k" "$batch" "$rival"; done
            done
        done
        kernels "$what" "$precision"
    done
done
# The sanitizer slows a kernel down a hundredfold.
if command -v compute-sanitizer >/dev/null; then
    for tool in "${tools[@]}"; do
        prove "sanitizer-$tool" compute-sanitizer --tool "$tool" --error-exitcode 9 \
            "$bin/dynavit" bench train --device "$device" --model vit_tiny_patch16_224 --batch-size 2 --steps 1
        prove "sanitizer-$tool-ops" compute-sanitizer --tool "$tool" --error-exitcode 9 "$bin/cuda"
    done
fi
table >"$out/table.md"
printf '\n== table, after %d s\n' "$SECONDS"
cat "$out/table.md"
[[ -z ${ARCHIVE-} ]] || tar -czf "$ARCHIVE" -C "$out" .
exit "$proven"
