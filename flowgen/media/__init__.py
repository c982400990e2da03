"""What a medium is made of: clips, the specs of their latents, encoders, conditions, known regions.

`interfaces.py` has the protocols of what a plugin brings.
"""
