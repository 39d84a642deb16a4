"""The engine of 28 days of PyTorch: it grades exercises and knows none by name."""

__version__ = "0.1.0"
