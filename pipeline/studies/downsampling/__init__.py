"""The study of negative downsampling: rates, corrections, policies."""
