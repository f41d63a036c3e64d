"""Many pipelines at once: ablations, and what tuning needs of them. They run the stage scripts, never their insides."""
