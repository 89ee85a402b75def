#!/usr/bin/env bash
# Does it matter what is rewarded? Reinforcement learning from one checkpoint, with four rewards: strict (answer and steps must be
# right), answer (the answer must be right), random (a coin) and incorrect (for wrong answers).
#
# arXiv 2506.10947 found gains from random rewards in some models. With one update per batch nothing is clipped, and then a random
# reward cannot bring a gain.
#
#   INIT=runs/laptop/sft bash recipes/spurious.sh
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
INIT=${INIT:-runs/laptop/sft}
OUT=${OUT:-runs/spurious}
STEPS=${STEPS:-80} LR=${LR:-1e-4}      # at four times this rate the noise of a random reward ruins the model
SEEDS=${SEEDS:-0}          # one or several in one string: "0 1 2"
PROBLEMS=${PROBLEMS:-50}   # test problems for each number of operations
EDGE=${EDGE:-4-8}

if [ -e "$OUT" ]; then
    echo "spurious.sh: $OUT exists already; remove it, or set OUT to another folder" >&2
    exit 2
fi
for SEED in $SEEDS; do
    for REWARD in strict answer random incorrect; do
        $PYTHON grpo.py --init "$INIT" --out "$OUT/$SEED/$REWARD" --data "world:ops=$EDGE,split=rl,branch=0,seed=5$SEED" \
            --seed "$SEED" --mode think --reward "$REWARD" --steps "$STEPS" --prompts 16 --group 8 --max-new-tokens 120 --lr "$LR"
    done
    $PYTHON evaluate.py --init "$INIT" "$OUT/$SEED"/{strict,answer,random,incorrect} --chat --user-suffix " /think" \
        --data "world:ops=$EDGE,split=test,branch=0,seed=5$SEED" --problems "$PROBLEMS" --temperature 1 --k 1 8 --rows 256 \
        --out "$OUT/$SEED.json"
done
$PYTHON bench.py spurious --runs "$OUT" --out "${RESULTS:-results}"
