"""Readers of publishers' archives, their replay calendar, download and simulated cohorts.

Nothing about models or storage.
"""
