"""Readers of publishers' archives, their replay calendar, download and simulated cohorts; nothing about models or storage."""
