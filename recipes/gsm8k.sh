#!/usr/bin/env bash
# A real model on real questions, on one GPU: SFT on the training questions, then GRPO on the same questions. Accuracy on all test
# questions is measured before SFT, after SFT, and after GRPO.
#
#   bash recipes/gsm8k.sh smollm2/ gsm8k/train.jsonl gsm8k/test.jsonl
#
# Everything goes to runs/gsm8k. After an interruption run it again; it continues. accuracy.json has the intervals.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "gsm8k.sh: usage: bash recipes/gsm8k.sh MODEL_FOLDER TRAIN_FILE TEST_FILE" >&2
    exit 2
fi
MODEL=$(realpath "$1") TRAIN=$(realpath "$2") TEST=$(realpath "$3")
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
OUT=${OUT:-runs/gsm8k}
SFT=${SFT:-120} GRPO=${GRPO:-50}                   # steps
PROMPTS=${PROMPTS:-64} GROUP=${GROUP:-16} NEW=${NEW:-256} BATCH=${BATCH:-32768} LIMIT=${LIMIT:-0}
GPU=${GPU:---device cuda --dtype bfloat16}

$PYTHON sft.py --init "$MODEL" --data "$TRAIN" --out "$OUT/sft" --seq-len 512 --batch-tokens "$BATCH" --micro-tokens "$BATCH" \
    --optimizer adamw --lr 2e-5 --steps "$SFT" --save-every 40 --resume $GPU
$PYTHON grpo.py --init "$OUT/sft" --data "$TRAIN" --out "$OUT/grpo" --prompts "$PROMPTS" --group "$GROUP" \
    --rows $((PROMPTS * GROUP)) --max-new-tokens "$NEW" --micro-tokens 32768 --lr 2e-6 --steps "$GRPO" --save-every 10 --resume $GPU
[ -e "$OUT/accuracy.json" ] || $PYTHON evaluate.py --init "$MODEL" "$OUT/sft" "$OUT/grpo" --chat --data "$TEST" --limit "$LIMIT" --max-new-tokens "$NEW" --rows 512 \
    --out "$OUT/accuracy.json" $GPU
