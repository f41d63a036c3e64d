"""The search for good params: the study, its trials, what it found. Runs the stage scripts, never their insides."""
