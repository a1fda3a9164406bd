#!/usr/bin/env bash
# What docs/how-to/gpu-runs.md asks of a GPU, in one call of about nine minutes:
#   NAS_OSR_DATA=FOLDER bash tests/benchmarks/gpu.sh OUT [PART ...]
# FOLDER/cifar10/train/CLASS/* holds cat, horse, ship, bird, frog and deer; no test images are needed. Each part writes
# OUT/PART.log and has its own time limit; one that fails stops no other. DEVICE=cpu tries the script without a GPU,
# SLOWER=5 gives each part five times as long.
set -u
OUT=$(realpath -m "$1"); shift
mkdir -p "$OUT"
PARTS=${*:-tests supcon bench retrain plain search}
DEVICE=${DEVICE:-cuda}; PRESET=${PRESET:-paper}; BATCHES=${BATCHES:-64 256}; EPOCHS=${EPOCHS:-60}; WARMUP=${WARMUP:-20}
DEADLINE=${DEADLINE:-570}  # seconds for everything; the search takes what is left
PRECISION=bf16-mixed; RETRAIN_BATCH=${RETRAIN_BATCH:-256}
CLASSES="--protocol cifar10 --family nas_osr"
MACHINE="--device $DEVICE --precision $PRECISION --preset $PRESET"
export PYTHONWARNINGS=default PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

run() { # NAME LIMIT COMMAND...: at most so many seconds, and no longer than all of it may take
    local name=$1 limit=$(($2 * ${SLOWER:-1})) left=$((DEADLINE - SECONDS)) started=$SECONDS
    shift 2
    [ "$left" -lt 10 ] && { echo "$name: no time left" | tee -a "$OUT/parts.txt"; return; }
    timeout -k 10 $((limit < left ? limit : left)) "$@" > "$OUT/$name.log" 2>&1
    echo "$name: status $?, $((SECONDS - started)) s" | tee -a "$OUT/parts.txt"
}
osr() { local name=$1 limit=$2; shift 2; run "$name" "$limit" python3 -m nas_osr "$@"; }

part_tests() { # everything that is marked for a GPU: above all, captured steps against plain ones
    run tests 150 env CUBLAS_WORKSPACE_CONFIG=:4096:8 python3 -m pytest -q -m gpu -p no:cacheprovider --durations 5 -rfEs \
        $(grep -rl 'mark\.gpu' tests --include='test_*.py')
}
part_bench() {
    for batch in $BATCHES; do for graphs in off on; do
        osr "bench-$batch-$graphs" 75 bench $MACHINE $CLASSES --batch_size "$batch" --graphs $graphs --json
    done; done
    osr bench-resnet18 45 bench $MACHINE $CLASSES --phase retrain --network resnet18 --objective cross_entropy \
        --batch_size "$RETRAIN_BATCH" --graphs on --json
}
part_compile() { # what torch.compile adds to plain steps, and to captured ones
    for graphs in off on; do
        export TORCHINDUCTOR_CACHE_DIR="$OUT/inductor-$graphs"  # what a run that was cut has compiled is broken
        osr "bench-compiled-$graphs" 120 bench $MACHINE $CLASSES --phase retrain --architecture published --compile \
            --batch_size "$RETRAIN_BATCH" --graphs $graphs --json
    done
}
part_kernels() { run kernels 60 python3 tests/benchmarks/gpu_kernels.py "$DEVICE" "$PRESET" "${BATCHES%% *}"; }
part_retrain() {
    for network in published resnet18; do for graphs in off on; do
        local what=$network
        [ $network = resnet18 ] && what="--network resnet18 --objective cross_entropy --recipe fast"
        osr "retrain-$network-$graphs" 50 retrain $what $MACHINE $CLASSES --splits 0 --pseudo_unknown frog,deer --epochs 3 \
            --batch_size "$RETRAIN_BATCH" --limit_per_class "${LIMIT:-2000}" --graphs $graphs --quiet --out "$OUT/retrain-$network-$graphs"
    done; done
}
part_supcon() { # augments under autocast
    osr supcon 50 retrain --network resnet18 --objective supcon --device "$DEVICE" --precision auto --preset "$PRESET" \
        $CLASSES --splits 0 --pseudo_unknown frog,deer --epochs 1 --batch_size "$RETRAIN_BATCH" --limit_per_class "${LIMIT:-2000}" \
        --quiet --out "$OUT/supcon"
}
part_channels() { # a quarter of the channels, and the wide space
    osr bench-quarter 60 bench $MACHINE $CLASSES --phase search --batch_size "${BATCHES%% *}" --strategy_config.partial_channels 4 --json
    osr bench-wide 75 bench $MACHINE $CLASSES --phase search --batch_size "${BATCHES%% *}" --space wide --json
}
plain() { # NAME LIMIT EPOCHS OPTION...: a rehearsal of the plain network with recipe strong
    local name=$1 limit=$2 epochs=$3
    shift 3
    osr "$name" "$limit" retrain --network "plain:width=${WIDTH:-128},pooling=maximum" --recipe strong --objective cross_entropy $MACHINE $CLASSES \
        --splits 0 --pseudo_unknown frog,deer --epochs "$epochs" --batch_size "$RETRAIN_BATCH" ${LIMIT:+--limit_per_class $LIMIT} \
        "$@" --quiet --out "$OUT/$name"
}
part_augment() { # seconds of an epoch with each, and with Muon, whose steps are not captured
    plain augment-crop_flip 40 2
    for change in randaugment cutout jitter pixmix; do
        plain "augment-$change" 40 2 --recipe_config.augmentation "crop_flip,$change"
    done
    plain muon 40 2 --recipe_config.optimizer muon --recipe_config.learning_rate 0.002
}
part_strong() { plain strong 320 "${STRONG:-60}"; } # five minutes: the recipe at its height
search() { # NAME LIMIT EPOCHS WARMUP OPTION...
    local name=$1 limit=$2 epochs=$3 warmup=$4
    shift 4
    osr "$name" "$limit" search $MACHINE $CLASSES --split 0 --epochs "$epochs" --strategy_config.warmup_epochs "$warmup" "$@" --out "$OUT/$name"
}
part_batches() { # as large as they cost nothing
    search batch-auto 120 6 3 --batch_size auto ${LIMIT:+--limit_per_class $LIMIT}
}
part_two() { # on two cards, or as two processes of a CPU
    run two 150 torchrun --nproc-per-node 2 -m nas_osr search $MACHINE $CLASSES --split 0 --epochs 4 --strategy_config.warmup_epochs 2 \
        ${LIMIT:+--limit_per_class $LIMIT} --out "$OUT/two"
}
part_plain() { search plain 70 3 1 --graphs off ${LIMIT:+--limit_per_class $LIMIT}; }
part_search() { search search 300 "$EPOCHS" "$WARMUP" --graphs on ${LIMIT:+--limit_per_class $LIMIT}; }

: > "$OUT/parts.txt"
for part in $PARTS; do "part_$part"; done
echo; python3 tests/benchmarks/gpu_figures.py "$OUT" | tee "$OUT/figures.txt"
