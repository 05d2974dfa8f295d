"""DeepCTR-Torch as a rival, in an environment and a process of its own."""
