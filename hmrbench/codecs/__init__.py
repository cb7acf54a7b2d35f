"""What a network's output means: encode and decode of one representation stand together in one file."""

from hmrbench.codecs.codec import CODECS, Codec, CropGeometry, Crops, find_codec

__all__ = ["CODECS", "Codec", "CropGeometry", "Crops", "find_codec"]
