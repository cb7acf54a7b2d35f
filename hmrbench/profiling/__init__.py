"""Cost: parameters, MACs, latency, memory, energy of networks."""

from hmrbench.profiling.rows import by_size, profile_card, profile_model
from hmrbench.profiling.settings import ProfileSettings, check, pick_batch_sizes

__all__ = ["ProfileSettings", "by_size", "check", "pick_batch_sizes", "profile_card", "profile_model"]
