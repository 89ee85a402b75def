#!/usr/bin/env bash
# Real text on one GPU: a model of about 120M parameters from a folder of .txt, .jsonl or .parquet files.
#
#   bash recipes/one_gpu.sh CORPUS_FOLDER HELD_OUT_FILE
#
# It trains on one billion tokens by default (2,000 steps of 524,288). Everything goes to runs/one_gpu; run it again to resume.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "one_gpu.sh: usage: bash recipes/one_gpu.sh CORPUS_FOLDER HELD_OUT_FILE" >&2
    exit 2
fi
CORPUS=$(realpath "$1")
HELD_OUT=$(realpath "$2")
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
OUT=${OUT:-runs/one_gpu}
VOCAB=${VOCAB:-32768}
STEPS=${STEPS:-2000}
MODEL=${MODEL:---layers 12 --width 768 --heads 12 --kv-heads 4 --qk-norm head --seq-len 2048 --batch-tokens 524288 --micro-tokens 65536 --compile}
shopt -s nullglob
FILES=("$CORPUS"/*.txt "$CORPUS"/*.jsonl "$CORPUS"/*.jsonl.gz "$CORPUS"/*.parquet)
if [ ${#FILES[@]} -eq 0 ]; then
    echo "one_gpu.sh: $CORPUS: no .txt, .jsonl, .jsonl.gz or .parquet files" >&2
    exit 2
fi

[ -e "$OUT/tokenizer" ] || $PYTHON tokenizer.py train --data "${FILES[@]}" --vocab-size "$VOCAB" --out "$OUT/tokenizer"
[ -e "$OUT/shards" ] || $PYTHON data.py prepare --data "${FILES[@]}" --tokenizer "$OUT/tokenizer" --out "$OUT/shards"
$PYTHON pretrain.py --tokenizer "$OUT/tokenizer" --data "$OUT/shards" --out "$OUT/base" $MODEL \
    --steps "$STEPS" --lr 0.02 --adam-lr 0.003 --weight-decay 0.01 --save-every 200 --eval-every 200 --eval-data "$HELD_OUT" --resume
$PYTHON sampler.py --init "$OUT/base" --prompt "The" --max-new-tokens 100 --temperature 0.8
