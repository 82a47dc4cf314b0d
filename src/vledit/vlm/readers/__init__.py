"""Image processors of models whose own ones in transformers need torchvision: the same numbers, with torch alone.

One file per model.  Each has the class name and the settings of transformers' own, so that a folder is read and written
alike by both.  `benchmarks/picture_readers.py` holds them against transformers' own where torchvision is installed.
"""
