"""A module whose import seems to use CUDA, so that forks of this process could not."""

import torch

torch.cuda._is_in_bad_fork = lambda: True
