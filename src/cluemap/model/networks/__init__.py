"""The networks: transformer blocks, the temporal encoder, the classifier, the segmenters."""
