"""Presets fit their flows and hold the papers' numbers; source recipes and regimes by command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import small
import yaml
from conftest import Home, World, sfda

from flows import presets
from flows.adapt import adapt
from flows.compare import compare
from flows.rounds import rounds
from flows.train_source import train_source
from sfda import plugins
from sfda.adaptation.schedule import learning_rate
from sfda.adaptation.supervised import BOUND, SupervisedConfig
from sfda.types import Clock
from tasks import tracking

every_preset = pytest.mark.parametrize("name", presets.names())
ADDRESSES = {
    adapt: {"source": "models:/a/1", "target": "t.yaml"},
    compare: {"source": "models:/a/1", "target": "t.yaml", "methods": ["shot"]},
    rounds: {
        "source": "models:/a/1",
        "target": "t.yaml",
        "queries": ["lftl"],
        "methods": ["shot"],
        "budgets": ["1%"],
    },
    train_source: {"data": "s.yaml", "arch": "torchvision:resnet50", "name": "a"},
}


def flow_of(name: str) -> Any:
    """A preset's last word says whose it is."""
    flows = {"compare": compare, "source": train_source, "active": rounds}
    return flows.get(name.rpartition("-")[2], adapt)


def config_of(name: str) -> Any:
    """The settings of a preset of one method, over the method's defaults."""
    inputs = presets.read(name)
    kind = plugins.load("methods", inputs["method"]).Config if "method" in inputs else None
    return (kind or SupervisedConfig).from_settings(inputs["settings"])


@every_preset
def test_every_preset_parses_against_its_flow_and_its_methods(name):
    flow = flow_of(name)
    inputs = presets.read(name, allowed=presets.allowed_for(flow) - {"data", "arch", "name"})
    flow.validate_parameters(ADDRESSES[flow] | inputs)
    if flow not in (compare, rounds):
        assert (flow is adapt) == ("method" in inputs)
        config_of(name)
        return
    assert inputs["settings"]
    for method, settings in inputs["settings"].items():
        kind = SupervisedConfig if method == BOUND else plugins.load("methods", method).Config
        kind.from_settings(settings)


@every_preset
def test_every_preset_says_in_its_first_line_where_it_is_from(name):
    first = (presets.HERE / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    if flow_of(name) not in (compare, rounds):
        assert re.search(r"arXiv:\d{4}\.\d{5}", first)


@pytest.mark.parametrize(
    ("name", "lr", "epochs", "weight_decay", "more"),
    [
        ("office31-glc", 1e-3, 50, 1e-3, {"global_weight": 0.3}),
        ("officehome-glc", 1e-3, 50, 1e-3, {"global_weight": 1.5}),
        ("visda-glc", 1e-4, 20, 1e-3, {"global_weight": 0.3}),
        ("visda-glc-open", 1e-4, 30, 1e-3, {"global_weight": 0.3}),
        ("domainnet-glc", 1e-4, 10, 1e-3, {"global_weight": 1.5}),
        ("visda-lftl", 1e-3, 10, 1e-3, {"anchor_weight": 10.0, "unlabelled": "balanced"}),
        ("office31-lftl", 1e-3, 15, 1e-3, {"anchor_weight": 1.0, "unlabelled": "all"}),
        ("visda-nrc", 1e-3, 15, 1e-3, {"neighbours": 5, "expanded": 5}),
        ("officehome-nrc", 1e-3, 40, 5e-4, {"neighbours": 3, "late_expanded": 4}),
        ("office31-nrc", 1e-3, 15, 1e-3, {"neighbours": 2, "expanded": 3}),
        ("visda-sfda2", 1e-3, 15, 1e-3, {"augment_weight": 1e-4, "disentangle_weight": 10.0}),
        ("domainnet126-sfda2", 1e-3, 15, 1e-3, {"augment_weight": 1e-4, "strength": 5.0}),
        ("officehome-shot-partial", 1e-2, 15, 1e-3, {"regime": "partial", "pseudo_weight": 0.3}),
        ("officehome-shot-open", 1e-2, 15, 1e-3, {"regime": "open", "pseudo_weight": 0.3}),
        ("officehome-aad-partial", 1e-3, 40, 5e-4, {"neighbours": 3, "fade": 1.0}),
        ("office31-source", 1e-2, 100, 1e-3, {"smoothing": 0.1}),
        ("officehome-source", 1e-2, 50, 1e-3, {"smoothing": 0.1}),
        ("visda-source", 1e-3, 10, 1e-3, {"smoothing": 0.1}),
        ("office31-glc-source", 1e-2, 50, 1e-3, {"smoothing": 0.1}),
        ("officehome-glc-source", 1e-2, 50, 1e-3, {"smoothing": 0.1}),
        ("visda-glc-source", 1e-3, 10, 1e-3, {"smoothing": 0.1}),
        ("domainnet-glc-source", 1e-2, 50, 1e-3, {"smoothing": 0.1}),
        ("office-aad-source", 1e-2, 20, 5e-4, {"smoothing": 0.1}),
    ],
)
def test_the_papers_numbers(name, lr, epochs, weight_decay, more):
    config = config_of(name)
    schedule = config.schedule
    assert (schedule.lr, schedule.epochs, schedule.weight_decay) == (lr, epochs, weight_decay)
    assert schedule.decay == ("shot" if weight_decay == 1e-3 else "none")
    assert (schedule.batch_size, schedule.drop_last) == (64, "glc" in name)
    assert config.lr_scale["backbone"] == 0.1
    assert {key: getattr(config, key) for key in more} == more
    frozen = presets.read(name).get("method") in ("glc", "shot")
    assert config.lr_scale.get("head", 1.0) == (0.0 if frozen else 1.0)
    trains = name.endswith("-source")
    assert presets.read(name)["checkpoint" if trains else "select_by"] == "last"


@pytest.mark.parametrize(
    ("name", "batch", "weight_decay", "pixels", "side"),
    [
        ("prostate-adami", 24, 1e-4, (8000,), 384),
        ("spine-adami", 24, 1e-4, (579,), 256),
        ("heart-adami", 22, 1e-3, (4428, 4996, 4487, 3706), 256),
    ],
)
def test_adamis_released_configurations(name, batch, weight_decay, pixels, side):
    config = config_of(name)
    schedule = config.schedule
    assert (schedule.optimizer, schedule.lr, schedule.epochs) == ("adam", 1e-6, 100)
    assert (schedule.batch_size, schedule.weight_decay) == (batch, weight_decay)
    late = learning_rate(schedule, Clock(99 * 10, 10, 100))
    assert late == pytest.approx(1e-6 * 0.9**4)  # after epochs 20, 40, 60 and 80
    background, *others = config.ratios.values()
    assert others == pytest.approx([size / side**2 for size in pixels], abs=1e-4)
    assert background == pytest.approx(1 - sum(others), abs=1e-4)
    assert list(config.class_weights) == list(config.ratios)
    assert sum(config.class_weights.values()) == pytest.approx(1)
    assert config.class_weights["background"] == (0.02 if name == "heart-adami" else 0.1)


@pytest.fixture(scope="module")
def home(world: World) -> Iterator[Home]:
    made = world.home("presets")
    with made.entered():
        yield made


@pytest.mark.flow
def test_a_source_recipe_is_followed_and_what_is_said_beside_it_wins(world, home):
    recipe = world.folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({
        "checkpoint": "last", "epochs": 2, "seed": 7,
        "settings": {"schedule": small.FAST, "smoothing": 0.2},
    }))  # fmt: skip
    words = ("train-source", "--data", world.source, "--arch", "sfda:tiny", "--name", "by-recipe")
    output = sfda(*words, "--preset", recipe, "--epochs", 1, "--set", "schedule.lr=1e-3",
                "--json").json  # fmt: skip
    params = tracking.client().get_run(output["mlflow_run_id"]).data.params
    expected = {"schedule.epochs": "1", "schedule.batch_size": "8", "smoothing": "0.2", "seed": "7"}
    assert expected.items() <= params.items()
    assert float(params["schedule.lr"]) == 1e-3
    recipe.write_text("arch: timm:resnet10t\n")
    ended = sfda(*words, "--preset", recipe)
    assert ended.code == 2
    assert re.search(
        r"recipe\.yaml names arch; the flow takes again, arch_settings, bottleneck_dim, .*settings",
        ended.err,
    )


@pytest.mark.flow
def test_the_classes_of_a_regime_are_chosen_by_command(world, home, tmp_path):
    regimes = tmp_path / "regimes.yaml"
    regimes.write_text("open: {source: [bar, post], target: [bar, post, cross]}\n")
    out = tmp_path / "open" / "source.yaml"
    words = ("subset", world.source, "--out", out)
    output = sfda(
        *words, "--regimes", regimes, "--regime", "open", "--side", "source", "--json"
    ).json
    assert output == {
        "manifest": str(out), "splits": {"train": 40, "val": 20}, "classes": ["bar", "post"],
        "notes": [],
    }  # fmt: skip
    assert yaml.safe_load(out.read_text())["name"] == "toy/source (open, source)"
    assert sfda("check", out, "--json").json["ok"]
    by_name = sfda(*words, "--classes", "cross, bar")
    assert by_name.out.strip() == f"{out}: train 40, val 20"
    for inputs in ([], ["--regimes", regimes], ["--classes", "bar,post", "--side", "source"]):
        ended = sfda(*words, *inputs)
        assert ended.code == 2
        assert "give --classes a,b,c, or --regimes FILE with --regime and --side" in ended.err


@pytest.mark.flow
@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("{alfa: 0.1}", "there is no 'decision.alfa'; did you mean 'alpha'?"),
        ("{alpha: 0.9}", "decision.alpha = 0.9 is refused"),
        ("{vetoes: {one_class: 2}}", "decision.vetoes.one_class = 2 is refused"),
    ],
)
def test_a_wrong_policy_in_a_preset_is_refused_by_name(world, home, tmp_path, policy, words):
    preset = tmp_path / "own.yaml"
    preset.write_text(f"method: shot\ndecision: {policy}\n")
    ended = sfda("adapt", "--source", world.bundle, "--target", world.target, "--preset", preset)
    assert ended.code == 2
    assert words in ended.err
