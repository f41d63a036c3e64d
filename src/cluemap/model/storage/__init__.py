"""Networks as files: checkpoints, trained models, exported programs, released weights."""
