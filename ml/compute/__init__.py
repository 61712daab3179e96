"""Compilation of Numba kernels, and execution of tasks in this process or on Spark."""
