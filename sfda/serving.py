"""Old address of the loader of registered models, which versions of 0.1 name (until 2027-12).

MLflow calls `_load_pyfunc` of the module that a version was registered with; 0.1.0 wrote this one.
"""

from sfda.inference.served import _load_pyfunc

__all__ = ["_load_pyfunc"]
