"""Source-free domain adaptation: the library, without orchestrator and without tracker."""

__version__ = "0.2.0"
