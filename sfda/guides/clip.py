"""Zero-shot CLIP as a guide, through open_clip with weights from a file.

Nothing is downloaded: the architecture comes from open_clip's own configurations, the weights are
read as any checkpoint, and what would have its text encoder or tokenizer from elsewhere is refused
(docs/methods/guided.md, section 1.4).
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sfda.errors import BadInput
from sfda.guides.encoder import GuideNetwork
from sfda.guides.origin import GuideOrigin
from sfda.problems.classification.network import Classifier, ClassOutput
from sfda.refs import InputSpec, ModelSpec, Views
from sfda.types import Images
from sfda.weights.checkpoints import read_weights
from sfda.weights.load import load_exactly

FOLDER_FORM = "local-dir:"
FOLDER_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
REMOTE = ("hf_model_name", "hf_tokenizer_name")  # text towers and tokenizers of a hub


class ClipClassifier(nn.Module):
    """Images to features and zero-shot logits: scale times cosine to each class's text, with the
    bias that some models have.
    """

    problem: ClassVar[str] = Classifier.problem
    text: Float[Tensor, "C G"]

    def __init__(self, clip: nn.Module, text: Float[Tensor, "C G"]) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("text", text)

    @torch.no_grad()
    def forward(self, images: Images) -> ClassOutput:
        """Features before normalisation, and logits."""
        clip: Any = self.clip
        features: Tensor = clip.encode_image(images).float()
        logits = clip.logit_scale.exp() * F.normalize(features, dim=1) @ self.text.T
        if getattr(clip, "logit_bias", None) is not None:
            logits = logits + clip.logit_bias
        return ClassOutput(features, logits)


def load_clip(origin: GuideOrigin, classes: tuple[str, ...]) -> GuideNetwork:
    """The network of a clip guide for these classes. Raises BadInput."""
    library = _open_clip()
    arch, weights = _arch_and_weights(origin)
    _refuse_remote(library, arch)
    with torch.random.fork_rng(devices=[]):
        try:
            clip = library.create_model(
                arch, precision="fp32", load_weights=False, pretrained_image=False
            )
        except (RuntimeError, OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"open_clip cannot make {arch}: {error}") from None
    named = read_weights(weights)
    load_exactly(
        clip,
        library.model.convert_to_custom_text_state_dict(named)
        if hasattr(clip, "text") and "text_projection" in named
        else named,
    )
    clip.eval()
    network = ClipClassifier(clip, _text_rows(library, clip, arch, origin))
    spec = ModelSpec(
        problem=Classifier.problem,
        arch=f"clip:{origin.arch}"[:200],
        classes=classes,
        input=_input(dict(clip.visual.preprocess_cfg)),
        views=Views(),
    )
    return GuideNetwork(network.eval(), spec, True)


def _open_clip() -> ModuleType:
    try:
        import open_clip
    except ModuleNotFoundError:
        raise BadInput("a clip guide needs open_clip: pip install 'sfda[clip]'") from None
    module: ModuleType = open_clip
    return module


def _arch_and_weights(origin: GuideOrigin) -> tuple[str, Path]:
    """What open_clip calls the architecture, and the file of its weights. Raises BadInput."""
    path = Path(origin.file)
    if path.is_dir():
        every = [path / name for name in FOLDER_WEIGHTS if (path / name).is_file()]
        if not every:
            raise BadInput(f"{path} holds none of {', '.join(FOLDER_WEIGHTS)}")
        return f"{FOLDER_FORM}{path}", every[0]
    quick, named = origin.settings.quick_gelu, origin.arch.endswith("-quickgelu")
    if quick is None and not named:
        raise BadInput(
            f"nothing in {path} says whether it was trained with QuickGELU, and with the other one "
            "it answers badly without a word: state quick_gelu=true (OpenAI's and DFN's weights) "
            "or quick_gelu=false with --guide-set"
        )
    if named and quick is False:
        raise BadInput(f"{origin.arch} is the one with QuickGELU: leave out quick_gelu=false")
    return f"{origin.arch}-quickgelu" if quick and not named else origin.arch, path


def _refuse_remote(library: ModuleType, arch: str) -> None:
    """Raise BadInput for an architecture that is not there, or that has parts from elsewhere."""
    if arch.startswith(FOLDER_FORM):
        from sfda.config import read_yaml

        file = Path(arch.removeprefix(FOLDER_FORM), "open_clip_config.json")
        content = read_yaml(file, "open_clip's configuration of the model")
        config = content.get("model_cfg", content) if isinstance(content, dict) else {}
    else:
        config = library.get_model_config(arch)
    if not isinstance(config, dict) or not config:
        known = ", ".join(sorted(library.list_models())[:8])
        raise BadInput(f"open_clip has no architecture {arch}; it has {known} ...")
    text = config.get("text_cfg") or {}
    if remote := [name for name in REMOTE if isinstance(text, dict) and text.get(name)]:
        raise BadInput(
            f"{arch} has its text encoder or tokenizer from a hub ({remote[0]}), and nothing is "
            "downloaded; take an architecture with open_clip's own"
        )


@torch.no_grad()
def _text_rows(
    library: ModuleType, clip: nn.Module, arch: str, origin: GuideOrigin
) -> Float[Tensor, "C G"]:
    """For each class the mean over the templates of unit rows, at unit length again."""
    encoder: Any = clip
    tokens = library.get_tokenizer(arch)
    rows = []
    for name in origin.names:
        sentences = [template.replace("{}", name) for template in origin.templates]
        each = F.normalize(encoder.encode_text(tokens(sentences)).float(), dim=1)
        rows.append(F.normalize(each.mean(0), dim=0))
    return torch.stack(rows)


def _input(stated: dict[str, Any]) -> InputSpec:
    """How a CLIP wants its images. Raises BadInput for letterboxes, which ours differ from."""
    size = stated.get("size", 224)
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    mode = stated.get("resize_mode", "shortest")
    if mode not in ("shortest", "squash"):
        raise BadInput(f"this CLIP resizes images by '{mode}', which guides do not")
    return InputSpec(
        size=(height, width),
        keep_ratio=mode == "shortest",
        interpolation="bicubic" if stated.get("interpolation") == "bicubic" else "bilinear",
        mean=tuple(stated["mean"]),
        std=tuple(stated["std"]),
    )
