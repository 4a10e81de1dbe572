"""One stage a file: open, call sfda, save, log."""
