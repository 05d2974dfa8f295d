"""Selection policies, a file each: its config and its keep probabilities.

A line-up that names a policy imports its file, also where no arrays are at hand: numpy is imported in the methods.
"""
