"""What is made of a map that is written: smoothed maps and vectors."""
