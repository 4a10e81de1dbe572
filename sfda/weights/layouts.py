"""Which of a file's dicts are a network's weights, and what they are called in the network.

Trainers put words around a state dict and before its names: `state_dict`, `model`, `ema`, `module.`
Here they are taken away, one way for every problem. Where several sets of weights lie beside each
other the plain one is taken; an average (EMA, SWA) if it is the only one, or if its key is stated;
of a teacher and its student the teacher, which is what such trainings are for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfda.bounds.limits import CHECKPOINT_LEVELS
from sfda.errors import BadInput, listed, shell_command
from sfda.weights.inert_pickle import Inert
from sfda.weights.torch_files import MADE, NAME_LENGTH, as_tensor

# what trainers call a network, in this order of preference
PLAIN_WORDS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module"),
    *("weights", "params", "net_state_dict", "network_state_dict", "model_weights", "generator"),
    *("online_model", "online_network", "online", "encoder_q", "segmentor", "detector", "state"),
    *("_forward_module", "student"),
)
BEFORE_NAMES = frozenset(
    (
        *("model", "net", "network", "module", "_forward_module", "generator", "online_model"),
        *("online_network", "online", "encoder_q", "student"),
    )
)
AVERAGE = re.compile(
    r"(.*_)?(ema|swa|teacher|averaged|average|target_network|target_encoder|encoder_k|shadow)(_.*)?"
    r"|emas?\d*|.*_(avg|ema)"
)
TEACHER = re.compile(r"(.*_)?teacher(_.*)?")
# what is saved beside a network and is no part of it
_BESIDE = r"criterion|crit|loss|losses|loss_?fn|loss_func|loss_function|.*_loss|n_averaged"
_METRIC = r"metrics?|acc|accuracy|auc|auroc|f1|iou|miou|dice|confmat|confusion|precision|recall"
BESIDE = re.compile(rf"({_BESIDE}|(.*_)?({_METRIC})\d*|(train|val|valid|test)_?metrics?.*)")
TRAINING = re.compile(
    r"(.*_)?(optim|optimi[sz]ers?|schedulers?|scaler|amp|callbacks?|loops|discriminator|queue)"
    r"(_(states?|state_dict|dict|\d+|ptr|g|d))*|initted|steps?|epoch|num_updates|decay"
    r"|data_preprocessor|hyper_parameters|param_groups|message_hub"
)
METRIC_COUNTS = frozenset(("tp", "fp", "tn", "fn", "total", "correct", "confmat", "n_averaged"))
WRAPPING = re.compile(  # what compiling and sharding put anywhere into a name
    r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
DEEPEST_DICT = 24  # dicts that are looked into for tensors


@dataclass(frozen=True)
class Checkpoint:
    """Weights out of a file, and what was made of the rest of it."""

    weights: dict[str, Tensor]
    key: str = ""  # where they lay, words with dots between: keys, and what stood before all names
    others: tuple[str, ...] = ()  # keys of other sets of weights
    left: tuple[str, ...] = ()  # what else there was

    @property
    def text(self) -> str:
        """What was taken and what was left, on a line."""
        word = self.key.rpartition(".")[2].lower()
        average = " (an average of weights)" if AVERAGE.fullmatch(word) else ""
        origin = f" from `{self.key}`{average}" if self.key else ""
        parts = [f"{len(self.weights)} tensors taken{origin}"]
        if self.others:
            parts.append(
                f"not taken: {', '.join(self.others[:10])}, other weights of the same file "
                f"(`{shell_command('--weights-key', self.others[0])}` takes them)"
            )
        if self.left:
            parts.append(f"left out: {listed(self.left)}")
        return "; ".join(parts)


def weights_in(content: object, key: str | None = None) -> Checkpoint | None:
    """The weights in what a file holds; None where it holds none. `key` names which, where the
    usual choice is not meant: the words on the way to them, or the last of these alone. Raises
    BadInput for a key that there is not.
    """
    path: list[str] = []
    others: list[str] = []
    left: list[str] = []
    asked = key or ""
    for _ in range(CHECKPOINT_LEVELS.most + len(BEFORE_NAMES)):  # one may hold itself
        sets, rest = _sets(content)
        stated = [k for k in sets if asked and f"{asked}.".startswith(f"{k}.")]
        asked = asked[len(stated[0]) + 1 :] if stated else asked
        name = stated[0] if stated else _usual(sets)
        if name is None:
            break
        others = [] if stated else others
        others += [".".join([*path, k]) for k in sets if k != name]
        left += [".".join([*path, k]) for k in rest]
        path.append(name)
        content = sets[name]
    if asked:
        raise BadInput(
            f"no weights by the key {key!r} in this file; it has "
            f"{', '.join(dict.fromkeys(['.'.join(path), *others])) or 'one set without a key'}"
        )
    state, odd = _flat(content)
    left += [".".join([*path, k]) for k in odd]
    return Checkpoint(state, ".".join(path), tuple(others), tuple(left)) if state else None


def _sets(content: object) -> tuple[dict[str, Mapping[Any, Any]], list[str]]:
    """Sets of weights in a dict by their keys, or by the word before their names, and the names of
    all that is none. No sets: the dict is the weights itself, or holds none.
    """
    if not isinstance(content, Mapping):
        return {}, []
    named = {_name(k): v for k, v in content.items()}
    inside = {k: v for k, v in named.items() if isinstance(v, Mapping) and _holds_tensors(v)}
    if inside and not any("." in k and is_tensor(v) for k, v in named.items()):
        sets = {k: v for k, v in inside.items() if not _is_beside(k)}
        return (sets, [k for k in named if k not in sets]) if _usual(sets) else ({}, [])
    groups: dict[str, dict[str, Any]] = {}
    for name, value in named.items():
        first, dot, rest = WRAPPING.sub("", name).partition(".")
        if is_tensor(value):
            groups.setdefault(first, {})[rest if dot else ""] = value
    odd = {k for k, v in groups.items() if _is_beside(k) or ("" in v and len(v) == 1)}
    sets = {k: v for k, v in groups.items() if k not in odd}
    if not sets or not all(_is_before(k) for k in sets) or _usual(sets) is None:
        return {}, []
    return {k: v for k, v in sets.items() if "" not in v}, sorted(odd)


def _usual(sets: Mapping[str, object]) -> str | None:
    """Which set is taken where nobody says; None where all are parts of one network."""
    by_word = {k.lower(): k for k in reversed(list(sets))}
    teacher = next((k for k in sets if TEACHER.fullmatch(k.lower())), None)
    plain = [by_word[word] for word in PLAIN_WORDS if word in by_word]
    if teacher and (not plain or "student" in plain[0].lower()):
        return teacher
    if plain:
        return plain[0]
    unknown = [k for k in sets if not AVERAGE.fullmatch(k.lower())]
    if len(unknown) > 1:
        return None
    return next(iter(unknown or sets), None)


def _is_before(word: str) -> bool:
    word = word.lower()
    return word in BEFORE_NAMES or AVERAGE.fullmatch(word) is not None


def _is_beside(word: str) -> bool:
    """Whether what is called so is of the training alone."""
    word = word.lower()
    return bool(BESIDE.fullmatch(word) or TRAINING.fullmatch(word))


def is_tensor(value: object) -> bool:
    """Whether this is a tensor, or an array that can be one."""
    return isinstance(value, Tensor) or (
        isinstance(value, Inert) and MADE.fullmatch(value.name) is not None
    )


def _holds_tensors(content: Mapping[Any, Any]) -> bool:
    """Whether a tensor lies in a dict, or in the dicts in it."""
    waiting, seen = [(content, 0)], {id(content)}
    while waiting:
        part, depth = waiting.pop()
        for value in part.values():
            if is_tensor(value):
                return True
            if isinstance(value, Mapping) and id(value) not in seen and depth < DEEPEST_DICT:
                seen.add(id(value))
                waiting.append((value, depth + 1))
    return False


def _flat(content: object) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors by name, dots between the keys of dicts in each other, and the names of all that is
    none or serves training alone.
    """
    state: dict[str, Tensor] = {}
    odd: list[str] = []
    waiting: list[tuple[str, object, int]] = [("", content, 0)]
    seen: set[int] = set()
    tensors: dict[int, Tensor | None] = {}
    while waiting:
        prefix, part, depth = waiting.pop()
        if isinstance(part, Mapping) and not is_tensor(part):
            if id(part) in seen or depth > DEEPEST_DICT:
                continue
            seen.add(id(part))
            inside = [(f"{prefix}.{_name(k)}".lstrip("."), v, depth + 1) for k, v in part.items()]
            odd += [name[:NAME_LENGTH] for name, _, _ in inside if len(name) > NAME_LENGTH]
            waiting += [one for one in reversed(inside) if len(one[0]) <= NAME_LENGTH]
            continue
        if id(part) not in tensors:  # an array may have many names
            tensors[id(part)] = as_tensor(part)
        tensor = tensors[id(part)]
        if tensor is None or not _is_plain(tensor):
            odd.append(prefix)
        else:
            state[WRAPPING.sub("", prefix)] = tensor
    beside = [k for k in state if _serves_training(k)]
    if len(beside) < len(state):
        odd += beside
        state = {k: v for k, v in state.items() if k not in set(beside)}
    return state, _shortened(odd)


def _name(key: object) -> str:
    """A key as part of a name, which may be too long to be one."""
    return key[: NAME_LENGTH + 1] if isinstance(key, str) else str(key)[: NAME_LENGTH + 1]


def _serves_training(name: str) -> bool:
    first, dot, rest = name.partition(".")
    leaf = rest.rpartition(".")[2]
    return bool(BESIDE.fullmatch(first.lower())) or (bool(dot) and leaf in METRIC_COUNTS)


def _shortened(names: list[str]) -> list[str]:
    """The names' first words, each once, where what follows says no more."""
    return list(dict.fromkeys(n if n.count(".") < 2 else f"{n.partition('.')[0]}.*" for n in names))


def _is_plain(value: Tensor) -> bool:
    """Whether there are numbers in it: dense, not quantised, not a mere shape."""
    return not value.is_quantized and not value.is_meta and value.layout is torch.strided
