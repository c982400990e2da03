"""The mathematics: paths, losses, flows, couplings, solvers, guidance, the sampler. It imports torch and einops alone.

`interfaces.py` has every protocol; all the rest implements or composes them.
"""
