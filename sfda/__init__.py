"""Source-free domain adaptation: the library, without orchestrator and without tracker."""

__version__ = "0.1.0"
