#!/usr/bin/env bash
# The complete pipeline on a two-core CPU, from random weights to reinforcement learning, with a report page at the end. Its stages
# are pre-training, mid-training at the edge of competence, supervised fine-tuning in two modes, DPO on preference pairs, and
# reinforcement learning from verified answers. Each stage is measured.
#
#   bash recipes/laptop.sh                 everything goes to runs/laptop; the page is runs/laptop/report.html
#   SEED=1 OUT=runs/again bash recipes/laptop.sh
#   BASE=3 MID=2 SFT=2 DPO=2 GRPO=1 PROBLEMS=2 bash recipes/laptop.sh   a quick test that everything works
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
OUT=${OUT:-runs/laptop}
SEED=${SEED:-0}            # of weights, problems and sampling; the test problems depend on it too
BASE=${BASE:-800}          # steps of pre-training, 4,096 tokens each
MID=${MID:-400}            # of mid-training, at most; it ends when the model solves the share MID_GOAL of problems at the edge
SFT=${SFT:-300}            # of fine-tuning, at most; it ends at SFT_GOAL. Reinforcement learning needs problems not yet solved
MID_GOAL=${MID_GOAL:-0.25} SFT_GOAL=${SFT_GOAL:-0.37}
DPO=${DPO:-25}             # of preference training
GRPO=${GRPO:-250}          # of reinforcement learning
RANKS=${RANKS:-2}          # processes of reinforcement learning, with one core each; the result does not depend on their number
PROBLEMS=${PROBLEMS:-50}   # test problems for each number of operations
JUDGED=${JUDGED:-30}       # problems for each number of operations that measure MID_GOAL and SFT_GOAL; none is a test problem
SOLVED=1-3 EDGE=4-8        # operations that pre-training solves, and operations at the edge of competence
JUDGE="--eval-every 30 --eval-data world:ops=$EDGE,split=dev,branch=0,seed=$SEED --eval-problems $JUDGED"
START=$SECONDS

if [ -e "$OUT" ] && [ -z "${RESUME:-}" ]; then
    echo "laptop.sh: $OUT exists already; remove it, set OUT to another folder, or RESUME=1 to continue after its last complete stage" >&2
    exit 2
fi
whole() { [ -e "$OUT/$1/tokenizer.json" ] && { [ "$1" = tokenizer ] || grep -q '"result"' "$OUT/$1/log.jsonl"; }; }

echo "== 1. A tokenizer, trained on the world's own text"
whole tokenizer || $PYTHON tokenizer.py train --data world:ops=1-6,split=pretrain --vocab-size 1024 --out "$OUT/tokenizer"

echo "== 2. Pre-training: 1 to 3 operations, and a few percent of longer problems, so that these can be learned later"
whole base || $PYTHON pretrain.py --tokenizer "$OUT/tokenizer" --out "$OUT/base" --qk-norm head --seq-len 512 --seed "$SEED" \
    --data "world:ops=$SOLVED,split=pretrain,branch=0,seed=$SEED@0.95" "world:ops=$EDGE,split=pretrain,branch=0,seed=$SEED@0.05" \
    --steps "$BASE" --lr 0.04 --adam-lr 0.008 --save-every 300

echo "== 3. Mid-training at the edge of competence, partly as chats, with easy problems against forgetting"
whole mid || $PYTHON pretrain.py --init "$OUT/base" --out "$OUT/mid" --seq-len 512 --seed "$SEED" \
    --data "world:ops=$EDGE,split=midtrain,chat=0.25,branch=0,seed=$SEED@0.8" \
           "world:ops=$SOLVED,split=midtrain,chat=0.25,branch=0,seed=$SEED@0.2" \
    --steps "$MID" --until-accuracy "$MID_GOAL" $JUDGE --lr 0.02 --adam-lr 0.004 --schedule constant --save-every 300

echo "== 4. Supervised fine-tuning: chats, with and without thinking"
whole sft || $PYTHON sft.py --init "$OUT/mid" --out "$OUT/sft" --seed "$SEED" --no-think 0.2 --unflagged 0.1 \
    --data "world:ops=$EDGE,split=sft,branch=0,seed=$SEED@0.7" "world:ops=$SOLVED,split=sft,branch=0,seed=$SEED@0.3" \
    --steps "$SFT" --until-accuracy "$SFT_GOAL" $JUDGE --lr 0.01 --adam-lr 0.002 --schedule constant

echo "== 5. Preference pairs (chosen: by the fine-tuned model, rejected: by the mid-trained one), and DPO on them"
[ -e "$OUT/pairs.jsonl" ] || $PYTHON augment.py pairs --strong "$OUT/sft" --weak "$OUT/mid" --weak-plain --mode think --out "$OUT/pairs.jsonl" \
    --data "world:ops=$EDGE,split=sft,branch=0,seed=1$SEED" --count $((DPO * 12)) --rows 128 --temperature 1 --seed "$SEED"
whole dpo || $PYTHON dpo.py --init "$OUT/sft" --out "$OUT/dpo" --data "$OUT/pairs.jsonl" --seed "$SEED" --steps "$DPO" --lr 2e-5

echo "== 6. Reinforcement learning from verified answers: every step must be right"
whole grpo || OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} $PYTHON -m torch.distributed.run --standalone --nproc_per_node="$RANKS" \
    grpo.py --init "$OUT/dpo" --out "$OUT/grpo" --data "world:ops=$EDGE,split=rl,branch=0,seed=$SEED" --seed "$SEED" \
    --mode think --reward strict --steps "$GRPO" --prompts 16 --group 8 --max-new-tokens 120 --lr 4e-4 --schedule wsd --decay 0.3 \
    --save-every 50

echo "== 7. A question in a chat; each token is coloured by its log-probability"
$PYTHON sampler.py --init "$OUT/grpo" --chat --colors --prompt "Zoo, mod 10. The lions number 3. The owls number the lions plus 4. The bears number the owls times the lions. How many bears? /think"

echo "== 8. Accuracy by number of operations after each stage (every step verified), and the page"
$PYTHON evaluate.py --init "$OUT"/{base,mid,sft,dpo,grpo} --plain "$OUT"/{base,mid} --chat --user-suffix " /think" \
    --data "world:ops=1-8,split=test,branch=0,seed=$SEED" --problems "$PROBLEMS" --k 1 2 4 8 --temperature 1 \
    --rows 256 \
    --solved "$SOLVED" --band "$EDGE" --out "$OUT/evaluation.json"
$PYTHON report.py --runs "$OUT"/{base,mid,sft,dpo,grpo} --evaluation "$OUT/evaluation.json" --out "$OUT/report.html"
echo "the pipeline took $((SECONDS - START)) seconds; its report is $OUT/report.html" >&2
