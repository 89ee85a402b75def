#!/usr/bin/env bash
# The whole pipeline on a two-core CPU: a tokenizer, pre-training on easy problems of the world, mid-training at the
# edge of competence, accuracy of both by number of operations, and one answer.
#
#   bash recipes/laptop.sh                 everything goes to runs/laptop
#   STEPS=20 MID=10 PROBLEMS=4 bash recipes/laptop.sh   a quick look at whether it all works
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
OUT=${OUT:-runs/laptop}
STEPS=${STEPS:-850}        # pre-training, 4,096 tokens each
MID=${MID:-500}            # mid-training
PROBLEMS=${PROBLEMS:-80}   # test problems for each number of operations
START=$SECONDS

if [ -e "$OUT" ]; then
    echo "laptop.sh: $OUT exists already; remove it, or set OUT to another folder" >&2
    exit 2
fi

echo "== 1. A tokenizer, trained on the world's own text"
$PYTHON tokenizer.py train --data world:ops=1-6,split=pretrain --vocab-size 1024 --out "$OUT/tokenizer"

echo "== 2. Pre-training: 1 to 3 operations, and a few percent of 4 to 6, which puts those within reach"
$PYTHON pretrain.py --tokenizer "$OUT/tokenizer" --out "$OUT/base" --qk-norm head --seq-len 512 \
    --data world:ops=1-3,split=pretrain@0.96 world:ops=4-6,split=pretrain@0.04 \
    --steps "$STEPS" --lr 0.04 --adam-lr 0.008 --save-every 300 \
    --eval-data world:ops=1-8,split=test --eval-problems $((PROBLEMS / 2))

echo "== 3. Mid-training at the edge of competence: 4 to 6 operations, a part as chat turns, and easy ones against forgetting"
$PYTHON pretrain.py --init "$OUT/base" --out "$OUT/mid" --seq-len 512 \
    --data world:ops=4-6,split=midtrain,chat=0.25@0.8 world:ops=1-3,split=midtrain,chat=0.25@0.2 \
    --steps "$MID" --lr 0.03 --adam-lr 0.006 --schedule cosine --warmup 0.02 --save-every 300 \
    --eval-data world:ops=1-8,split=test --eval-problems $((PROBLEMS / 2))

echo "== 4. A question, asked in chat; each token is coloured by its log-probability"
$PYTHON sampler.py --init "$OUT/mid" --chat --colors --prompt "Zoo, mod 10. The lions number 3. The owls number the lions plus 4. The bears number the owls times the lions. How many bears?"

echo "== 5. Accuracy by number of operations, before and after mid-training (every step verified)"
$PYTHON evaluate.py --init "$OUT/base" "$OUT/mid" --data world:ops=1-8,split=test --k 1 8 --problems "$PROBLEMS"
echo "the pipeline took $((SECONDS - START)) seconds" >&2
