"""Intravascular OCT frames by the physics of light, in numbered styles; start reading at frame.py.

The kind "oct" (models/phantom/frame.py) goes when the shipped weights have learnt these instead.
"""
