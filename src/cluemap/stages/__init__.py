"""The work behind each stage script, and what all stages share (stage.py)."""
