"""The run store and the model registry: everything that talks to MLflow or knows where it is."""
