"""The copy of a model that samples: its matrices are in the sampler's dtype, all else is shared with the trained model.

Decoding reads every matrix for each token. Without a copy autocast would cast the matrices again for each token, and read three
times as many bytes. On a CPU the matrices of the copy also have the layout of the library that multiplies. If neither is needed,
a matrix of the copy is the same tensor as in the model, and takes no memory.
"""

import torch
from torch import nn

from kernels import reorder
from model import Linear, Transformer
from training.weights import is_sharded


class SamplingCopy:
    """Makes the copy of a model. dtype: of its matrices; None: that of the model."""

    def __init__(self, model: Transformer, dtype: torch.dtype | None = None):
        self.model, self.dtype = model, dtype
        self.cast: dict[nn.Module, nn.Parameter] = {}     # {module: its weight in dtype}; for a tied head the module is the model

    @torch.no_grad()
    def refresh(self) -> Transformer:
        """The copy, with the current weights. Tensors that were cast before stay in place, since CUDA graphs read them."""
        copy, head = self._copy(self.model), self.model.head
        copy = _shallow(copy) if copy is self.model else copy                 # so that its `exact` can differ from the model's
        if copy.lm_head is None and not is_sharded(head):                     # tied: the embedding keeps its dtype
            copy.lm_head = self._with_weight(Linear(1, 1, bias=False, device="meta"), self.model, head)
        return copy

    def _copy(self, module):
        """The module with a copy of each Linear in it; the module itself if it has none."""
        if isinstance(module, Linear):
            # a shard stays as it is: the layer gathers it when it runs
            return module if is_sharded(module.weight) else self._with_weight(_shallow(module), module, module.weight)
        children = {name: child and self._copy(child) for name, child in module._modules.items()}
        if all(child is module._modules[name] for name, child in children.items()):
            return module
        copy = _shallow(module)
        copy._modules = children
        return copy

    def _with_weight(self, linear, owner, weight):
        """Gives a Linear this weight (N, D) of `owner`, in the sampler's dtype, and also reordered."""
        if self.dtype is not None:
            if owner in self.cast:
                self.cast[owner].copy_(weight)
            else:
                self.cast[owner] = nn.Parameter(weight.detach().to(self.dtype), requires_grad=False)
            weight = self.cast[owner]
        linear._parameters = linear._parameters | {"weight": weight}
        linear.reordered = reorder(weight)
        return linear


def _shallow(module):
    """A second module with the same attributes, parameters and hooks, but not the code that torch.compile made."""
    copy = object.__new__(type(module))
    copy.__dict__.update(module.__dict__)
    copy.__dict__.pop("_compiled_call_impl", None)
    copy._modules = dict(module._modules)
    return copy
