#!/usr/bin/env bash
# STaR: a model learns from its own right answers, round after round, each time from the same base (arXiv 2203.14465).
#
# In each round the newest model answers the questions, and those that it failed once more with the answer as a hint; the *original*
# base is then trained on all that came out right, a fifth longer than in the round before. METHOD=rft has a single round in which
# many answers are sampled to each question, and one of each way to solve it is kept (arXiv 2308.01825).
#
#   INIT=runs/laptop/mid bash recipes/star.sh
#   METHOD=rft INIT=runs/laptop/sft CHAT=1 bash recipes/star.sh
#   INIT=smollm2/ CHAT=1 DATA=gsm8k/train.jsonl TEST=gsm8k/test.jsonl COUNT=500 MORE="--optimizer adamw --seq-len 512" LR=1e-5 bash recipes/star.sh
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
INIT=${INIT:?the base: a checkpoint that answers some of the questions}
OUT=${OUT:-runs/star}
METHOD=${METHOD:-star}     # or rft
CHAT=${CHAT:-}             # 1: the base knows the chat format; otherwise it is asked in plain text
DATA=${DATA:-world:ops=3-5,branch=0,split=sft}
TEST=${TEST:-world:ops=3-5,branch=0,split=test}
COUNT=${COUNT:-1000}       # questions in each round
ROUNDS=${ROUNDS:-3}
STEPS=${STEPS:-40}         # of training in the first round
SAMPLES=${SAMPLES:-16}     # answers to each question, rft alone
LR=${LR:-0.01}
TOKENS=${TOKENS:-120}      # of an answer
HINTS=${HINTS:-}           # --no-hints: without rationalisation
MORE=${MORE:-}             # more flags of sft.py
SEED=${SEED:-0}
PROBLEMS=${PROBLEMS:-50}   # test problems for each number of operations, or of a file

if [ -e "$OUT" ]; then
    echo "star.sh: $OUT exists already; remove it, or set OUT to another folder" >&2
    exit 2
fi
case "$METHOD" in star|rft) ;; *) echo "star.sh: METHOD=$METHOD: use star or rft" >&2; exit 2 ;; esac
teacher=$INIT plain=--plain models=("$INIT") plains=("$INIT")
if [ -n "$CHAT" ]; then plain="" plains=(); fi
if [ "$METHOD" = rft ]; then ROUNDS=1; fi
for round in $(seq "$ROUNDS"); do
    echo "== round $round: $teacher answers"
    if [ "$METHOD" = rft ]; then
        $PYTHON augment.py rft --init "$teacher" $plain --data "$DATA" --count "$COUNT" --samples "$SAMPLES" --seed "$SEED" \
            --max-new-tokens "$TOKENS" --out "$OUT/made$round.jsonl"
    else
        $PYTHON augment.py star --init "$teacher" $plain $HINTS --data "$DATA" --count "$COUNT" --seed "$SEED" \
            --max-new-tokens "$TOKENS" --out "$OUT/made$round.jsonl"
    fi
    if [ ! -s "$OUT/made$round.jsonl" ]; then
        echo "star.sh: $teacher answers nothing right, and STaR needs a beginning; take easier questions or a better base" >&2
        exit 2
    fi
    echo "== round $round: the base learns from what was right"
    $PYTHON sft.py --init "$INIT" --data "$OUT/made$round.jsonl" --out "$OUT/round$round" --steps "$STEPS" --lr "$LR" --seed "$SEED" $MORE
    teacher=$OUT/round$round plain="" models+=("$OUT/round$round") STEPS=$((STEPS * 6 / 5))
done
echo "== the base and each round, on questions that nobody has seen"
case "$TEST" in world:*) limit="--problems $PROBLEMS" ;; *) limit="--limit $PROBLEMS --max-new-tokens $TOKENS" ;; esac
$PYTHON evaluate.py --init "${models[@]}" --chat ${plains[@]+--plain "${plains[@]}"} --data "$TEST" $limit --out "$OUT/evaluation.json"
