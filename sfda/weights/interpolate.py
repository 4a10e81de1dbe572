"""Weights between two networks: a smaller step from the source towards a candidate.

theta = A + s (B - A) (Wortsman et al., CVPR 2022, arXiv:2109.01903): each rung of the ladder of
docs/methods/decide.md, section 2, shrinks the change.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sfda.errors import BadInput

RUNGS = (0.75, 0.5, 0.25)


def between(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], step: float
) -> dict[str, Tensor]:
    """`first` + step (`second` - `first`), tensor by tensor; what is no floating-point number, such
    as counts of batches, is `second`'s. `step` lies in [0, 1].

    Raises BadInput where they are not of the same names and shapes.
    """
    if not 0 <= step <= 1:
        raise ValueError(f"a step of {step} is not between 0 and 1")
    shapes = [{name: tuple(t.shape) for name, t in own.items()} for own in (first, second)]
    if shapes[0] != shapes[1]:
        odd = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))
        raise BadInput(f"no weights lie between these models: {odd[0][0]} differs in its shape")
    return {
        name: (first[name].double() + step * (tensor.double() - first[name].double())).to(
            tensor.dtype
        )
        if tensor.is_floating_point()
        else tensor
        for name, tensor in second.items()
    }
