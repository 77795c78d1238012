"""The original PyTorch stacks: models are exported from them, and references computed by them.

The only package that imports torch, transformers, timm, open_clip, torchvision or sentence_transformers, each when
it is first needed.
"""
