#!/usr/bin/env bash
# Reinforcement learning on a node of eight GPUs: some ranks train (FSDP2), the others sample with weights at most one update old.
#
#   bash recipes/node.sh smollm2/ gsm8k/train.jsonl
#   GPUS=4 ROLLOUT_RANKS=2 PROMPTS=32 OUT=runs/again bash recipes/node.sh smollm2/ gsm8k/train.jsonl
set -euo pipefail
cd "$(dirname "$0")/.."
MODEL=$1 DATA=$2
TORCHRUN=${TORCHRUN:-torchrun}
OUT=${OUT:-runs/node}
GPUS=${GPUS:-8}                       # on this node
ROLLOUT_RANKS=${ROLLOUT_RANKS:-5}     # of them
ASYNC=${ASYNC:-1}                     # how many updates old the weights of a sampling rank may be
SHARD=${SHARD---shard}                # empty if only one rank trains
PROMPTS=${PROMPTS:-96} GROUP=${GROUP:-8} STEPS=${STEPS:-500} NEW=${NEW:-2048} ROWS=${ROWS:-256}
NODES=${NODES:-"--standalone"}        # set by recipes/two_nodes.sh

$TORCHRUN $NODES --nproc_per_node="$GPUS" \
    grpo.py --init "$MODEL" --data "$DATA" --out "$OUT" --resume --rollout-ranks "$ROLLOUT_RANKS" --async-steps "$ASYNC" \
    --correction tis --prompts "$PROMPTS" --group "$GROUP" --rows "$ROWS" --max-new-tokens "$NEW" --micro-tokens 16384 \
    --checkpointing $SHARD --lr 1e-6 --steps "$STEPS" --save-every 20 ${MORE:-}
