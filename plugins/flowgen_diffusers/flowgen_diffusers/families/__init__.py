"""Families of pretrained models, one a module; `flowgen_diffusers.family` finds them."""
