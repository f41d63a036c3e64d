"""The method's maths as pure functions: clues, affinity, CAMs, losses, pseudo masks."""
