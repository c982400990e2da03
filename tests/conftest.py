"""One thread for every process a test starts: two that spin for one core are slower than one after the other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
