"""What `--arch` strings say: a library and a name in it, for every problem.

Classifiers are `torchvision:resnet50`, `timm:convnext_tiny`, `sfda:lenet`, `sfda:tiny`; segmenters
`smp:unet/resnet18` (any architecture and encoder of segmentation_models_pytorch),
`torchvision:fcn_resnet50`, `sfda:unet`, `sfda:tinyunet`; detectors
`torchvision:fasterrcnn_resnet50_fpn`, `mmdet:CONFIG.py`, `sfda:tinyrcnn`; networks for pose
`pose:resnet50`, `pose:timm:NAME`, `pose:tiny`.
"""

from __future__ import annotations

import difflib

from sfda.errors import BadInput
from sfda.networks import own, smp, timm, torchvision


def parse_classifier(arch: str) -> tuple[str, str]:
    """Library and name of a known classifier. Raises BadInput for another.

    >>> parse_classifier("torchvision:resnet50")
    ('torchvision', 'resnet50')
    """
    library, _, name = arch.partition(":")
    if library == "sfda" and name in own.OWN_CLASSIFIERS:
        return library, name
    if library == "torchvision" and name in torchvision.classifier_names():
        return library, name
    if library == "timm" and timm.is_timm(name):
        return library, name
    raise BadInput(_no_classifier(arch))


def parse_segmenter(arch: str) -> tuple[str, str]:
    """Library and name of a known segmenter. Raises BadInput for another.

    >>> parse_segmenter("smp:unet/resnet18"), parse_segmenter("sfda:unet")
    (('smp', 'unet/resnet18'), ('sfda', 'unet'))
    """
    library, _, name = arch.partition(":")
    if library == "sfda" and name in own.UNETS:
        return library, name
    if library == "torchvision" and name in torchvision.segmenter_names():
        return library, name
    if library == "smp":
        network, _, encoder = name.partition("/")
        if network.lower() in smp.smp_networks() and smp.is_encoder(encoder):
            return library, f"{network.lower()}/{encoder}"
    raise BadInput(_no_segmenter(arch))


def parse_detector(arch: str) -> tuple[str, str]:
    """Library and name of a detector; whether the library has it shows where it is built.

    >>> parse_detector("mmdet:faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py")
    ('mmdet', 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    """
    library, _, name = arch.partition(":")
    if library not in ("torchvision", "mmdet", "sfda") or not name:
        raise BadInput(
            f"no detector '{arch}'; say torchvision:fasterrcnn_resnet50_fpn, mmdet:CONFIG.py or "
            "sfda:tinyrcnn"
        )
    return library, name


def parse_pose(arch: str) -> str:
    """Name of a pose network's backbone: `tiny`, one of torchvision's, or `timm:NAME`.

    >>> parse_pose("pose:timm:resnet18")
    'timm:resnet18'
    """
    library, _, name = arch.partition(":")
    if library != "pose" or not name:
        raise BadInput(f"no pose network '{arch}'; say pose:resnet50, pose:timm:NAME or pose:tiny")
    return name


def _no_classifier(arch: str) -> str:
    """What to say of a name that no library has."""
    library, name = _halves(arch)
    near = [f"sfda:{n}" for n in difflib.get_close_matches(name, own.OWN_CLASSIFIERS)]
    known = torchvision.classifier_names()
    near += [f"torchvision:{n}" for n in difflib.get_close_matches(name, known, n=4)]
    if library == "timm":
        near = [f"timm:{n}" for n in timm.like_timm(name)]
    libraries = "torchvision:<name>, timm:<name>, sfda:lenet or sfda:tiny"
    return f"no architecture '{arch}': it is written {libraries}{_hint(near)}"


def _no_segmenter(arch: str) -> str:
    """What to say of a name that no library has."""
    library, name = _halves(arch)
    near = [f"sfda:{n}" for n in difflib.get_close_matches(name, own.UNETS)]
    known = torchvision.segmenter_names()
    near += [f"torchvision:{n}" for n in difflib.get_close_matches(name, known)]
    if library == "smp":
        near = [f"smp:{n}" for n in smp.like_smp(name)]
    forms = "smp:<architecture>/<encoder>, torchvision:<name>, sfda:unet or sfda:tinyunet"
    return f"no architecture '{arch}' for segmentation: it is written {forms}{_hint(near)}"


def _halves(arch: str) -> tuple[str, str]:
    """What was meant as library and as name; a lone word is a name."""
    library, colon, name = arch.partition(":")
    return library, name if colon else arch


def _hint(near: list[str]) -> str:
    return f"; did you mean {', '.join(near)}?" if near else ""
