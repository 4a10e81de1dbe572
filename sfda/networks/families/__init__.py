"""Libraries of networks, one a file: the word before the colon of `--arch` is the file's name.

The folder is open: other distributions add families by the entry point group `sfda.networks`.
"""
