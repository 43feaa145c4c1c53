"""Pseudonyms, signatures and incidents; nothing about statistics or models' insides."""
