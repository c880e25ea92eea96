"""What client and gateway say to each other: frames, codes, codecs. A leaf: imports nothing of pushwire's.

The contract is PROTOCOL.md beside this package.
"""
