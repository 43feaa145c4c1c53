"""Arrays in, findings out - discrimination, calibration, operating point, subgroups, intervals, judgement; nothing about fitting or storage."""
