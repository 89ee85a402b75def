"""The model as a sampler wants it: a copy with matrices of its own, which shares everything else with the model that is trained.

Decoding reads every matrix for each token. So the copy has them in the sampler's type, where that is not the model's own:
autocast would cast them again for each token, and read three times as many bytes. On a CPU it also has them in the layout of
the library that multiplies. Where neither is needed, the copy's matrix is the model's own tensor and takes no memory.
"""

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from kernels import reorder
from model import Linear, Transformer


class SamplingCopy:
    """Makes the copy of a model. dtype: the type of its matrices; None: that of the model's own."""

    def __init__(self, model: Transformer, dtype: torch.dtype | None = None):
        self.model, self.dtype = model, dtype
        self.cast: dict[nn.Module, nn.Parameter] = {}     # {owner: its weight in dtype}; the owner of a tied head is the model

    @torch.no_grad()
    def refresh(self) -> Transformer:
        """The copy, with the weights as they are now. What was cast before stays in place, since CUDA graphs read it there."""
        copy, head = self._copy(self.model), self.model.head
        copy = _shallow(copy) if copy is self.model else copy                 # its `exact` is the sampler's
        if copy.lm_head is None and not isinstance(head, DTensor):            # tied: the embedding keeps its own type
            copy.lm_head = self._with_weight(Linear(1, 1, bias=False, device="meta"), self.model, head)
        return copy

    def _copy(self, module):
        """The module with a copy in place of each Linear in it; the module itself where it has none."""
        if isinstance(module, Linear):
            # a shard is left as it is: the layer gathers it when it runs
            return module if isinstance(module.weight, DTensor) else self._with_weight(_shallow(module), module, module.weight)
        children = {name: child and self._copy(child) for name, child in module._modules.items()}
        if all(child is module._modules[name] for name, child in children.items()):
            return module
        copy = _shallow(module)
        copy._modules = children
        return copy

    def _with_weight(self, linear, owner, weight):
        """Gives a Linear this weight (N, D) of `owner`, in the sampler's type and also reordered."""
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
