"""Every parser of files that people bring, fed with damaged ones: `python -m tests.fuzz`."""
