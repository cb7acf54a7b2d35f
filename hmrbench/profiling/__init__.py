"""Cost: parameters, MACs, latency, memory, energy of networks."""

from hmrbench.profiling.rows import by_size, profile_card, profile_model
from hmrbench.profiling.settings import ProfileSettings, check_settings, pick_batch_sizes, variants

__all__ = [
    "ProfileSettings",
    "by_size",
    "check_settings",
    "pick_batch_sizes",
    "profile_card",
    "profile_model",
    "variants",
]
