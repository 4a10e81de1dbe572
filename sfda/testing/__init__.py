"""Contract tests that ship: what every method, validator, query and network must keep.

Each function raises AssertionError that says what is broken, and needs no pytest:

    from sfda.testing import check_method
    check_method(Mine, problem="classification")
"""

from sfda.testing.methods import check_method
from sfda.testing.networks import check_network
from sfda.testing.queries import check_query
from sfda.testing.validators import check_validator

__all__ = ["check_method", "check_network", "check_query", "check_validator"]
