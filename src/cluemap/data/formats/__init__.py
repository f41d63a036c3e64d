"""Published data sets as they lie on disk: PASTIS, PASTIS24, Germany (MTLCC), and their file formats."""
