#!/usr/bin/env bash
# The same as recipes/node.sh on two nodes of eight GPUs. Run this on both, with their place (0 or 1) and the address of the
# first. The run folder must be one that both can write to, or that of node 0.
#
#   bash recipes/two_nodes.sh 0 10.0.0.1:29500 smollm2/ gsm8k/train.jsonl      # on the first node
#   bash recipes/two_nodes.sh 1 10.0.0.1:29500 smollm2/ gsm8k/train.jsonl      # on the second
#
# Ranks are counted from the first node on, so its eight GPUs learn and the second node's sample. This takes torchrun's static
# rendezvous: the one named c10d pays no heed to a node's place and orders the nodes by their host names.
set -euo pipefail
cd "$(dirname "$0")/.."
NODES="--nnodes=2 --node_rank=$1 --master_addr=${2%:*} --master_port=${2##*:}" \
    ROLLOUT_RANKS=${ROLLOUT_RANKS:-8} PROMPTS=${PROMPTS:-128} bash recipes/node.sh "$3" "$4"
