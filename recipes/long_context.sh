#!/usr/bin/env bash
# A longer context: a base that has only seen 256 tokens learns to look 1,024 tokens back.
# From one base three ways go on, which differ in the positions alone: as they are (plain), with a larger base of the rotary
# embedding (theta), with YaRN (yarn; arXiv 2309.00071). All train on the same mixture, half of it in long documents, and are then
# asked for needles by length and depth, and for what their attention looks at. Lengths beyond the training are marked with a star.
# The base learns to look a fact up in texts of a few facts, with four questions about each. From longer texts at once, with one
# question each, it did not learn it in half of these steps (results/tried.jsonl).
#
#   bash recipes/long_context.sh              everything goes to runs/long_context
#   SEED=1 OUT=runs/again bash recipes/long_context.sh
#   BASE=4 MORE=2 PROBLEMS=2 LENGTHS=64-128 LONG=512 bash recipes/long_context.sh      a quick look at whether it all works
#
# With files of your own: DOCUMENTS="long:pages.jsonl,by=book,tokens=256-1k" (sources/long.py) in place of needles as the long part.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
OUT=${OUT:-runs/long_context}
SEED=${SEED:-0}
SHORT=${SHORT:-256}        # tokens in a row of the base
LONG=${LONG:-1024}         # and of what goes on from it, a multiple of it
BASE=${BASE:-500}          # steps of 2,048 tokens
MORE=${MORE:-60}           # steps of four long rows
WAYS=${WAYS:-plain theta yarn}
LENGTHS=${LENGTHS:-128-2k} # of the needles
PROBLEMS=${PROBLEMS:-20}   # for each length and depth
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
WORLD="world:tiny,ops=1-3,seed=$SEED"
FEW=${FEW:-20-64}          # tokens of a text with needles in pre-training
NEEDLES="needle:tiny,named=1,seed=$SEED"
DOCUMENTS=${DOCUMENTS:-$NEEDLES,split=midtrain,asks=8,length=$((SHORT / 2))-$((7 * LONG / 8))}
SHAPE=${SHAPE:---layers 2 --width 128 --heads 4 --kv-heads 2 --attention rope+nope --rope-theta 1000 --qk-norm head --qk-scale}

if [ -e "$OUT" ]; then
    echo "long_context.sh: $OUT exists already; remove it, or set OUT to another folder" >&2
    exit 2
fi

echo "== 1. A tokenizer"
$PYTHON tokenizer.py train --data "$WORLD" "$NEEDLES,length=$SHORT" --vocab-size 512 --out "$OUT/tokenizer"

echo "== 2. A base on rows of $SHORT tokens"
$PYTHON pretrain.py --tokenizer "$OUT/tokenizer" --out "$OUT/base" $SHAPE --seed "$SEED" --steps "$BASE" --seq-len "$SHORT" \
    --batch-tokens $((8 * SHORT)) --lr 0.01 --adam-lr 0.002 --decay 0.4 --data "$NEEDLES,split=pretrain,asks=4,length=$FEW@0.8" \
    "$WORLD,split=pretrain@0.2" --eval-data "loss:$WORLD,split=test"

echo "== 3. It goes on with rows of $LONG tokens: ${WAYS// /, }"
for WAY in $WAYS; do
    case "$WAY" in
        plain) POSITIONS=() ;;
        theta) POSITIONS=(--rope-theta $((1000 * LONG / SHORT))) ;;
        yarn) POSITIONS=(--yarn-factor $((LONG / SHORT)) --yarn-context "$SHORT") ;;
        *) echo "long_context.sh: WAYS has no $WAY; use plain, theta or yarn" >&2; exit 2 ;;
    esac
    $PYTHON pretrain.py --init "$OUT/base" --out "$OUT/$WAY" --seed "$SEED" --steps "$MORE" --seq-len "$LONG" \
        --batch-tokens $((4 * LONG)) --lr 0.01 --adam-lr 0.002 --decay 0.4 ${POSITIONS[@]+"${POSITIONS[@]}"} \
        --data "$DOCUMENTS@0.5" "$WORLD,split=midtrain@0.5" --eval-data "loss:$WORLD,split=test"
done

echo "== 4. Needles by length and depth, and what the question looks at"
MODELS=("$OUT/base")
for WAY in $WAYS; do MODELS+=("$OUT/$WAY"); done
$PYTHON evaluate.py --init "${MODELS[@]}" --needle "$LENGTHS,tiny,named=1,seed=$SEED" --problems "$PROBLEMS" --attention 8 \
    --out "$OUT/needles.json"
echo "the tables are in $OUT/needles.json" >&2
