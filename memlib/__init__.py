"""memlib: how probabilistic deep generative models memorize their training images.

images = memlib.load_images("digits")
experiment = memlib.EXPERIMENTS["digits-lr3"]
result = memlib.run(experiment)
scores = memlib.memorization(result)

What there is stands in `__init__.pyi`; each name is imported when it is first used, so that nobody waits for
PyTorch who only lists results.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
