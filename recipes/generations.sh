#!/usr/bin/env bash
# Generations of self-made data: each model learns from what the one before it wrote. Does it collapse, and what prevents it?
#
# A base learns from real documents. Then, again and again, a model writes documents and a new one is trained on them from random
# weights, for as many steps. The arms differ in what the documents are begun by, and in what is kept (arXiv 2305.17493 on collapse):
#
#   self       a document is begun by its context alone, the same in each generation; everything is kept
#   checked    as self, and only texts whose own question is solved right are kept (tasks/reading.py)
#   seeds      it is begun by the first facts of a problem, new ones in each generation
#   answers    the whole question is given, a new one in each generation; the model writes the solution
#   verified   as answers, and only solutions that verify are kept
#   ARM+real   half of each batch is real documents, as the base had them: kept, and not replaced
#
#   bash recipes/generations.sh
#   ARMS="self self+real verified" GENERATIONS=5 SEED=1 OUT=runs/again bash recipes/generations.sh
#   STEPS=3 COUNT=8 GENERATIONS=1 PROBLEMS=2 bash recipes/generations.sh      a quick look at whether it all works
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
OUT=${OUT:-runs/generations}
SEED=${SEED:-0}
ARMS=${ARMS:-self checked seeds answers verified self+real}
GENERATIONS=${GENERATIONS:-3}
STEPS=${STEPS:-450}        # of training in each generation, 2,048 tokens each
COUNT=${COUNT:-5000}       # documents that a generation writes
PROBLEMS=${PROBLEMS:-100}  # test problems for each number of operations
WORLD=${WORLD:-contexts=zoo,modulus=0,max_value=9,branch=0}
OPS=1-3
SHAPE=${SHAPE:---layers 2 --width 128 --heads 4 --kv-heads 2 --attention window+nope --window 8 --rope-theta 100 --qk-norm head}
RATE="--batch-tokens 2048 --seq-len 256 --lr 0.04 --adam-lr 0.008 --decay 0.3"
REAL="world:ops=$OPS,$WORLD,split=pretrain,seed=$SEED"
LEARNED="$REAL,q_weight=1" # real documents in training: every token counts, as in what a model wrote

if [ -e "$OUT" ] && [ -z "${RESUME:-}" ]; then
    echo "generations.sh: $OUT exists already; remove it, set OUT to another folder, or RESUME=1 to go on with what it holds" >&2
    exit 2
fi
learn() {                  # FOLDER SPEC...: a new model, from random weights
    local out=$1; shift
    $PYTHON pretrain.py --tokenizer "$OUT/tokenizer" --out "$out" --resume $SHAPE $RATE --steps "$STEPS" --seed "$SEED" --data "$@"
}

[ -e "$OUT/tokenizer/tokenizer.json" ] || $PYTHON tokenizer.py train --data "world:ops=1-5,$WORLD" --vocab-size 512 --out "$OUT/tokenizer"
learn "$OUT/base" "$LEARNED"
for arm in $ARMS; do
    teacher=$OUT/base made=() models=("$OUT/base")
    for g in $(seq "$GENERATIONS"); do
        fresh="world:ops=$OPS,$WORLD,split=pretrain,seed=$((1000 * (SEED + 1) + g))"
        case "${arm%+real}" in
            self) begun=(--topics "$REAL" --sentences 1) ;;
            checked) begun=(--topics "$REAL" --sentences 1 --verified) ;;
            seeds) begun=(--topics "$fresh" --sentences 2) ;;
            answers) begun=(--topics "$fresh" --sentences 0) ;;
            verified) begun=(--topics "$fresh" --sentences 0 --verified) ;;
            *) echo "generations.sh: ARMS has no $arm; use self, checked, seeds, answers or verified, each also with +real" >&2; exit 2 ;;
        esac
        file=$OUT/$arm/made$g.jsonl here=$OUT/$arm/generation$g
        echo "== $arm, generation $g: $teacher writes"
        $PYTHON augment.py synthesise --init "$teacher" --plain "${begun[@]}" --count "$COUNT" --temperature 1 --seed "$((SEED + g))" \
            --max-new-tokens 160 --rows 256 --out "$file" --resume
        if [ ! -s "$file" ]; then
            echo "generations.sh: $arm ends with generation $g, of which nothing could be kept" >&2
            break
        fi
        if [ "$arm" = "${arm%+real}" ]; then learn "$here" "$file"; else learn "$here" "$file@0.5" "$LEARNED@0.5"; fi
        teacher=$here made+=("$file") models+=("$here")
    done
    [ ${#made[@]} -gt 0 ] || continue
    echo "== $arm: how varied the data are, and what the models can"
    if [ ! -e "$OUT/$arm/measure.json" ]; then            # of as many words of each
        $PYTHON augment.py measure "${made[@]}" "$REAL" --count "$COUNT" --words $((COUNT * 30)) > "$OUT/$arm/measure.new"
        mv "$OUT/$arm/measure.new" "$OUT/$arm/measure.json"
    fi
    [ -e "$OUT/$arm/evaluation.json" ] || $PYTHON evaluate.py --init "${models[@]}" --data "world:ops=$OPS,$WORLD,split=test,seed=$SEED" \
        --problems "$PROBLEMS" --solved "$OPS" --out "$OUT/$arm/evaluation.json"
done
