#!/usr/bin/env bash
# Reinforcement on text (RPT, RLPT, RLP), each beside next-token training on the same text and chats (mixed SFT) at equal FLOPs.
# A cold start by SFT teaches to answer in a chat and the form of a prediction. Beside reinforcement on text there is a little SFT on
# chats: a small model forgets how to answer in one without it. Then every model gets the same reinforcement on problems with an
# answer. claims/text_rl.py measures the same over seeds.
#
#   bash recipes/text_rl.sh                  the tiny world, from random weights; everything goes to runs/text_rl
#   KINDS=rlpt SEED=1 OUT=runs/again bash recipes/text_rl.sh
#   INIT=smollm2/ TEXT=corpus.txt CHATS=gsm8k/train.jsonl QUESTIONS=gsm8k/train.jsonl TEST=gsm8k/test.jsonl REWARD=answer NEW=200 \
#       ASK=full bash recipes/text_rl.sh     your own model, text and questions
#   BASE=4 COLD=2 RL=2 RLVR=2 PROBLEMS=2 bash recipes/text_rl.sh        a quick look at whether it all works
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
OUT=${OUT:-runs/text_rl}
SEED=${SEED:-0}
KINDS=${KINDS:-rpt rlpt rlp}
BASE=${BASE:-240}          # steps of pre-training, 2,048 tokens each; with INIT there are none
COLD=${COLD:-300}          # of the cold start
RL=${RL:-60}               # of reinforcement on text
RLVR=${RLVR:-60}           # of reinforcement on problems
WORLD="world:tiny,seed=$SEED"
INIT=${INIT:-$OUT/base}    # a checkpoint
TEXT=${TEXT:-$WORLD,ops=2-3,split=midtrain,documents=1000}     # a file, or documents of a task (tasks/text.py)
READ=${READ:-${TEXT%,documents=*}}                             # the same, as pretrain.py reads it
CHATS=${CHATS:-$WORLD,ops=1-2,split=sft}
QUESTIONS=${QUESTIONS:-$WORLD,ops=2-3,split=rl}
TEST=${TEST:-$WORLD,ops=2-3,split=test}
ASK=${ASK:-short}          # words of the prompts: short where a model learns them here, full for one that can read
REWARD=${REWARD:-strict}   # of problems
NEW=${NEW:-64}             # tokens of a reply
PROBLEMS=${PROBLEMS:-200}  # test problems for each number of operations, or of a file
MORE=${MORE:-}             # flags of all stages, such as --device cuda
ROLLOUTS="--mode chat --rows 256 --max-new-tokens $NEW --lr 1e-3 --schedule wsd --decay 0.5 --save-every 50 --seed $SEED $MORE"

if [ -e "$OUT" ]; then
    echo "text_rl.sh: $OUT exists already; remove it, or set OUT to another folder" >&2
    exit 2
fi
spec() { echo "text:$TEXT,kind=$1,ask=$ASK$([ "$1" != rpt ] || echo ",proxy=$INIT")"; }   # RPT chooses its positions by a proxy
case "$CHATS" in                # as chats, where a task makes them; pretrain.py reads a file as it is
    world:*|knowledge:*) LEARNED=$CHATS,format=chat ;;
    *) LEARNED=$CHATS ;;
esac
flops() { $PYTHON -c 'import json, sys; print(sum(json.load(open(sys.argv[1]))["own"].values()))' "$1/ledger.json"; }

if [ "$INIT" = "$OUT/base" ]; then
    echo "== A tokenizer that knows the words of prompts, and a base"
    $PYTHON tokenizer.py train --data "$WORLD,ops=1-6" "text:world:tiny,ops=1-3,kind=rlpt,ask=$ASK" --vocab-size 512 --out "$OUT/tokenizer"
    $PYTHON pretrain.py --tokenizer "$OUT/tokenizer" --out "$OUT/base" --layers 2 --width 128 --heads 4 --kv-heads 2 --qk-norm head \
        --attention window+nope --window 8 --rope-theta 100 --seq-len 256 --batch-tokens 2048 --steps "$BASE" --lr 0.04 \
        --adam-lr 0.008 --decay 0.3 --save-every 100 --seed "$SEED" $MORE \
        --data "$WORLD,ops=1-2,split=pretrain@0.9" "$WORLD,ops=3-4,split=pretrain@0.1"
fi

echo "== The cold start that all share: chats, and a little text in the form of predictions"
$PYTHON sft.py --init "$INIT" --out "$OUT/cold" --data "$CHATS@0.4" "$(spec rlpt)@0.3" "$(spec rpt)@0.3" --batch-tokens 2048 \
    --steps "$COLD" --lr 0.02 --adam-lr 0.004 --seed "$SEED" $MORE

models=(cold)
for kind in $KINDS; do
    echo "== $kind: reinforcement on the text"
    $PYTHON grpo.py --init "$OUT/cold" --out "$OUT/$kind" --data "$(spec "$kind")" --reward score --steps "$RL" --prompts 16 --group 8 \
        --sft-data "$CHATS" --sft-tokens 1024 --sft-weight 0.1 $([ "$kind" != rlp ] || echo "--loss rlp") $ROLLOUTS
    echo "== $kind: next-token training for as many FLOPs, as two steps tell"
    MIXED="--init $OUT/cold --data $READ@0.7 $LEARNED@0.3 --seq-len 256 --batch-tokens 2048 --lr 0.03 --adam-lr 0.006 --seed $SEED $MORE"
    [ -e "$OUT/probe" ] || $PYTHON pretrain.py $MIXED --steps 2 --out "$OUT/probe"
    spent=$(flops "$OUT/$kind") two=$(flops "$OUT/probe")
    $PYTHON pretrain.py $MIXED --steps $((2 * spent / two + 1)) --save-every 100 --out "$OUT/$kind-mixed"
    models+=("$kind" "$kind-mixed")
done

solved=()
for model in "${models[@]}"; do
    echo "== $model: reinforcement on problems, the same for all"
    $PYTHON grpo.py --init "$OUT/$model" --out "$OUT/$model-rlvr" --data "$QUESTIONS" --reward "$REWARD" --steps "$RLVR" --prompts 32 \
        --group 8 $ROLLOUTS
    solved+=("$OUT/$model" "$OUT/$model-rlvr")
done

echo "== Test problems before and after, pass@1 and pass@8, and a page for each kind"
case "$TEST" in world:*) limit="--problems $PROBLEMS" ;; *) limit="--limit $PROBLEMS --max-new-tokens $NEW" ;; esac
$PYTHON evaluate.py --init "${solved[@]}" --data "$TEST" $limit --chat --k 1 8 --temperature 1 --rows 256 --seed "$SEED" \
    --out "$OUT/evaluation.json"
for kind in $KINDS; do
    $PYTHON report.py --runs "$OUT/cold" "$OUT/$kind" "$OUT/$kind-mixed" "$OUT/$kind-rlvr" "$OUT/$kind-mixed-rlvr" \
        --evaluation "$OUT/evaluation.json" --out "$OUT/$kind.html"
done
echo "the pages are $OUT/*.html" >&2
