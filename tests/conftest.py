"""For all tests: no network, and one thread: the models are tiny, and the machine may be busy.

The environment is set before anything reads it: this file is loaded before all others.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # some tests fork

import torch

torch.set_num_threads(1)


def pytest_addoption(parser):
    """`--whole`: all cells of the contract suite, not the covering choice of `make test`."""
    parser.addoption("--whole", action="store_true", help="run every cell of the contract suite")
    parser.addoption(
        "--every", type=int, default=0, help="run one cell in so many of the contract suite, spread evenly"
    )
