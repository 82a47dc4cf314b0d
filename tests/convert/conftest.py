"""One thread: the models are tiny, and the machine may be busy.  No network."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

torch.set_num_threads(1)
