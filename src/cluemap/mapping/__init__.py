"""Maps of whole scenes: a trained segmenter in, a georeferenced crop map with its tables and pictures out."""
