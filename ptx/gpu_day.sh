#!/usr/bin/env bash
# Everything that a machine with a card is needed for, in one call: is it right, how fast, and where does the time go.
#
#   ptx/gpu_day.sh BIN OUT [cuda|ptx-vm]
#
# BIN is a folder with `dynavit` and the test programs `cuda` and `card_training` (ptx/gpu_day.sh --build BIN makes it on
# a machine with the toolchain); nothing else is needed where this runs. PyTorch is measured beside it where python3 has
# torch and timm, and compute-sanitizer is run where it is installed. All output goes to OUT, the table to OUT/table.md.
# Less of it: MODEL, KEEPS, BATCHES, STEPS, PRECISIONS, RIVALS; LIMIT is the seconds of one command (300). All of it takes
# hours, most of them PyTorch's compiler; KEEPS="100 70" BATCHES=256 PRECISIONS=f16 RIVALS="eager compile" a quarter of one.
# The exit status tells whether the tests and the sanitizer passed; a timing that failed is a dash in the table.
set -uo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ ${1-} == --build && $# == 2 ]]; then
    mkdir -p "$2"
    cargo build --release --locked || exit
    cp "${CARGO_TARGET_DIR:-target}/release/dynavit" "$2/" || exit
    for test in cuda card_training; do
        built=$(CARGO_TERM_COLOR=never cargo test --locked --test "$test" --no-run 2>&1 |
            sed -n "s/.*Executable.*(\(.*\))$/\1/p")
        cp "$built" "$2/$test" || exit
    done
    strip "$2"/* || exit
    exit
fi
if [[ $# -lt 2 ]]; then
    sed -n '2,15s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 2
fi
bin=$1 out=$2 device=${3:-cuda}
model=${MODEL:-vit_base_patch16_224}
read -ra keeps <<<"${KEEPS:-100 70 50 30}"
read -ra batches <<<"${BATCHES:-64 256}"
read -ra precisions <<<"${PRECISIONS:-f16 bf16}"
read -ra rivals <<<"${RIVALS-eager compile max-autotune}"
steps=${STEPS:-10}
mkdir -p "$out" || exit
failed=0

# Runs a command, tells and keeps what it says, and remembers that it failed.
keep() {
    local name=$1
    shift
    printf '\n== %s: %s\n' "$name" "$*"
    if ! timeout "${LIMIT:-300}" "$@" >"$out/$name.txt" 2>&1; then
        failed=1
        echo "FAILED" >>"$out/$name.txt"
    fi
    tail -n "${LINES_KEPT:-12}" "$out/$name.txt"
}

# A number of a line of JSON.
field() { sed -n "s/.*\"$1\":[[:space:]]*\([-0-9.e+]*\).*/\1/p" "$2" | head -n 1; }

# A number with digits after the point, or a dash.
show() { if [[ -n ${2-} ]]; then printf "%.$1f" "$2"; else printf -- '-'; fi; }

export DYNAVIT_REQUIRE_GPU=1
[[ $device == cuda ]] || unset DYNAVIT_REQUIRE_GPU

keep machine bash -c 'uname -srm; date -u +%F; nvidia-smi -L; nvidia-smi --query-gpu=driver_version,clocks.max.sm --format=csv; git rev-parse HEAD'
sha256sum "$bin/dynavit" >>"$out/machine.txt"
failed=0
keep doctor "$bin/dynavit" doctor --device "$device"
for test in cuda card_training; do
    if [[ $device == cuda || -x $bin/$test ]]; then
        keep "tests-$test" "$bin/$test"
    else
        printf '\n== %s is not in %s: skipped\n' "$test" "$bin"
    fi
done

if command -v compute-sanitizer >/dev/null && [[ $device == cuda ]]; then
    for tool in memcheck racecheck initcheck synccheck; do
        keep "sanitizer-$tool" compute-sanitizer --tool "$tool" --error-exitcode 9 \
            "$bin/dynavit" bench train --device cuda --model vit_tiny_patch16_224 --batch-size 2 --steps 1
        keep "sanitizer-$tool-ops" compute-sanitizer --tool "$tool" --error-exitcode 9 "$bin/cuda"
    done
fi

proven=$failed
torch=0
if [[ $device == cuda && ${#rivals[@]} -gt 0 ]] &&
    python3 -c 'import timm, torch; assert torch.cuda.is_available()' 2>/dev/null; then torch=1; fi
{
    printf '| step | precision | K | batch | img/s | ms | of peak'
    for rival in "${rivals[@]}"; do printf ' | torch %s | ratio' "$rival"; done
    printf ' |\n|---|---|---|---|---|---|---'
    for _ in "${rivals[@]}"; do printf '|---|---'; done
    printf '|\n'
} >"$out/table.md"
for what in train infer; do
    for precision in "${precisions[@]}"; do
        for k in "${keeps[@]}"; do
            for batch in "${batches[@]}"; do
                name=$what-$precision-k$k-b$batch
                LINES_KEPT=3 keep "$name" "$bin/dynavit" bench "$what" --device "$device" --model "$model" --keep "$k" \
                    --batch-size "$batch" --precision "$precision" --steps "$steps" --json
                ours=$(field images_per_second "$out/$name.txt")
                share=$(field share_of_peak "$out/$name.txt")
                printf '| %s | %s | %s | %s | %s | %s | %s' "$what" "$precision" "$k" "$batch" "$(show 1 "$ours")" \
                    "$(show 2 "$(field median "$out/$name.txt")")" \
                    "$(show 3 "$share")" >>"$out/table.md"
                for rival in "${rivals[@]}"; do
                    theirs=
                    if [[ $torch == 1 ]]; then
                        LINES_KEPT=1 keep "$name-$rival" python3 benches/peers/torch_vit_cuda.py "$what" "$model" "$k" \
                            "$batch" "$precision" "$rival" "$steps"
                        theirs=$(field images_per_second "$out/$name-$rival.txt")
                    fi
                    ratio=$(awk -v a="$ours" -v b="$theirs" 'BEGIN { if (a > 0 && b > 0) printf "%.2f", a / b; else printf "-" }')
                    printf ' | %s | %s' "$(show 1 "$theirs")" "$ratio" >>"$out/table.md"
                done
                printf ' |\n' >>"$out/table.md"
            done
        done
        # Where the time goes, once for each step and type at the largest batch.
        LINES_KEPT=40 keep "kernels-$what-$precision" "$bin/dynavit" bench "$what" --device "$device" --model "$model" \
            --keep "${keeps[0]}" --batch-size "${batches[-1]}" --precision "$precision" --steps 1 --kernels
    done
done
printf '\n'
cat "$out/table.md"
exit "$proven"
