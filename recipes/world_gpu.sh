#!/usr/bin/env bash
# The reasoning world on one GPU: a model of about 100M weights goes through the stages of recipes/laptop.sh. Pre-training takes 315M
# tokens. At the end accuracy is measured, by operations and context.
#
#   bash recipes/world_gpu.sh                        all stages, into runs/world_gpu
#   bash recipes/world_gpu.sh data base              some stages, in this order: data base mid sft grpo evaluate
#
# A finished stage is not run again; an interrupted one continues. Each stage should take less than ten minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
OUT=${OUT:-runs/world_gpu}
SEED=${SEED:-0}
SOLVED=${SOLVED:-1-8} EDGE=${EDGE:-9-14}           # operations that pre-training solves, and operations at the edge of competence
MODEL=${MODEL:---layers 14 --width 768 --heads 12 --kv-heads 4 --qk-norm head}
VOCAB=${VOCAB:-1024} WINDOW=${WINDOW:-1024} BATCH=${BATCH:-524288}
BASE=${BASE:-600} MID=${MID:-60} SFT=${SFT:-100} GRPO=${GRPO:-150}     # steps
PROMPTS=${PROMPTS:-64} GROUP=${GROUP:-16} NEW=${NEW:-320} PROBLEMS=${PROBLEMS:-100}
GPU=${GPU:---device cuda --dtype bfloat16 --compile --micro-tokens 65536}
SAMPLE=${SAMPLE:---device cuda --dtype bfloat16}
world() { echo "world:ops=$1,split=$2,branch=0,seed=$SEED"; }

for STAGE in ${@:-data base mid sft grpo evaluate}; do
    echo "== $STAGE" >&2
    case $STAGE in
    data)
        [ -e "$OUT/tokenizer" ] || $PYTHON tokenizer.py train --data "world:ops=$SOLVED,split=pretrain" --vocab-size "$VOCAB" --out "$OUT/tokenizer"
        [ -e "$OUT/easy" ] || $PYTHON data.py prepare --data "$(world "$SOLVED" pretrain)" --tokenizer "$OUT/tokenizer" --tokens $((BASE * BATCH * 96 / 100)) --out "$OUT/easy"
        [ -e "$OUT/hard" ] || $PYTHON data.py prepare --data "$(world "$EDGE" pretrain)" --tokenizer "$OUT/tokenizer" --tokens $((BASE * BATCH * 5 / 100)) --out "$OUT/hard"
        ;;
    base)
        $PYTHON pretrain.py --tokenizer "$OUT/tokenizer" --data "$OUT/easy@0.95" "$OUT/hard@0.05" --out "$OUT/base" $MODEL --seed "$SEED" \
            --seq-len "$WINDOW" --batch-tokens "$BATCH" --steps "$BASE" --lr 0.02 --adam-lr 0.003 --save-every 100 --resume $GPU
        ;;
    mid)
        $PYTHON pretrain.py --init "$OUT/base" --out "$OUT/mid" --seed "$SEED" --seq-len "$WINDOW" --batch-tokens $((BATCH / 4)) \
            --data "$(world "$EDGE" midtrain),chat=0.25@0.8" "$(world "$SOLVED" midtrain),chat=0.25@0.2" \
            --steps "$MID" --lr 0.005 --adam-lr 0.001 --schedule cosine --resume $GPU
        ;;
    sft)
        $PYTHON sft.py --init "$OUT/mid" --out "$OUT/sft" --seed "$SEED" --no-think 0.2 --unflagged 0.1 --seq-len "$WINDOW" \
            --data "$(world "$EDGE" sft)@0.7" "$(world "$SOLVED" sft)@0.3" --batch-tokens $((BATCH / 8)) \
            --steps "$SFT" --lr 0.002 --adam-lr 0.0004 --schedule cosine --resume $GPU
        ;;
    grpo)
        $PYTHON grpo.py --init "$OUT/sft" --out "$OUT/grpo" --seed "$SEED" --data "$(world "$EDGE" rl)" --mode think --reward strict --prompts "$PROMPTS" \
            --group "$GROUP" --rows $((PROMPTS * GROUP)) --max-new-tokens "$NEW" --steps "$GRPO" --lr 5e-5 --schedule wsd --decay 0.3 \
            --save-every 25 --resume ${GPU/--compile/}
        ;;
    evaluate)
        [ -e "$OUT/evaluation.json" ] || $PYTHON evaluate.py --init "$OUT"/{base,mid,sft,grpo} --plain "$OUT"/{base,mid} --chat --user-suffix " /think" --problems "$PROBLEMS" \
            --data "$(world "${SOLVED%-*}-${EDGE#*-}" test)" --k 1 8 --temperature 1 --rows 512 \
            --solved "$SOLVED" --band "$EDGE" --out "$OUT/evaluation.json" $SAMPLE
        $PYTHON report.py --runs "$OUT"/{base,mid,sft,grpo} --evaluation "$OUT/evaluation.json" --out "$OUT/report.html" --overwrite
        ;;
    *)
        echo "world_gpu.sh: no stage is called $STAGE; there are data, base, mid, sft, grpo and evaluate" >&2
        exit 2
        ;;
    esac
done
