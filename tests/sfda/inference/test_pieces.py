"""A batch that memory does not hold is taken in parts, and its numbers mean the same."""

from __future__ import annotations

import copy
import logging
from typing import Any, NamedTuple

import pytest
import small
import torch
from torch import Tensor, nn

import sfda
from sfda import plugins
from sfda.adaptation.loop import adapt
from sfda.errors import BadInput
from sfda.inference import forward
from sfda.inference.pieces import MOST_PARTS, halving, in_parts, is_short_of_memory, seen_parts

CPU = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"


class Out(NamedTuple):
    features: Tensor
    logits: Tensor


class Net(nn.Module):
    """Rows of four numbers to features and logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(12, 5), nn.Linear(5, 3)

    def forward(self, images: Tensor) -> Out:
        features = self.body(images.flatten(1)).tanh()
        return Out(features, self.head(features))


def of_whole(out: Out) -> Tensor:
    """Terms of rows, of pairs of rows and of the mean over all."""
    probs = out.logits.softmax(1)
    pairs = out.features @ out.features.T
    return (probs.log() * probs).mean() + pairs.sin().sum() + probs.mean(0).log().sum()


@pytest.mark.parametrize("rows", [4, 7, 9])
@pytest.mark.parametrize("parts", [2, 4])
def test_gradients_are_those_of_the_whole_batch(rows: int, parts: int) -> None:
    torch.manual_seed(0)
    network, images = Net().double(), torch.randn(rows, 3, 2, 2, dtype=torch.float64)
    of_whole(network(images)).backward()
    expected = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    with seen_parts() as taken, in_parts([network], parts):
        loss = of_whole(network(images))
    loss.backward()
    assert taken == [min(parts, rows // 2)]
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-12)
    assert "forward" not in vars(network)


def test_statistics_move_once_a_part_and_not_again_with_the_gradient() -> None:
    network, images = nn.BatchNorm2d(3), torch.randn(4, 3, 2, 2)
    twice = copy.deepcopy(network)
    with in_parts([network], 2):
        loss = network(images).sin().sum()
    for part in images.chunk(2):
        twice(part)
    assert torch.equal(network.running_mean, twice.running_mean)
    loss.backward()
    assert torch.equal(network.running_mean, twice.running_mean)
    assert torch.equal(network.running_var, twice.running_var)


def without_batch_norm() -> nn.Module:
    """The small source with norms that look at one row alone."""
    network = small.source()
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.BatchNorm2d):
                parent.set_submodule(name, nn.GroupNorm(1, layer.num_features))
            if isinstance(layer, nn.BatchNorm1d):
                parent.set_submodule(name, nn.LayerNorm(layer.num_features))
    return network


@pytest.mark.parametrize("name", ["shot", "aad", "nrc", "mean_teacher", "sfda2", "glc"])
def test_methods_learn_the_same_in_parts(name: str) -> None:
    data = small.target_arrays()
    images = data["x"][data["split"] == 0][:24]
    kind = plugins.load("methods", name)
    settings = {"schedule": small.FAST | {"epochs": 2, "lr": 1e-3}}
    learnt = []
    for parts in (1, 4):
        config = kind.Config.from_settings(settings)
        torch.manual_seed(0)
        method = kind(without_batch_norm(), small.info(len(images)), config)
        batches = small.batches(images, strong=kind.views != "none")
        with seen_parts() as taken:
            for _ in adapt(method, batches, small.look(images), config.schedule, parts=parts):
                pass
        assert (len(taken) > 0) == (parts > 1)
        learnt.append(dict(method.student.named_parameters()))
    for part, weight in learnt[0].items():
        torch.testing.assert_close(learnt[1][part], weight, rtol=1e-4, atol=1e-5)


class Short:
    """A hook of a network: out of memory where more rows than `most` learn at once."""

    def __init__(self, most: int, *, learning: bool = True, after: int = 0) -> None:
        self.most, self.learning, self.calls, self.after = most, learning, 0, after
        self.rows: list[int] = []

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled() != self.learning:
            return
        self.calls += 1
        if len(inputs[0]) > self.most and self.calls > self.after:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {len(inputs[0])} rows")
        self.rows.append(len(inputs[0]))

    def __deepcopy__(self, memo: dict[int, Any]) -> Short:
        return self


def adapted(tmp_path: Any, hook: Short, method: str = "shot", **more: Any) -> Any:
    target = small.write(tmp_path, "target", small.target_arrays(), small.TARGET)
    small.bundle(tmp_path / "source")
    model = sfda.load(str(tmp_path / "source"))
    model.network.backbone.register_forward_pre_hook(hook)
    settings = {"schedule": small.FAST | {"epochs": 2}}
    return sfda.adapt(model, str(target), method=method, settings=settings, **more)


@pytest.mark.parametrize("after", [0, 8])
def test_a_run_short_of_memory_goes_on_with_its_batches_in_parts(
    tmp_path: Any, caplog: Any, after: int
) -> None:
    """At once, or in the second epoch, from where it begins anew."""
    small_enough = Short(4, after=after)
    with caplog.at_level(logging.WARNING, "sfda"):
        result = adapted(tmp_path, small_enough)
    assert len(result.history) == 2
    assert set(small_enough.rows) == ({4} if after == 0 else {4, 8})
    (message,) = [r.getMessage() for r in caplog.records if "parts" in r.getMessage()]
    assert "memory does not hold a batch of 8 (CUDA out of memory: 8 rows)" in message
    assert message.endswith("it is taken in 2 parts")
    assert "2 parts" in str(result.cut)


def test_it_ends_with_a_remedy_where_halves_do_not_do(tmp_path: Any) -> None:
    with pytest.raises(BadInput, match=r"also in 4 parts .*--set schedule.batch_size=4"):
        adapted(tmp_path, Short(1))
    with pytest.raises(BadInput, match=r"a batch of 8 \(CUDA .*--set schedule.batch_size=4"):
        adapted(tmp_path / "b", Short(1, learning=False), "bn")


def test_what_is_no_want_of_memory_is_not_tried_again() -> None:
    calls = []

    def work(parts: int) -> int:
        calls.append(parts)
        raise RuntimeError("another fault")

    with pytest.raises(RuntimeError, match="another fault"):
        halving(work, "toy", 64)
    assert calls == [1]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("x"), RuntimeError(CPU), MemoryError()])
def test_want_of_memory_is_known_by_its_words(error: Exception) -> None:
    assert is_short_of_memory(error)
    assert not is_short_of_memory(RuntimeError("size mismatch"))


def test_losses_beside_the_forward_pass_end_after_one_more_try() -> None:
    calls = []

    def work(parts: int) -> int:
        calls.append(parts)
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(BadInput, match="batch_size=32") as caught:
        halving(work, "toy", 64)
    assert calls == [1, 2]
    assert "parts" not in str(caught.value)
    assert MOST_PARTS == 4


def test_a_look_at_all_images_is_halved_with_the_same_answers() -> None:
    network, images = small.source(), torch.rand(9, 1, 16, 16)
    expected = forward.infer(network, images, torch.device("cpu"))
    hook = Short(3, learning=False)
    network.backbone.register_forward_pre_hook(hook)
    output = forward.infer(network, images, torch.device("cpu"))
    assert sum(hook.rows) == 9
    torch.testing.assert_close(output.logits, expected.logits)
    network.backbone.register_forward_pre_hook(Short(0, learning=False))
    with pytest.raises(BadInput, match="one image of 16 x 16 pixels"):
        forward.infer(network, images, torch.device("cpu"))
