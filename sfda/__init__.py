"""Source-free domain adaptation: the library, without orchestrator and without tracker.

What a notebook and the author of a method need can be imported from here; it is loaded when it is
asked for, so that importing this package stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sfda.images.imports import import_away

import_away()

__version__ = "0.2.0"

if TYPE_CHECKING:
    from sfda.inputs import InputSpec, Views
    from sfda.methods._base import Method, MethodConfig
    from sfda.notebook.adapting import Adapted
    from sfda.notebook.adapting import adapt_model as adapt
    from sfda.notebook.adapting import compare_methods as compare
    from sfda.notebook.judging import evaluate_images as evaluate
    from sfda.notebook.judging import predict_images as predict
    from sfda.notebook.models import LoadedModel
    from sfda.notebook.models import load_model as load
    from sfda.notebook.profiling import profile_images as profile
    from sfda.problems._base import Problem
    from sfda.queries._base import Query, QueryConfig
    from sfda.settings import Schedule
    from sfda.validators._base import Validator, ValidatorConfig
else:
    # public name -> where it lies
    _MODULE_OF = {
        "Adapted": "sfda.notebook.adapting:Adapted",
        "InputSpec": "sfda.inputs:InputSpec",
        "LoadedModel": "sfda.notebook.models:LoadedModel",
        "Method": "sfda.methods._base:Method",
        "MethodConfig": "sfda.methods._base:MethodConfig",
        "Problem": "sfda.problems._base:Problem",
        "Query": "sfda.queries._base:Query",
        "QueryConfig": "sfda.queries._base:QueryConfig",
        "Schedule": "sfda.settings:Schedule",
        "Validator": "sfda.validators._base:Validator",
        "ValidatorConfig": "sfda.validators._base:ValidatorConfig",
        "Views": "sfda.inputs:Views",
        "adapt": "sfda.notebook.adapting:adapt_model",
        "compare": "sfda.notebook.adapting:compare_methods",
        "evaluate": "sfda.notebook.judging:evaluate_images",
        "load": "sfda.notebook.models:load_model",
        "predict": "sfda.notebook.judging:predict_images",
        "profile": "sfda.notebook.profiling:profile_images",
    }

    def __getattr__(name):
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'sfda' has no attribute '{name}'")
        from importlib import import_module

        module, _, attribute = _MODULE_OF[name].partition(":")
        return getattr(import_module(module), attribute)

    def __dir__():
        return sorted({*globals(), *_MODULE_OF})


__all__ = [
    "Adapted",
    "InputSpec",
    "LoadedModel",
    "Method",
    "MethodConfig",
    "Problem",
    "Query",
    "QueryConfig",
    "Schedule",
    "Validator",
    "ValidatorConfig",
    "Views",
    "adapt",
    "compare",
    "evaluate",
    "load",
    "predict",
    "profile",
]
