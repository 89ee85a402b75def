#!/usr/bin/env bash
# The complete pipeline on a two-core CPU, from random weights to reinforcement learning, with a report page at the end. Its stages
# are pre-training, mid-training on long problems, supervised fine-tuning in two modes, and reinforcement learning from
# verified answers. Each stage is measured.
#
#   bash recipes/laptop.sh                 everything goes to runs/laptop; the page is runs/laptop/report.html
#   SEED=1 OUT=runs/again bash recipes/laptop.sh
#   BASE=3 MID=2 SFT=2 GRPO=1 PROBLEMS=2 bash recipes/laptop.sh   a quick test that everything works
#
# Mid-training shows the long problems as plain documents only, and fine-tuning the form of a chat on short problems only. So what
# reinforcement has to find is that the long ones can be solved in a chat, too. A third of its reward is for right steps, so that a
# group of answers that are all wrong still says which of them were nearer. A few easy problems are among the long ones: without
# them the model forgets how to answer in one step.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
OUT=${OUT:-runs/laptop}
SEED=${SEED:-0}            # of weights, problems and sampling; the test problems depend on it too
BASE=${BASE:-500}          # steps of pre-training, 4,096 tokens each, at most: it ends when it solves its problems
MID=${MID:-200}            # of mid-training, at most
SFT=${SFT:-150}            # of fine-tuning
GRPO=${GRPO:-90}           # of reinforcement learning
RANKS=${RANKS:-2}          # processes of reinforcement learning, with one core each; the result does not depend on their number
PROBLEMS=${PROBLEMS:-50}   # test problems for each number of operations
SOLVED=1-3 LONG=4-8        # operations that pre-training solves, and those that mid-training adds
EDGE=5-8                   # those that a chat does not solve after fine-tuning; with 4 it has learned to go on by itself
EASY=1-4                   # the others, of which reinforcement sees a few
WORLD="contexts=zoo,branch=0,seed=$SEED"
START=$SECONDS

if [ -e "$OUT" ] && [ -z "${RESUME:-}" ]; then
    echo "laptop.sh: $OUT exists already; remove it, set OUT to another folder, or RESUME=1 to go on with what it holds" >&2
    exit 2
fi

echo "== 1. A tokenizer, trained on the world's own text"
[ -e "$OUT/tokenizer/tokenizer.json" ] || $PYTHON tokenizer.py train --data world:ops=1-6,split=pretrain,contexts=zoo --vocab-size 1024 --out "$OUT/tokenizer"

echo "== 2. Pre-training: 1 to 3 operations, and a few longer problems, so that these can be learned later"
$PYTHON pretrain.py --tokenizer "$OUT/tokenizer" --out "$OUT/base" --resume --seq-len 512 --seed "$SEED" \
    --attention window+nope --window 8 --rope-theta 100 --qk-norm head \
    --data "world:ops=$SOLVED,split=pretrain,$WORLD@0.9" "world:ops=$LONG,split=pretrain,$WORLD@0.1" \
    --steps "$BASE" --lr 0.04 --adam-lr 0.008 --save-every 200 \
    --until-accuracy 0.8 --eval-every 25 --eval-data "world:ops=${SOLVED#*-},split=dev,$WORLD" --eval-problems 40

echo "== 3. Mid-training on long problems, with easy ones against forgetting"
$PYTHON pretrain.py --init "$OUT/base" --out "$OUT/mid" --resume --seq-len 512 --seed "$SEED" \
    --data "world:ops=$LONG,split=midtrain,$WORLD@0.8" "world:ops=$SOLVED,split=midtrain,$WORLD@0.2" \
    --steps "$MID" --lr 0.02 --adam-lr 0.004 --schedule constant \
    --until-accuracy 0.4 --eval-every 25 --eval-data "world:ops=$EDGE,split=dev,$WORLD" --eval-problems 20

echo "== 4. Supervised fine-tuning: chats about easy problems, with and without thinking"
$PYTHON sft.py --init "$OUT/mid" --out "$OUT/sft" --resume --seed "$SEED" --no-think 0.2 --unflagged 0.1 \
    --data "world:ops=$SOLVED,split=sft,$WORLD" --steps "$SFT" --lr 0.01 --adam-lr 0.002

echo "== 5. Reinforcement learning from verified answers at the edge"
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} $PYTHON -m torch.distributed.run --standalone --nproc_per_node="$RANKS" \
    grpo.py --init "$OUT/sft" --out "$OUT/grpo" --resume --seed "$SEED" \
    --data "world:ops=$EDGE,split=rl,$WORLD@0.875" "world:ops=$EASY,split=rl,$WORLD@0.125" \
    --mode think --reward strict+process:0.5 --steps "$GRPO" --prompts 16 --group 16 --max-new-tokens 120 --lr 1e-3 \
    --schedule wsd --decay 0.5 --save-every 20

echo "== 6. A question in a chat; each token is coloured by its log-probability"
$PYTHON sampler.py --init "$OUT/grpo" --chat --colors --prompt "Zoo, mod 10. The lions number 3. The owls number the lions plus 4. The bears number the owls times the lions. How many bears? /think"

echo "== 7. Accuracy by number of operations after each stage (every step verified), and the page"
$PYTHON evaluate.py --init "$OUT"/{base,mid,sft,grpo} --plain "$OUT"/{base,mid} --chat --user-suffix " /think" \
    --data "world:ops=1-8,split=test,$WORLD" --problems "$PROBLEMS" --k 1 2 4 8 --temperature 1 \
    --rows 256 \
    --solved "$SOLVED" --band "$EDGE" --out "$OUT/evaluation.json"
$PYTHON report.py --runs "$OUT"/{base,mid,sft,grpo} --evaluation "$OUT/evaluation.json" --out "$OUT/report.html"
echo "the pipeline took $((SECONDS - START)) seconds; its report is $OUT/report.html" >&2
