"""Splits, estimators, calibration, and safe saving and loading of what was learnt; nothing about judging it."""
