"""The selection study: which rows of a log to train on, at equal rows and at equal compute."""
