#!/usr/bin/env bash
# The same as recipes/node.sh on two nodes of eight GPUs. Run it on both, with the number of the node (0 or 1) and the address of
# node 0. The run folder is on node 0, or on a disk that both share.
#
#   bash recipes/two_nodes.sh 0 10.0.0.1:29500 smollm2/ gsm8k/train.jsonl      # on the first node
#   bash recipes/two_nodes.sh 1 10.0.0.1:29500 smollm2/ gsm8k/train.jsonl      # on the second
#
# The first ranks are on node 0, so its eight GPUs train and those of node 1 sample. This needs torchrun's static rendezvous: the
# rendezvous named c10d ignores the number of a node and sorts nodes by their host names.
set -euo pipefail
cd "$(dirname "$0")/.."
NODES="--nnodes=2 --node_rank=$1 --master_addr=${2%:*} --master_port=${2##*:}" \
    ROLLOUT_RANKS=${ROLLOUT_RANKS:-8} PROMPTS=${PROMPTS:-128} bash recipes/node.sh "$3" "$4"
