"""aws_lottery: find, ship and apply winning signs ("Find A Winning Sign", ICLR 2025).

Find one in a training loop of your own (`AWSPruner`), on accelerate (`find_signed_mask`) or by `transformers.Trainer`
(`WinningSignCallback`); keep and share it (`SignedMask`: `save_pretrained`, `push_to_hub`, `from_pretrained`); give it
to a fresh network (`SignedMask.apply_`, `SignedMask.held`). `SignedMaskConfig` says what a search is. In a shell:
`aws-lottery --help`.

`__init__.pyi` lists the public names. Each is imported from its module when it is first used, so that
`import aws_lottery` is quick.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
