#!/usr/bin/env bash
# The whole pipeline on a two-core CPU: pre-training, mid-training at the edge of competence, supervised fine-tuning in two
# modes, preference pairs and DPO, reinforcement from verified answers; each stage measured, and a page of plots at the end.
#
#   bash recipes/laptop.sh                 everything goes to runs/laptop; the page is runs/laptop/report.html
#   SEED=1 OUT=runs/again bash recipes/laptop.sh
#   BASE=3 MID=2 SFT=2 DPO=2 GRPO=1 PROBLEMS=2 bash recipes/laptop.sh   a quick look at whether it all works
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
OUT=${OUT:-runs/laptop}
SEED=${SEED:-0}            # of weights, problems and draws; the test problems depend on it as well
BASE=${BASE:-800}          # steps of pre-training, 4,096 tokens each
MID=${MID:-300}            # of mid-training
SFT=${SFT:-100}            # of supervised fine-tuning
DPO=${DPO:-30}             # of preference training
GRPO=${GRPO:-100}          # of reinforcement learning
PROBLEMS=${PROBLEMS:-50}   # test problems for each number of operations
SOLVED=1-3 EDGE=4-8        # operations that pre-training solves, and those at the edge of competence
START=$SECONDS

if [ -e "$OUT" ]; then
    echo "laptop.sh: $OUT exists already; remove it, or set OUT to another folder" >&2
    exit 2
fi
