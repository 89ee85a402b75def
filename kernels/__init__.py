"""The blocks of the transformer that are worth writing by hand: attention, norm, rotary embedding, token log-probability.

`reference.py` holds them in plain PyTorch, for every device. model.py imports them from here, so a faster version for
one device is chosen in this file and nowhere else.
"""

from .reference import Packing, attend, attend_cached, linear, rms_norm, rotate, token_logprobs

__all__ = ["Packing", "attend", "attend_cached", "linear", "rms_norm", "rotate", "token_logprobs"]
