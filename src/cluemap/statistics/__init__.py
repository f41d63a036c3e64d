"""Statistics on finished maps: areas and accuracies with confidence intervals, calibration, what to label next."""
