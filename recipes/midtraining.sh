#!/usr/bin/env bash
# Mid-training in the stable-then-decay way (OctoThinker, arXiv 2506.20512) on the tiny world.
# One stable stage at a constant rate; from its end three branches at a falling rate, which differ in the kind of solutions that
# 30% of their tokens are (short, long, hybrid); then the same reinforcement on each, with caps that grow in stages.
#
#   bash recipes/midtraining.sh              everything goes to runs/midtraining
#   SEED=1 OUT=runs/again bash recipes/midtraining.sh
#   STABLE=4 DECAY=2 GRPO=2 PROBLEMS=2 bash recipes/midtraining.sh      a quick look at whether it all works
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
OUT=${OUT:-runs/midtraining}
SEED=${SEED:-0}            # of weights, problems and draws; the test problems depend on it as well
STABLE=${STABLE:-400}      # steps of 2,048 tokens
DECAY=${DECAY:-120}        # of each branch
GRPO=${GRPO:-60}           # of reinforcement
STYLES=${STYLES:-short long hybrid}
PROBLEMS=${PROBLEMS:-200}  # test problems for each number of operations
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
DOCUMENTS="world:tiny,seed=$SEED"
SHAPE="--layers 2 --width 128 --heads 4 --kv-heads 2 --attention window+nope --window 8 --rope-theta 100 --qk-norm head"
ROWS="--seq-len 256 --batch-tokens 2048 --save-every 100 --seed $SEED"

if [ -e "$OUT" ]; then
    echo "midtraining.sh: $OUT exists already; remove it, or set OUT to another folder" >&2
    exit 2
fi

echo "== 1. A tokenizer that knows the words of both styles"
$PYTHON tokenizer.py train --data "$DOCUMENTS,ops=1-6,split=pretrain,style=hybrid" --vocab-size 512 --out "$OUT/tokenizer"

echo "== 2. The stable stage: documents of mixed depth, a tenth of them of low quality, at a constant rate"
$PYTHON pretrain.py --tokenizer "$OUT/tokenizer" --out "$OUT/stable" $SHAPE $ROWS --steps "$STABLE" --schedule constant --lr 0.04 \
    --adam-lr 0.008 --data "$DOCUMENTS,ops=1-2,split=pretrain@0.8" "$DOCUMENTS,ops=3-4,split=pretrain@0.1" \
    "$DOCUMENTS,ops=1-4,split=pretrain,errors=0.3@0.1"

echo "== 3. Three branches at a falling rate: 60% as before, 30% questions on the edge with solutions of a style, 10% chat turns"
for STYLE in $STYLES; do
    $PYTHON pretrain.py --init "$OUT/stable" --out "$OUT/$STYLE" $ROWS --steps "$DECAY" --schedule cosine --floor 0.1 --lr 0.04 \
        --adam-lr 0.008 --data "$DOCUMENTS,ops=1-2,split=midtrain@0.55" "$DOCUMENTS,ops=3-4,split=midtrain@0.05" \
        "$DOCUMENTS,ops=2-4,split=midtrain,style=$STYLE@0.3" "$DOCUMENTS,ops=1-2,split=sft,format=chat@0.1"
done

echo "== 4. The same reinforcement on the stable model and on each branch, with a cap on answers that grows in stages"
for BASE in stable $STYLES; do
    $PYTHON grpo.py --init "$OUT/$BASE" --out "$OUT/$BASE-rl" --data "$DOCUMENTS,ops=2-3,split=rl" --seed "$SEED" --mode plain \
        --reward strict --steps "$GRPO" --prompts 32 --group 8 --rows 256 --lr 1e-3 --schedule wsd --decay 0.5 --save-every 50 \
        --max-new-tokens 64 112@$((GRPO / 3 + 1)) 160@$((2 * GRPO / 3 + 1))
done

echo "== 5. Accuracy before and after on the same problems (every step verified), and a page for each branch"
for BASE in stable $STYLES; do
    $PYTHON evaluate.py --init "$OUT/$BASE" "$OUT/$BASE-rl" --data "$DOCUMENTS,ops=1-4,split=test,style=long" --problems "$PROBLEMS" \
        --k 1 8 --temperature 1 --rows 256 --solved 1 --band 2-3 --out "$OUT/$BASE.json"
    $PYTHON report.py --runs "$OUT/$BASE" "$OUT/$BASE-rl" --evaluation "$OUT/$BASE.json" --out "$OUT/$BASE.html"
done
echo "the pages are $OUT/*.html" >&2
