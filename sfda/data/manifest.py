"""Manifests: open, verify and make them, and read the rows they name."""

from sfda.data.build import build_manifest
from sfda.data.check import CheckResult, check
from sfda.data.digests import file_digest, row_id
from sfda.data.masking import MaskOptions
from sfda.data.masks import IGNORE, MaskReader
from sfda.data.rows import Split, read_split, unlabelled_digest
from sfda.data.schema import Archive, Arrays, Manifest, SplitSpec, manifest_ref, open_manifest

__all__ = [
    "IGNORE",
    "Archive",
    "Arrays",
    "CheckResult",
    "Manifest",
    "MaskOptions",
    "MaskReader",
    "Split",
    "SplitSpec",
    "build_manifest",
    "check",
    "file_digest",
    "manifest_ref",
    "open_manifest",
    "read_split",
    "row_id",
    "unlabelled_digest",
]
