"""`make gpu`: what a GPU does with our code, in at most eight minutes and with nothing fetched."""
