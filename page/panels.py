"""The curves of a stage on the page: one entry for each plot.

A metric that a training script logs shows on the page with one entry here:

    ("Title of the plot", {"name in log.jsonl": "name in the legend"}, "How to read it; may be empty."),

A stage that did not log the metric does not get the plot. A plot can show up to three metrics.
"""

PANELS = [
    ("Loss", {"loss": "loss"}, ""),
    ("Plain negative log-likelihood", {"nll": "nats per token"}, "Unweighted, so comparable across kinds of loss."),
    ("Given conversations", {"sft_loss": "nats per token"}, "Learned beside reinforcement, by likelihood."),
    ("Reward", {"reward": "mean", "reward_std": "standard deviation"}, ""),
    ("Accuracy of rollouts", {"answer": "answer", "process": "every step"}, "The gap: right answers, wrong steps."),
    ("Response length, tokens", {"length_mean": "mean", "length_max": "longest"}, ""),
    ("Sampler against trainer", {"logprob_diff_mean": "mean", "logprob_diff_max": "largest"},
     "Difference of a token's log-probability, nats. At 0 training is truly on-policy."),
    ("Entropy, nats per token", {"entropy": "entropy"}, "In reinforcement: of the completions that are trained on."),
    ("Groups without spread", {"zero_spread": "share of groups"}, "All rewards alike: nothing to learn from."),
    ("Calls of tools in a reply", {"calls": "all", "needless_calls": "needless", "failed_calls": "failed"}, ""),
    ("Cut off at the cap", {"cut_off": "share of completions"}, ""),
    ("Clipped", {"clip_low": "below", "clip_high": "above", "clipped": "at the bound"}, "Shares of the tokens trained on."),
    ("Open gate", {"gate": "share of the gradient"}, "SAPO's, in place of a clip: 1 while the policy has not moved."),
    ("Dropped by a correction", {"dropped": "share of tokens"}, "Where sampler and trainer differ too much."),
    ("Divergence from the teacher", {"divergence": "nats per token"}, "Of the student, on the texts of the step."),
    ("KL divergence from the start", {"kl": "nats per token"}, ""),
    ("Log-probability of the answers", {"chosen": "chosen", "rejected": "rejected"}, ""),
    ("Change against the reference", {"chosen_change": "chosen", "rejected_change": "rejected"},
     "The margin can grow while both fall."),
    ("Margin", {"margin": "chosen minus rejected"}, ""),
    ("Preference accuracy", {"accuracy": "share of pairs"}, "Pairs in which chosen gained more than rejected."),
    ("Gradient norm", {"grad_norm": "before clipping"}, ""),
    ("Where the time goes", {"rollout_share": "step in rollouts", "wasted_slots": "decode slots wasted"}, "Shares."),
    ("Tokens per second", {"tokens_per_second": "all", "rollout_tokens_per_second": "rollouts",
                           "train_tokens_per_second": "training"}, ""),
]
