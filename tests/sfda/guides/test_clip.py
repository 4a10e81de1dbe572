"""CLIP as a guide: a tiny one of random weights, in open_clip's own format, from a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from sfda.errors import BadInput
from sfda.guides.clip import load_clip
from sfda.guides.encoder import look_with
from sfda.guides.origin import guide_origin
from sfda.refs import ModelRef
from sfda.settings import GuideSettings
from sfda.types import Seen

open_clip = pytest.importorskip("open_clip", reason="the extra sfda[clip] is not installed")

CLASSES = ("polar_bear", "cat")
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {
        "context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1,
    },
}  # fmt: skip
SOURCE = ModelRef(
    uri="", sha256="0" * 64, problem="classification", arch="sfda:tiny", classes=CLASSES
)


def folder_of(tmp_path: Path, **text: Any) -> Path:
    """The configuration and the weights, as open_clip lays them."""
    config = TINY | {"text_cfg": TINY["text_cfg"] | text}  # type: ignore[operator]
    document = {"model_cfg": config, "preprocess_cfg": {"mean": [0.4] * 3, "std": [0.2] * 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(document))
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**TINY)
    weights = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    return tmp_path


def origin(uri: str, **settings: Any) -> Any:
    return guide_origin(GuideSettings(uri=uri, **settings), SOURCE, lambda _: (Path(), SOURCE))


def test_zero_shot_answers_are_those_of_the_library(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a photo of a {}.\na drawing of a {}.\n")
    folder = folder_of(tmp_path)
    made = origin(f"clip:local-dir:{folder}", templates=str(tmp_path / "t.txt"))
    guide = load_clip(made, CLASSES)
    assert guide.spec.input.size == (32, 32)
    assert guide.spec.input.mean == (0.4, 0.4, 0.4)
    assert guide.spec.input.interpolation == "bicubic"
    assert guide.spec.input.keep_ratio
    library = open_clip.create_model(f"local-dir:{folder}").eval()
    x = torch.rand(3, 3, 32, 32)
    templates = [lambda c: f"a photo of a {c}.", lambda c: f"a drawing of a {c}."]
    weights = open_clip.build_zero_shot_classifier(
        library, open_clip.get_tokenizer(f"local-dir:{folder}"), ["polar bear", "cat"], templates
    )
    with torch.no_grad():
        features = library.encode_image(x)
        expected = library.logit_scale.exp() * F.normalize(features, dim=1) @ weights
        out = guide.network(x)
    torch.testing.assert_close(out.features, features)
    torch.testing.assert_close(out.logits, expected, rtol=1e-4, atol=1e-4)
    rows = Seen(torch.arange(3), out)
    table = look_with(guide, made, lambda network, some=None: iter([rows]), 3, CLASSES)
    assert table.text is not None
    torch.testing.assert_close(table.text.norm(dim=1), torch.ones(2))
    assert made.temperature == 1.0
    assert made.provides == {"logits", "features", "text"}
    assert origin(f"clip:local-dir:{folder}").digest != made.digest, "templates count"


def test_what_would_be_downloaded_or_is_not_stated_is_refused(tmp_path: Path) -> None:
    weights = folder_of(tmp_path) / "open_clip_model.safetensors"
    with pytest.raises(BadInput, match="quick_gelu=true"):
        load_clip(origin(f"clip:ViT-B-32@{weights}"), CLASSES)
    with pytest.raises(BadInput, match="leave out quick_gelu=false"):
        load_clip(origin(f"clip:ViT-B-32-quickgelu@{weights}", quick_gelu=False), CLASSES)
    with pytest.raises(BadInput, match="no architecture ViT-Z"):
        load_clip(origin(f"clip:ViT-Z@{weights}", quick_gelu=False), CLASSES)
    with pytest.raises(BadInput, match="from a hub"):
        load_clip(origin(f"clip:roberta-ViT-B-32@{weights}", quick_gelu=False), CLASSES)
    with pytest.raises(BadInput, match="from a hub"):
        load_clip(origin(f"clip:local-dir:{folder_of(tmp_path, hf_model_name='x/y')}"), CLASSES)
    weights.unlink()
    with pytest.raises(BadInput, match="holds none of"):
        load_clip(origin(f"clip:local-dir:{tmp_path}"), CLASSES)
