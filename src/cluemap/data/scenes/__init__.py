"""A user's own region: Sentinel-2 imagery and labels as described by a scene.yaml (docs/data/scene.md)."""
