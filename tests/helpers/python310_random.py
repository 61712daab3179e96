"""A pytest plugin for tests that were written for Python 3.10, where `random.sample` accepted the keys of a dictionary.

Random numbers have a fixed seed, also those that test modules draw when they are imported.
"""

import random

import numpy as np

sample_sequence = random.sample
random.sample = lambda population, k: sample_sequence(list(population), k)
random.seed(0)
np.random.seed(0)
